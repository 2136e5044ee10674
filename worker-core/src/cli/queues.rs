//! `queues`: how much waits, runs, and lies dead in each queue.

mod screen;

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use self::screen::Screen;
use crate::{
    broker::{QueueStats, Scheduled},
    cli::{
        args::duration,
        broker::{Missing, inspector_of, known_queues, with_client},
        exit,
        fail::Fail,
        out::{Out, count, hint, say},
        signals::Signals,
        table::{Column, Table},
    },
    client::Client,
    config::Settings,
    name::QueueName,
    registry::Registry,
    time::Timestamp,
};

/// Show how many jobs wait, run and lie dead in each queue
#[derive(Debug, Args)]
#[command(after_help = r#"Columns:
  READY      due, and waiting for a worker
  RUNNING    held by a worker: running, or about to
  DELAYED    not due yet: enqueued for later, or waiting for a retry
  RETRYING   those that failed before; on RabbitMQ as far as they wait in
             queues of their own, the others are scheduled with the rest
  DEAD       in the dead-letter queue, kept until replayed or dropped
  CONSUMERS  workers that serve the queue now
  -          the broker cannot tell

Examples:
  myapp queues --watch                    in place, every 2 seconds
  myapp queues --queue orders --watch 10s --json | tee orders.jsonl

JSON:
  {"at_ms", "queues": [{"queue", "ready", "running", "delayed", "retrying",
   "dead", "consumers"}], "scheduled": {"namespace", "jobs"} or null}; with
  --watch one line each time; running, delayed and retrying are null where
  the broker cannot tell; dates are milliseconds since 1970-01-01 UTC"#)]
pub(super) struct QueuesArgs {
    /// Only this queue; can be given several times
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<QueueName>,
    /// Again and again, until Ctrl-C: on a terminal in place, otherwise one below the other
    /// [default: 2s where only `--watch` is written]
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = pause)]
    watch: Option<Duration>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The shortest pause between two looks: each asks the broker for every queue.
const PAUSE_MIN: Duration = Duration::from_millis(100);

fn pause(text: &str) -> Result<Duration, String> {
    let every = duration(text)?;
    if every < PAUSE_MIN { Err("use 100ms or more".into()) } else { Ok(every) }
}

#[derive(Serialize)]
struct Document {
    at_ms: Timestamp,
    queues: Vec<QueueStats>,
    scheduled: Option<Scheduled>,
}

impl Document {
    /// What is below the table: the jobs that wait for a date, where they are not counted by queue.
    fn scheduled_line(&self) -> Option<String> {
        let Scheduled { namespace, jobs, .. } = self.scheduled.as_ref()?;
        Some(format!("{} scheduled in `{namespace}`, for all queues together\n", count(*jobs, "job")))
    }
}

pub(super) async fn queues(
    args: &QueuesArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let known = if args.queues.is_empty() { known_queues(settings, registry) } else { args.queues.clone() };
    let look = async |client: &Client| look(args, client, registry, &known).await;
    let Some(every) = args.watch else {
        let document = with_client(settings, Missing::Refuse, look).await?;
        return show(args, &document, name, out);
    };
    let signals = Signals::listen().map_err(|error| Fail::new(exit::FAILURE, format_args!("signals: {error}")))?;
    with_client(settings, Missing::Refuse, async |client: &Client| {
        let mut screen = Screen::new(out, args.json);
        screen.show(&look(client).await?)?;
        loop {
            tokio::select! {
                biased;
                _ = signals.nth(1) => return Ok(exit::OK),
                () = sleep(every) => {}
            }
            let looked = tokio::select! {
                biased;
                _ = signals.nth(1) => return Ok(exit::OK),
                looked = look(client) => looked,
            };
            match looked {
                Ok(document) => screen.show(&document)?,
                // It may come back, and whoever watches wants to see it.
                Err(fail) => screen.fail(&fail),
            }
        }
    })
    .await
}

async fn look(args: &QueuesArgs, client: &Client, registry: &Registry, known: &[QueueName]) -> Result<Document, Fail> {
    let inspector = inspector_of(client, registry)?;
    let mut queues = inspector.queues(known).await?;
    let scheduled = inspector.scheduled().await?;
    if !args.queues.is_empty() {
        queues.retain(|stats| args.queues.contains(&stats.queue));
    }
    for stats in queues.iter_mut().filter(|stats| stats.retrying.is_none()) {
        stats.retrying = inspector.retrying(&stats.queue).await?;
    }
    Ok(Document { at_ms: client.clock().now(), queues, scheduled })
}

/// Shows it once, with what could be done.
fn show(args: &QueuesArgs, document: &Document, name: &str, out: Out) -> Result<u8, Fail> {
    let absent: Vec<_> =
        args.queues.iter().filter(|queue| !document.queues.iter().any(|stats| stats.queue == **queue)).collect();
    if args.json {
        out.json(document)?;
    } else {
        if document.queues.is_empty() && args.queues.is_empty() {
            say(format_args!("there is no queue yet: `{name} run` and `{name} enqueue` create them"));
        }
        out.table(&table(&document.queues))?;
        if let Some(line) = document.scheduled_line() {
            out.text(&line)?;
        }
    }
    if let [first, ..] = &*absent {
        let message = match &*absent {
            [_] => format!("there is no queue `{first}`"),
            absent => {
                let names: Vec<_> = absent.iter().map(|queue| format!("`{queue}`")).collect();
                format!("there are no queues {}", names.join(", "))
            }
        };
        return Err(Fail::new(exit::NOTHING_MATCHED, message));
    }
    if args.json {
        return Ok(exit::OK);
    }
    let dead: u64 = document.queues.iter().map(|queue| queue.dead).sum();
    if dead > 0 {
        hint(format_args!("`{name} dlq list` shows why {} failed for good", count(dead, "job")));
    }
    let unserved = document.queues.iter().filter(|queue| queue.ready > 0 && queue.consumers == 0).count();
    if unserved > 0 {
        hint(format_args!("jobs wait and no worker serves them: `{name} run`"));
    }
    Ok(exit::OK)
}

fn table(queues: &[QueueStats]) -> Table {
    let mut table = Table::new([
        Column::text("QUEUE"),
        Column::number("READY"),
        Column::number("RUNNING"),
        Column::number("DELAYED"),
        Column::number("RETRYING"),
        Column::number("DEAD"),
        Column::number("CONSUMERS"),
    ]);
    for queue in queues {
        let (ready, dead, consumers) = (Some(queue.ready), Some(queue.dead), Some(queue.consumers));
        let numbers = [ready, queue.running, queue.delayed, queue.retrying, dead, consumers];
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([queue.queue.to_string()].into_iter().chain(numbers.map(shown)));
    }
    table
}
