//! P8: what a worker process takes, with and without work.

use std::time::Duration;

use tokio::time::sleep;
use worker_core::Client;

use crate::{
    child::{Child, Role},
    jobs::{Hold, Ring},
    measure::{Goal, Line, Sample, Unit},
    ours::{self, Kind, Site},
    stage::{Contest, Stage},
};

const OURS: &str = "framework";

pub(crate) async fn cost(stage: &Stage) -> Vec<Line> {
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        let (jobs, held) = (stage.jobs(100_000, 1_000), stage.jobs(10_000, 100));
        let idle = Duration::from_secs(stage.jobs(20, 1));
        let contest = Contest::new(stage, "P8");
        let contest = contest.side(OURS, async || {
            let cpu = busy(stage, kind, jobs).await;
            let (share, memory) = watched(stage, kind, idle).await;
            vec![cpu, share, memory, full(stage, kind, held).await].into_iter().map(Sample::plain).collect()
        });
        let results = contest.run().await;
        let line = |n: usize, what: &str, unit, goal| {
            Line::new(format!("{}, {what}", kind.name()), unit, goal, results.of(OURS, n))
        };
        let idle_most = if kind == Kind::RabbitMq { 25.0 } else { 15.0 };
        lines.push(line(0, "processor time per 100,000 no-op jobs", Unit::Seconds, Goal::AtMost(2.0)));
        lines.push(line(1, "idle worker, of a core", Unit::Percent, Goal::AtMost(0.1)));
        lines.push(line(2, "idle worker, memory", Unit::Megabytes, Goal::AtMost(idle_most)));
        lines.push(line(3, "10,000 jobs in flight, memory", Unit::Megabytes, Goal::AtMost(80.0)));
    }
    lines
}

/// Seconds per 100,000 jobs that wait already, from the process's start to the last settlement.
async fn busy(stage: &Stage, kind: Kind, jobs: u64) -> f64 {
    let site = Site::new(stage, kind).await;
    ours::enqueue_all(&site.client, 0..jobs).await;
    let mut child = Child::start(&site.url, Role::Drain { jobs, prefetch: 256 });
    child.hear().await;
    let time = child.time();
    child.end().await;
    site.close().await;
    time.as_secs_f64() * 1e5 / jobs as f64
}

/// What an idle one takes: percent of a core, and megabytes.
async fn watched(stage: &Stage, kind: Kind, idle: Duration) -> (f64, f64) {
    let site = Site::new(stage, kind).await;
    let mut child = Child::start(&site.url, Role::Ring);
    site.client.enqueue(Ring {}).await.unwrap();
    child.hear().await;
    // Until what the start has begun is over.
    sleep(Duration::from_secs(stage.jobs(2, 0))).await;
    let before = child.time_of_threads();
    sleep(idle).await;
    let used = child.time_of_threads().saturating_sub(before);
    let memory = child.memory();
    child.end().await;
    site.close().await;
    (100.0 * used.as_secs_f64() / idle.as_secs_f64(), memory)
}

/// Megabytes with so many jobs in flight.
async fn full(stage: &Stage, kind: Kind, jobs: u64) -> f64 {
    let site = Site::new(stage, kind).await;
    hold(&site.client, jobs).await;
    let mut child = Child::start(&site.url, Role::Hold(jobs));
    child.hear().await;
    let memory = child.memory();
    child.end().await;
    site.close().await;
    memory
}

async fn hold(client: &Client, jobs: u64) {
    for answer in client.enqueue_all((0..jobs).map(|_| Hold {})).await {
        answer.unwrap();
    }
}
