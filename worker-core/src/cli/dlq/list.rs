//! `dlq list`: which jobs failed for good, and why.

use std::ops::ControlFlow;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Desk, Filter,
    scan::{Group, each, groups, job_text},
};
use crate::{
    broker::DeadJob,
    cli::{
        exit,
        fail::Fail,
        out::{age, count, hint, say},
        table::{Column, Table},
    },
    id::JobId,
    name::{JobName, QueueName},
    outcome::FailureKind,
    time::Timestamp,
};

/// List the jobs that failed for good, oldest first
#[derive(Debug, Args)]
#[command(after_help = r#"Columns:
  KIND      how it failed; --kind selects by it
  ATTEMPTS  executions that failed, the last one included
  AGE       how long it has been dead

Examples:
  myapp dlq list --job send_welcome
  myapp dlq list --group-by kind

JSON:
  {"total", "jobs": [{"id", "job": name or null, "queue", "kind", "error",
   "attempts", "starts", "died_at_ms", "enqueued_at_ms", "priority"}]}
  --group-by: {"total", "groups": [{"by", "value", "dead", "first_died_at_ms",
   "last_died_at_ms"}]}
  Dates are milliseconds since 1970-01-01 UTC."#)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// List at most this many jobs
    #[arg(long, value_name = "JOBS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Count them by what they have in common instead
    #[arg(long, value_name = "WHAT", conflicts_with = "limit")]
    group_by: Option<GroupBy>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) const fn queue(&self) -> Option<&QueueName> {
        self.filter.queue.as_ref()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum GroupBy {
    Job,
    Kind,
    Queue,
}

#[derive(Serialize)]
struct Document {
    total: u64,
    jobs: Vec<Row>,
}

/// A dead job without its payload.
#[derive(Serialize)]
struct Row {
    id: JobId,
    job: Option<JobName>,
    queue: QueueName,
    kind: FailureKind,
    error: String,
    attempts: u32,
    starts: u32,
    died_at_ms: Timestamp,
    enqueued_at_ms: Timestamp,
    priority: u8,
}

#[derive(Serialize)]
struct GroupedDocument {
    total: u64,
    groups: Vec<GroupRow>,
}

#[derive(Serialize)]
struct GroupRow {
    by: GroupBy,
    value: String,
    dead: u64,
    first_died_at_ms: Timestamp,
    last_died_at_ms: Timestamp,
}

pub(super) async fn list(args: &ListArgs, desk: &Desk<'_>) -> Result<u8, Fail> {
    if let Some(by) = args.group_by {
        return grouped(args, by, desk).await;
    }
    let selection = args.filter.selection(desk);
    let total = desk.inspector.count_dead(&selection).await?;
    let mut rows = Vec::new();
    each(&*desk.inspector, &selection, |job| {
        rows.push(row(job));
        if rows.len() as u64 >= args.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    if args.json {
        desk.out.json(&Document { total, jobs: rows })?;
        return Ok(exit::OK);
    }
    if rows.is_empty() {
        say(format_args!("no dead jobs{}", if args.filter.is_empty() { "" } else { " match" }));
    }
    let mut table = Table::new([
        Column::text("ID"),
        Column::text("JOB"),
        Column::text("QUEUE"),
        Column::text("KIND"),
        Column::number("ATTEMPTS"),
        Column::number("AGE"),
        Column::rest("ERROR"),
    ]);
    let (shown, first) = (rows.len() as u64, rows.first().map(|row| row.id.clone()));
    for row in rows {
        table.row([
            row.id.to_string(),
            row.job.map_or_else(|| "(none)".into(), |job| job.to_string()),
            row.queue.to_string(),
            row.kind.to_string(),
            row.attempts.to_string(),
            age(desk.now.since(row.died_at_ms)),
            row.error,
        ]);
    }
    desk.out.table(&table)?;
    let (name, flags) = (desk.name, args.filter.flags());
    if total > shown {
        let more = count(total - shown, "more dead job");
        say(format_args!("{more}: `{name} dlq list{flags} --limit {total}` lists all, `--group-by kind` counts them"));
    } else if let Some(id) = first {
        let which = if flags.is_empty() { " --all" } else { &flags };
        hint(format_args!("`{name} dlq show {id}` shows everything about the first"));
        hint(format_args!("`{name} dlq replay{which} --dry-run` shows what a replay would run again"));
    }
    Ok(exit::OK)
}

fn row(dead: DeadJob) -> Row {
    Row {
        id: dead.id,
        job: dead.job,
        queue: dead.queue,
        kind: dead.failure.kind,
        error: dead.failure.message,
        attempts: dead.attempts,
        starts: dead.starts,
        died_at_ms: dead.died_at,
        enqueued_at_ms: dead.enqueued_at,
        priority: dead.priority.level(),
    }
}

async fn grouped(args: &ListArgs, by: GroupBy, desk: &Desk<'_>) -> Result<u8, Fail> {
    let key = |job: &DeadJob| match by {
        GroupBy::Job => job_text(job),
        GroupBy::Kind => job.failure.kind.to_string(),
        GroupBy::Queue => job.queue.to_string(),
    };
    let groups = groups(&*desk.inspector, &args.filter.selection(desk), key).await?;
    let total = groups.iter().map(|(_, group)| group.dead).sum();
    if args.json {
        let row = |(value, group): (String, Group)| {
            let (first_died_at_ms, last_died_at_ms) = (group.first_died_at, group.last_died_at);
            GroupRow { by, value, dead: group.dead, first_died_at_ms, last_died_at_ms }
        };
        desk.out.json(&GroupedDocument { total, groups: groups.into_iter().map(row).collect() })?;
        return Ok(exit::OK);
    }
    let title = match by {
        GroupBy::Job => "JOB",
        GroupBy::Kind => "KIND",
        GroupBy::Queue => "QUEUE",
    };
    let mut table =
        Table::new([Column::text(title), Column::number("DEAD"), Column::number("FIRST"), Column::number("LAST")]);
    for (value, group) in groups {
        let ago = |date: Timestamp| format!("{} ago", age(desk.now.since(date)));
        table.row([value, group.dead.to_string(), ago(group.first_died_at), ago(group.last_died_at)]);
    }
    desk.out.table(&table)?;
    Ok(exit::OK)
}
