//! `queues`: how much waits, runs, and lies dead in each queue.

use clap::Args;
use serde::Serialize;

use crate::{
    broker::QueueStats,
    cli::{
        broker::{Missing, inspector, known_queues, with_client},
        exit,
        fail::Fail,
        out::{Out, count, hint, say},
        table::{Column, Table},
    },
    client::Client,
    config::Settings,
    registry::Registry,
};

/// Show how many jobs wait, run and lie dead in each queue
#[derive(Debug, Args)]
#[command(after_help = r#"Columns:
  READY      due, and waiting for a worker
  RUNNING    held by a worker: running, or about to
  DELAYED    not due yet: enqueued for later, or waiting for a retry
  DEAD       in the dead-letter queue, kept until replayed or dropped
  CONSUMERS  workers that serve the queue now
  -          the broker cannot tell

JSON:
  {"queues": [{"queue", "ready", "running", "delayed", "dead", "consumers"}]}
  running and delayed are null where the broker cannot tell"#)]
pub(super) struct QueuesArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    queues: Vec<QueueStats>,
}

pub(super) async fn queues(
    args: &QueuesArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let known = known_queues(settings, registry);
    let look = async |client: &Client| Ok(inspector(client)?.queues(&known).await?);
    let queues = with_client(settings, Missing::Refuse, look).await?;
    if args.json {
        out.json(&Document { queues })?;
        return Ok(exit::OK);
    }
    if queues.is_empty() {
        say(format_args!("there is no queue yet: `{name} run` and `{name} enqueue` create them"));
    }
    let mut table = Table::new([
        Column::text("QUEUE"),
        Column::number("READY"),
        Column::number("RUNNING"),
        Column::number("DELAYED"),
        Column::number("DEAD"),
        Column::number("CONSUMERS"),
    ]);
    for queue in &queues {
        let (ready, dead, consumers) = (Some(queue.ready), Some(queue.dead), Some(queue.consumers));
        let numbers = [ready, queue.running, queue.delayed, dead, consumers];
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([queue.queue.to_string()].into_iter().chain(numbers.map(shown)));
    }
    out.table(&table)?;
    let dead: u64 = queues.iter().map(|queue| queue.dead).sum();
    if dead > 0 {
        hint(format_args!("`{name} dlq list` shows why {} failed for good", count(dead, "job")));
    }
    let unserved = queues.iter().filter(|queue| queue.ready > 0 && queue.consumers == 0).count();
    if unserved > 0 {
        hint(format_args!("jobs wait and no worker serves them: `{name} run`"));
    }
    Ok(exit::OK)
}
