//! `dlq show`: everything that is known about a dead job.

use std::{collections::HashSet, ops::ControlFlow};

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Desk, scan::each};
use crate::{
    broker::{DeadJob, Selection},
    cli::{
        exit,
        fail::Fail,
        out::{age, escape, escape_json, escape_lines, hint, say},
        pretty::indented,
    },
    envelope::Headers,
    id::JobId,
    name::{JobName, QueueName},
    outcome::FailureKind,
    time::Timestamp,
};

/// Where the values begin.
const INDENT: usize = 13;

/// Show everything about dead jobs: error, payload, headers, dates
#[derive(Debug, Args)]
#[command(after_help = r#"JSON:
  {"jobs": [{"id", "job": name or null, "queue", "kind", "error", "attempts",
   "starts", "died_at_ms", "enqueued_at_ms", "priority", "headers": {},
   "payload_bytes", "payload": JSON or null, "payload_text": text or null}]}
  A payload that is no JSON is in payload_text. Dates are milliseconds since
  1970-01-01 UTC."#)]
pub(super) struct ShowArgs {
    /// Which, as `dlq list` has them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<JobId>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    jobs: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a JobId,
    job: Option<&'a JobName>,
    queue: &'a QueueName,
    kind: FailureKind,
    error: &'a str,
    attempts: u32,
    starts: u32,
    died_at_ms: Timestamp,
    enqueued_at_ms: Timestamp,
    priority: u8,
    headers: &'a Headers,
    payload_bytes: usize,
    payload: Option<&'a RawValue>,
    payload_text: Option<String>,
}

pub(super) async fn show(args: &ShowArgs, desk: &Desk<'_>) -> Result<u8, Fail> {
    let selection = Selection { ids: args.ids.clone(), known: desk.known.clone(), ..Selection::default() };
    let mut jobs = Vec::new();
    each(&*desk.inspector, &selection, |job| {
        jobs.push(job);
        ControlFlow::Continue(())
    })
    .await?;
    if args.json {
        desk.out.json(&Document { jobs: jobs.iter().map(row).collect() })?;
    } else {
        let texts: Vec<_> = jobs.iter().map(|job| text(job, desk.now)).collect();
        desk.out.text(&texts.join("\n"))?;
    }
    let found: HashSet<_> = jobs.iter().map(|job| &job.id).collect();
    let missing: Vec<_> = args.ids.iter().filter(|id| !found.contains(id)).collect();
    for id in &missing {
        say(format_args!("no dead job has the id `{id}`"));
    }
    if let Some(job) = jobs.first().filter(|_| !args.json) {
        hint(format_args!(
            "`{name} dlq replay {id}` runs it again, `{name} dlq drop {id}` drops it",
            name = desk.name,
            id = job.id
        ));
    }
    Ok(if missing.is_empty() { exit::OK } else { exit::NOTHING_MATCHED })
}

fn row(dead: &DeadJob) -> Row<'_> {
    let payload = serde_json::from_slice(&dead.body.0).ok();
    let payload_text = payload.is_none().then(|| String::from_utf8_lossy(&dead.body.0).into_owned());
    Row {
        id: &dead.id,
        job: dead.job.as_ref(),
        queue: &dead.queue,
        kind: dead.failure.kind,
        error: &dead.failure.message,
        attempts: dead.attempts,
        starts: dead.starts,
        died_at_ms: dead.died_at,
        enqueued_at_ms: dead.enqueued_at,
        priority: dead.priority.level(),
        headers: &dead.headers,
        payload_bytes: dead.body.0.len(),
        payload,
        payload_text,
    }
}

/// A name and its value on each line; what has several lines is indented.
fn text(dead: &DeadJob, now: Timestamp) -> String {
    let ago = |date: Timestamp| format!("{date} ({} ago)", age(now.since(date)));
    let mut lines = vec![
        ("id", dead.id.to_string()),
        ("job", super::scan::job_text(dead)),
        ("queue", dead.queue.to_string()),
        ("kind", dead.failure.kind.to_string()),
        ("error", escape_lines(&dead.failure.message).into_owned()),
        ("attempts", dead.attempts.to_string()),
    ];
    if dead.starts > 0 {
        lines.push(("starts", format!("{} that never ended", dead.starts)));
    }
    lines.extend([
        ("died at", ago(dead.died_at)),
        ("enqueued at", ago(dead.enqueued_at)),
        ("priority", dead.priority.to_string()),
    ]);
    if !dead.headers.is_empty() {
        let header = |(name, value): (&str, &serde_json::Value)| {
            format!("{}: {}", escape(name), escape_json(&value.to_string()))
        };
        lines.push(("headers", dead.headers.iter().map(header).collect::<Vec<_>>().join("\n")));
    }
    lines.push(("payload", payload_text(&dead.body.0)));
    let line = |(name, value): (&str, String)| {
        let value = value.replace('\n', &format!("\n{:INDENT$}", ""));
        format!("{name:INDENT$}{value}\n")
    };
    lines.into_iter().map(line).collect()
}

/// The payload, one way or another.
fn payload_text(body: &[u8]) -> String {
    match serde_json::from_slice::<&RawValue>(body) {
        Ok(json) => escape_json(&indented(json.get())).into_owned(),
        Err(_) if body.is_empty() => "(empty)".into(),
        Err(_) => format!("({} bytes, not JSON) {}", body.len(), escape_lines(&String::from_utf8_lossy(body))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Body, Priority},
        outcome::Failure,
        time::minutes,
    };

    fn dead(body: &'static [u8]) -> DeadJob {
        let mut headers = Headers::default();
        headers.insert("tenant", "a\u{9b}b");
        DeadJob {
            id: "order-1".parse().unwrap(),
            queue: "orders".parse().unwrap(),
            job: None,
            attempts: 4,
            starts: 1,
            failure: Failure::new(FailureKind::Error, "first\nsecond \u{1b}[31m"),
            died_at: Timestamp::from_unix_ms(1_700_000_000_000),
            enqueued_at: Timestamp::from_unix_ms(1_700_000_000_000),
            priority: Priority::DEFAULT,
            headers,
            body: Body(body.into()),
        }
    }

    #[test]
    fn everything_is_shown_and_nothing_acts_on_the_terminal() {
        let job = dead(br#"{"id":12345678901234567890,"note":"x"}"#);
        let now = job.died_at + minutes(5);
        assert_eq!(
            text(&job, now),
            "id           order-1\n\
             job          (none)\n\
             queue        orders\n\
             kind         error\n\
             error        first\n             second \\u{1b}[31m\n\
             attempts     4\n\
             starts       1 that never ended\n\
             died at      2023-11-14T22:13:20.000Z (5m ago)\n\
             enqueued at  2023-11-14T22:13:20.000Z (5m ago)\n\
             priority     4\n\
             headers      tenant: \"a\\u009bb\"\n\
             payload      {\n               \"id\": 12345678901234567890,\n               \"note\": \"x\"\n             }\n"
        );
    }

    #[test]
    fn a_payload_that_is_no_json_is_shown_as_what_it_is() {
        assert_eq!(payload_text(b"a\x00\xffb"), "(4 bytes, not JSON) a\\u{0}\u{fffd}b");
        assert_eq!(payload_text(b""), "(empty)");
        let job = dead(b"\xff");
        let json = serde_json::to_value(row(&job)).unwrap();
        assert_eq!((json["payload"].is_null(), json["payload_text"].as_str()), (true, Some("\u{fffd}")));
    }
}
