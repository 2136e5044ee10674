//! `jobs`: which job types this program has, and how each is called and retried.

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        exit,
        fail::Fail,
        out::{Out, say},
        table::{Column, Table},
    },
    envelope::Priority,
    exchange::ExchangeKind,
    handler::Arguments,
    name::ExchangeName,
    queue::QueueType,
    registry::{Entry, Listening, Registry},
};

/// Show the job types of this program
#[derive(Debug, Args)]
#[command(after_help = r#"An argument in brackets can be left out. In a pipe, and with --json, there is
more: the pauses between retries, priority, concurrency, what is asked of the
queue, aliases, the exchange that the job runs for, and the first line of the
documentation.

JSON:
  {"jobs": [{"job", "queue", "summary", "arguments": {"named": [{"name", "type",
   "required"}]} or {"whole": type}, "max_retries", "backoff_base_ms",
   "backoff_cap_ms", "timeout_ms", "priority", "concurrency": number or null,
   "bundle": number, "shards": number, "queue_type", "max_priority",
   "dead_letter_queue", "dead_letter_ttl_ms": what the queue is declared with,
   or null,
   "aliases": [name], "on": {"exchange", "kind", "keys": [key]} or null,
   "blocking", "file", "line"}]}"#)]
pub(super) struct JobsArgs {
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
    job: &'a str,
    queue: &'a str,
    summary: &'static str,
    arguments: Arguments,
    max_retries: u32,
    backoff_base_ms: u64,
    backoff_cap_ms: u64,
    timeout_ms: u64,
    priority: u8,
    concurrency: Option<usize>,
    bundle: u16,
    shards: u8,
    queue_type: Option<QueueType>,
    max_priority: Option<u8>,
    dead_letter_queue: Option<&'static str>,
    dead_letter_ttl_ms: Option<u64>,
    aliases: &'static [&'static str],
    on: Option<On<'a>>,
    blocking: bool,
    file: &'static str,
    line: u32,
}

#[derive(Serialize)]
struct On<'a> {
    exchange: &'a ExchangeName,
    kind: ExchangeKind,
    keys: &'a [String],
}

pub(super) fn jobs(args: &JobsArgs, registry: &Registry, out: Out) -> Result<u8, Fail> {
    let mut rows: Vec<_> = registry.entries().map(row).collect();
    rows.sort_by_key(|row| row.job);
    if args.json {
        out.json(&Document { jobs: rows })?;
    } else {
        if rows.is_empty() {
            say(format_args!(
                "no job is registered; jobs in a library crate need one mention, `use my_jobs as _;`, or the linker leaves them out"
            ));
        }
        out.table(&if out.is_terminal() { short(&rows) } else { long(&rows) })?;
    }
    let problems = registry.own_problems();
    if problems.is_empty() {
        return Ok(exit::OK);
    }
    Err(Fail::new(exit::CONFIG, problems.join("\n  ")))
}

fn row(entry: &Entry) -> Row<'_> {
    let Entry { name, queue, registration, on, .. } = entry;
    let (options, ms) = (&registration.options, |time: std::time::Duration| time.as_millis().try_into());
    Row {
        job: name.as_str(),
        queue: queue.as_str(),
        summary: registration.summary,
        arguments: registration.arguments,
        max_retries: options.retry.max_retries(),
        backoff_base_ms: ms(options.retry.base()).unwrap_or(u64::MAX),
        backoff_cap_ms: ms(options.retry.cap()).unwrap_or(u64::MAX),
        timeout_ms: ms(options.timeout).unwrap_or(u64::MAX),
        priority: options.priority.level(),
        concurrency: options.concurrency.map(std::num::NonZeroUsize::get),
        bundle: options.bundle.map_or(1, std::num::NonZeroU16::get),
        shards: options.shards.map_or(1, std::num::NonZeroU8::get),
        queue_type: options.queue_type,
        max_priority: options.max_priority.map(Priority::level),
        dead_letter_queue: options.dead_letter_queue,
        dead_letter_ttl_ms: options.dead_letter_ttl.map(|ttl| ms(ttl).unwrap_or(u64::MAX)),
        aliases: options.aliases,
        on: on.as_ref().map(|Listening { exchange, keys }| On { exchange: &exchange.name, kind: exchange.kind, keys }),
        blocking: registration.blocking,
        file: registration.file,
        line: registration.line,
    }
}

/// What fits on a terminal.
fn short(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new([
        Column::text("JOB"),
        Column::text("QUEUE"),
        Column::number("RETRIES"),
        Column::text("TIMEOUT"),
        Column::text("DEFINED AT"),
        Column::last("ARGUMENTS"),
    ]);
    for row in rows {
        table.row([
            row.job.into(),
            row.queue.into(),
            row.max_retries.to_string(),
            time(row.timeout_ms),
            format!("{}:{}", row.file, row.line),
            arguments_text(&row.arguments),
        ]);
    }
    table
}

/// Everything, for a program.
fn long(rows: &[Row<'_>]) -> Table {
    let titles = [
        "JOB",
        "QUEUE",
        "ARGUMENTS",
        "RETRIES",
        "BACKOFF",
        "TIMEOUT",
        "PRIORITY",
        "CONCURRENCY",
        "BUNDLE",
        "SHARDS",
        "QUEUE OPTIONS",
        "ALIASES",
        "ON",
        "BLOCKING",
        "DEFINED AT",
        "SUMMARY",
    ];
    let mut table = Table::new(titles.map(Column::text));
    for row in rows {
        table.row([
            row.job.into(),
            row.queue.into(),
            arguments_text(&row.arguments),
            row.max_retries.to_string(),
            format!("{}..{}", time(row.backoff_base_ms), time(row.backoff_cap_ms)),
            time(row.timeout_ms),
            row.priority.to_string(),
            row.concurrency.map(|most| most.to_string()).unwrap_or_default(),
            row.bundle.to_string(),
            row.shards.to_string(),
            queue_options(row),
            row.aliases.join(","),
            row.on
                .as_ref()
                .map(|on| format!("{} {} {}", on.kind, on.exchange, on.keys.join(",")).trim_end().into())
                .unwrap_or_default(),
            row.blocking.to_string(),
            format!("{}:{}", row.file, row.line),
            row.summary.into(),
        ]);
    }
    table
}

/// As they are written in `#[job]`, but for the shards.
fn queue_options(row: &Row<'_>) -> String {
    let asked = [
        row.queue_type.map(|queue_type| format!("queue_type={queue_type}")),
        row.max_priority.map(|highest| format!("max_priority={highest}")),
        row.dead_letter_queue.map(|name| format!("dead_letter_queue={name}")),
        row.dead_letter_ttl_ms.map(|ttl| format!("dead_letter_ttl={}", time(ttl).replace(' ', ""))),
    ];
    asked.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn time(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}

/// `user_id: u64, [note: Option<String>]`, or the type of the whole payload.
pub(super) fn arguments_text(arguments: &Arguments) -> String {
    let Arguments::Named(arguments) = arguments else {
        let Arguments::Whole(type_text) = arguments else { return String::new() };
        return format!("{type_text} (the whole payload)");
    };
    let one = |argument: &crate::Argument| {
        let text = format!("{}: {}", argument.name, argument.type_text);
        if argument.required { text } else { format!("[{text}]") }
    };
    arguments.iter().map(one).collect::<Vec<_>>().join(", ")
}
