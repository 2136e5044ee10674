//! `enqueue`: jobs from the command line, from a file, or from standard input.

mod arguments;
mod bulk;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod lines;
mod options;
#[cfg(any(test, feature = "fuzzing"))]
mod sample;
mod tally;

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        broker::{Missing, check, with_client},
        exit,
        fail::Fail,
        out::{Out, say},
    },
    client::Client,
    config::Settings,
    job::{InvalidJob, Prepared},
    registry::{Entry, Registry},
    suggest::did_you_mean,
};

/// Enqueue a job, or many
#[derive(Debug, Args)]
#[command(after_help = r#"The id of the job is printed once the job is durable. `key=value` is read as
the job's argument wants it: as text, or as JSON (`tags='["a","b"]'`).
`myapp jobs` shows the arguments.

With --file, each line is the JSON payload of one job. A regular file is
checked as a whole first, and when a line is wrong nothing is enqueued. From
standard input (`--file -`) jobs are enqueued as they come, up to the first
wrong line. Ctrl-C stops between two batches and says how many jobs are durable.

Examples:
  myapp enqueue send_welcome user_id=42 template=v2 --in 5m
  myapp enqueue send_welcome --json '{"user_id": 42, "template": "v2"}'
  myapp enqueue send_welcome --file jobs.ndjson
  jq -c '.users[]' users.json | myapp enqueue send_welcome --file -

JSON (--answers), one line for each job:
  {"line": number or null, "job", "queue", "id": text or null,
   "error": text or null}"#)]
pub(super) struct EnqueueArgs {
    /// The job's name
    job: String,
    /// The job's arguments
    #[arg(value_name = "KEY=VALUE", conflicts_with_all = ["json", "file"])]
    arguments: Vec<String>,
    /// The whole payload
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    json: Option<String>,
    /// Read payloads, one a line, from this file, or from standard input when it is `-`
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    file: Option<std::path::PathBuf>,
    /// Print the broker's answer for each job as a line of JSON
    #[arg(long)]
    answers: bool,
    #[command(flatten)]
    options: options::OptionArgs,
}

/// The answer for one job.
#[derive(Serialize)]
struct Answer<'a> {
    line: Option<u64>,
    job: &'a str,
    queue: &'a str,
    id: Option<String>,
    error: Option<String>,
}

pub(super) async fn enqueue(
    args: EnqueueArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let entry = find(&args.job, registry)?;
    check(settings, Missing::Create)?;
    if let Some(file) = &args.file {
        let order = bulk::Order { entry, file, options: &args.options, answers: args.answers, name };
        return bulk::enqueue(&order, settings, out).await;
    }
    let body = match &args.json {
        Some(json) => arguments::checked(entry, json.as_bytes().to_vec()).inspect(|body| {
            if let Some(note) = arguments::ignored(entry, body) {
                say(format_args!("note: {note}"));
            }
        }),
        None => arguments::payload(entry, &args.arguments),
    };
    let body = body.map_err(|wrong| wrong.into_fail(entry))?;
    let job = prepared(entry, body, &args.options).map_err(Fail::usage)?;
    let enqueue = async |client: &Client| {
        if args.options.is_past(client.clock().now()) {
            say(format_args!("note: the date has passed, so the job is due at once"));
        }
        Ok(client.enqueue(job).await?)
    };
    let enqueued = with_client(settings, Missing::Create, enqueue).await?;
    let (job, queue) = (entry.name.as_str(), entry.queue.as_str());
    if args.answers {
        let id = Some(enqueued.id.to_string());
        out.json_line(&Answer { line: None, job, queue, id, error: None })?;
    } else {
        out.text(&format!("{}\n", enqueued.id))?;
    }
    if out.is_terminal() && !args.answers {
        say(format_args!("enqueued `{job}` on queue `{queue}`{}", args.options.when()));
    }
    Ok(exit::OK)
}

/// The job of this name.
fn find<'a>(name: &str, registry: &'a Registry) -> Result<&'a Arc<Entry>, Fail> {
    if let [first, ..] = registry.own_problems() {
        return Err(Fail::new(exit::CONFIG, first));
    }
    registry.find_by_name(name).ok_or_else(|| {
        let mut known: Vec<_> = registry.entries().map(|entry| entry.name.as_str()).collect();
        known.sort_unstable();
        let meant = did_you_mean(name, known.iter().copied());
        let fail = Fail::usage(format_args!("there is no job `{name}`{meant}"));
        match &*known {
            [] => fail.hint("no job is registered in this program; jobs in a library crate need one mention, `use my_jobs as _;`, or the linker leaves them out"),
            _ => fail.hint(format_args!("jobs: {}", known.join(", "))),
        }
    })
}

/// The job as it is handed to the client; an error is about the options.
fn prepared(entry: &Entry, body: Vec<u8>, options: &options::OptionArgs) -> Result<Prepared, InvalidJob> {
    let (name, queue) = (entry.name.clone(), entry.queue.clone());
    Prepared::from_json(name, queue, body.into(), &entry.registration.options, options.asked())
}
