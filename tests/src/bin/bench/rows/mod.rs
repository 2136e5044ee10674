//! The rows of the table, in the order of `--list`.

mod adaptive;
mod build;
mod cost;
mod flat;
mod latency;
mod mixed;
mod rabbit;
mod retries;
mod scale;
mod sqlite;

use futures_util::future::LocalBoxFuture;

use crate::{measure::Line, stage::Stage};

/// One row: one question, with one or more lines as its answer.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) measure: fn(&Stage) -> LocalBoxFuture<'_, Vec<Line>>,
}

macro_rules! row {
    ($id:literal, $title:literal, $measure:path) => {
        Row { id: $id, title: $title, measure: |stage| Box::pin($measure(stage)) }
    };
}

/// All of them.
pub(crate) const ROWS: [Row; 15] = [
    row!("P1", "process no-op jobs, RabbitMQ quorum queue, one worker", rabbit::process),
    row!("P2", "enqueue_all with confirms, RabbitMQ quorum queue", rabbit::enqueue_all),
    row!("P3", "256 tasks, each awaiting its enqueue, RabbitMQ quorum queue", rabbit::enqueue_from_tasks),
    row!("P4", "end to end at once, RabbitMQ quorum queue", rabbit::end_to_end),
    row!("P5", "latency from the enqueue's call to the handler's first line, idle system", latency::latency),
    row!("P6", "SQLite, synchronous=FULL", sqlite::throughput),
    row!("P7", "failing jobs: one retry each, then success, RabbitMQ", retries::retries),
    row!("P8", "processor time and memory of a worker process", cost::cost),
    row!("P9", "flat cost: queues, types, slots, waiting and delayed jobs", flat::flat),
    row!("P11", "what a hundred jobs cost to compile", build::hundred_jobs),
    row!("P12", "bundles: 100 jobs in one message, end to end", rabbit::bundles),
    row!("adaptive", "how many jobs a worker holds, left to it", adaptive::prefetch),
    row!("mixed", "latency of a fast queue beside a slow one", mixed::slow_and_fast),
    row!("fair", "fairness across 50 queues in one worker", mixed::fairness),
    row!("scale", "1, 2 and 4 worker processes on a queue of 1, 2 and 4 shards, one node and three", scale::out),
];
