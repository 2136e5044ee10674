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
        shards::{self, Former},
        signals::Signals,
        table::{Column, Table},
    },
    client::{Client, HEALTH_WAIT_DEFAULT, fill_running},
    config::Settings,
    name::QueueName,
    registry::Registry,
    time::Timestamp,
};

/// Show how many jobs wait, run and lie dead in each queue
#[derive(Debug, Args)]
#[command(after_help = r#"Columns:
  READY      due, and waiting for a worker
  RUNNING    held by a worker: running, or about to; on RabbitMQ where
             WORKER_RABBITMQ_MANAGEMENT_URL is set, and up to 5 s old
  DELAYED    not due yet: enqueued for later, or waiting for a retry
  RETRYING   those that failed before; on RabbitMQ as far as they wait in
             queues of their own, the others are scheduled with the rest
  DEAD       in the dead-letter queue, kept until replayed or dropped
  CONSUMERS  workers that serve the queue now, once for each shard of it
  -          the broker cannot tell

Examples:
  myapp queues --watch                    in place, every 2 seconds
  myapp queues --queue orders --watch 10s --json | tee orders.jsonl
  myapp queues --shards                   each shard of a queue by itself

JSON:
  {"at_ms", "queues": [{"queue", "ready", "running", "delayed", "retrying",
   "dead", "consumers", "shards": [the same of each shard, where there are
   several]}], "scheduled": {"namespace", "jobs"} or null,
   "remarks": [text]}; with --watch one line each time; running, delayed
  and retrying are null where the broker cannot tell; a remark says why one
  is not known that could be; dates are milliseconds since 1970-01-01 UTC"#)]
pub(super) struct QueuesArgs {
    /// Only this queue; can be given several times
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<QueueName>,
    /// Again and again, until Ctrl-C: on a terminal in place, otherwise one below the other
    /// [default: 2s where only `--watch` is written]
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = pause)]
    watch: Option<Duration>,
    /// Each shard by itself, also those that a queue had before it had fewer
    #[arg(long)]
    shards: bool,
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
    queues: Vec<Row>,
    scheduled: Option<Scheduled>,
    /// What is not known, and why.
    remarks: Vec<String>,
    /// Whether each shard has a line of its own in a table.
    #[serde(skip)]
    apart: bool,
}

impl Document {
    /// What is below the table while it is watched.
    fn below(&self) -> String {
        let remarks = self.remarks.iter().map(|remark| format!("note: {remark}\n"));
        self.scheduled_line().into_iter().chain(remarks).collect()
    }

    /// The jobs that wait for a date, where they are not counted by queue.
    fn scheduled_line(&self) -> Option<String> {
        let Scheduled { namespace, jobs, .. } = self.scheduled.as_ref()?;
        Some(format!("{} scheduled in `{namespace}`, for all queues together\n", count(*jobs, "job")))
    }
}

/// A queue of jobs.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    total: QueueStats,
    /// The queues that it is in the broker; empty where it is one.
    shards: Vec<QueueStats>,
}

impl Row {
    /// Whether it is `queue`, or has it as a shard.
    fn names(&self, queue: &QueueName) -> bool {
        self.total.queue == *queue || self.parts().iter().any(|part| part.queue == *queue)
    }

    /// The queues of the broker.
    fn parts(&self) -> &[QueueStats] {
        if self.shards.is_empty() { std::slice::from_ref(&self.total) } else { &self.shards }
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
    let former = if args.shards { Former::OfAll } else { Former::OfSharded };
    let inspector = inspector_of(client, registry)?;
    let mut found = shards::stats(client, &*inspector, registry, known, former).await?;
    let remark = fill_running(client, &mut found, HEALTH_WAIT_DEFAULT).await;
    for stats in found.iter_mut().filter(|stats| stats.retrying.is_none()) {
        stats.retrying = inspector.retrying(&stats.queue).await?;
    }
    let scheduled = inspector.scheduled().await?;
    let row = |(queue, shards): (QueueName, Vec<QueueStats>)| {
        let total = shards::sum(queue, &shards);
        let is_one = matches!(&*shards, [one] if one.queue == total.queue);
        Row { total, shards: if is_one { Vec::new() } else { shards } }
    };
    let mut queues: Vec<_> = shards::by_queue(found, &args.queues).into_iter().map(row).collect();
    if !args.queues.is_empty() {
        queues.retain(|row| args.queues.contains(&row.total.queue));
    }
    let (at_ms, remarks) = (client.clock().now(), remark.into_iter().collect());
    Ok(Document { at_ms, queues, scheduled, remarks, apart: args.shards })
}

/// Shows it once, with what could be done.
fn show(args: &QueuesArgs, document: &Document, name: &str, out: Out) -> Result<u8, Fail> {
    let absent: Vec<_> =
        args.queues.iter().filter(|queue| !document.queues.iter().any(|row| row.names(queue))).collect();
    if args.json {
        out.json(document)?;
    } else {
        if document.queues.is_empty() && args.queues.is_empty() {
            say(format_args!("there is no queue yet: `{name} topology apply`, `run` and `enqueue` create them"));
        }
        out.table(&table(document))?;
        if let Some(line) = document.scheduled_line() {
            out.text(&line)?;
        }
        document.remarks.iter().for_each(|remark| say(format_args!("note: {remark}")));
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
    let dead: u64 = document.queues.iter().map(|row| row.total.dead).sum();
    if dead > 0 {
        hint(format_args!("`{name} dlq list` shows why {} failed for good", count(dead, "job")));
    }
    let unserved =
        document.queues.iter().flat_map(Row::parts).filter(|queue| queue.ready > 0 && queue.consumers == 0).count();
    if unserved > 0 {
        hint(format_args!("jobs wait and no worker serves them: `{name} run`"));
    }
    Ok(exit::OK)
}

fn table(document: &Document) -> Table {
    let mut table = Table::new([
        Column::text("QUEUE"),
        Column::number("READY"),
        Column::number("RUNNING"),
        Column::number("DELAYED"),
        Column::number("RETRYING"),
        Column::number("DEAD"),
        Column::number("CONSUMERS"),
    ]);
    let lines = document
        .queues
        .iter()
        .flat_map(|row| if document.apart { row.parts() } else { std::slice::from_ref(&row.total) });
    for queue in lines {
        let (ready, dead, consumers) = (Some(queue.ready), Some(queue.dead), Some(queue.consumers));
        let numbers = [ready, queue.running, queue.delayed, queue.retrying, dead, consumers];
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([queue.queue.to_string()].into_iter().chain(numbers.map(shown)));
    }
    table
}
