//! Queues that share a worker: whether a slow one slows a fast one, and whether many are served alike.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};
use worker_core::{Job as _, QueueName, Registry, Worker};
use worker_tests::noop::Noop;

use super::latency::{percentiles, ring};
use crate::{
    jobs::{Gated, Ring, Slow, Told, none_of},
    measure::{Goal, Line, Sample, Unit},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Stage},
};

const ALONE: &str = "fast queue alone";
const BESIDE: &str = "beside a slow queue";
const OURS: &str = "framework";

/// Queues of the fairness row.
const QUEUES: usize = 50;

/// A slow queue whose jobs fill all slots that it may have, and a fast one that is rung.
pub(crate) async fn slow_and_fast(stage: &Stage) -> Vec<Line> {
    let rings = stage.jobs(500, 20) as usize;
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        let contest = Contest::new(stage, "mixed");
        let contest = contest.side(ALONE, async || mixed(stage, kind, rings, 0).await);
        let contest = contest.side(BESIDE, async || mixed(stage, kind, rings, stage.jobs(5_000, 200)).await);
        let results = contest.run().await;
        for (n, what) in [(0, "p50"), (1, "p99")] {
            let what = format!("{}, {what}", kind.name());
            // No goal was set; twice is where a user would see it.
            let line = Line::new(what, Unit::Milliseconds, Goal::RatioAtMost(2.0), results.of(BESIDE, n));
            lines.push(results.beside(line, ALONE, n));
        }
    }
    lines
}

async fn mixed(stage: &Stage, kind: Kind, rings: usize, slow: u64) -> Vec<Sample> {
    let site = Site::new(stage, kind).await;
    for answer in site.client.enqueue_all((0..slow).map(|_| Slow { millis: 50 })).await {
        answer.unwrap();
    }
    let (told, mut heard) = mpsc::channel::<Instant>(1);
    let registry = Registry::new().with::<Ring>().with::<Slow>();
    let worker = Worker::builder(&site.client).registry(registry).state(Told(told));
    // As the guide has it: the slow queue may not have all slots.
    let worker = worker.concurrency(16).queue_concurrency("slow", 8).build().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut working = JoinSet::new();
    working.spawn(worker.run(async { drop(stopped.await) }));
    ring(&site.client, &mut heard, 5).await;
    let times = ring(&site.client, &mut heard, rings).await;
    drop(stop);
    working.join_all().await.into_iter().for_each(|report| assert!(report.unwrap().is_clean()));
    site.close().await;
    percentiles(times)
}

/// All queues have as many jobs, and none runs before all queues are consumed; when half of all have run, the least
/// served queue should not have far less than the mean.
pub(crate) async fn fairness(stage: &Stage) -> Vec<Line> {
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        let contest = Contest::new(stage, "fair").side(OURS, async || vec![least_served(stage, kind).await]);
        let results = contest.run().await;
        // No goal was set.
        let what = format!("{}, {QUEUES} queues: the least served, of the mean", kind.name());
        lines.push(Line::new(what, Unit::Share, Goal::AtLeast(0.8), results.of(OURS, 0)));
    }
    lines
}

async fn least_served(stage: &Stage, kind: Kind) -> Sample {
    let queues = stage.jobs(QUEUES as u64, 4) as usize;
    let each = stage.jobs(400, 100) as usize;
    let half = queues * each / 2;
    let names: Vec<QueueName> = (0..queues).map(|n| format!("q{n}").parse().unwrap()).collect();
    let site = Site::new(stage, kind).await;
    ours::declare(&site.client, names.clone()).await;
    let body = |n: usize| serde_json::to_string(&Gated(Noop::new(n as u64))).unwrap();
    // Queue by queue: what is fair is the worker's doing, and not the order they came in.
    let jobs = names.iter().flat_map(|queue| (0..each).map(|n| (queue.clone(), Gated::NAME.to_owned(), body(n))));
    ours::enqueue_bodies(&site.client, jobs).await;
    let ran = none_of(half as u64);
    let served = Arc::new(Mutex::new(HashMap::<QueueName, usize>::new()));
    let seen = Arc::clone(&served);
    let (opening, gate) = watch::channel(false);
    let worker = ours::worker(&site.client, Registry::new().with::<Gated>(), &ran, Size::of_prefetch(16));
    let worker = worker.state(gate).queues(names.iter().map(ToString::to_string)).observe(move |report| {
        let mut served = seen.lock().unwrap();
        if served.values().sum::<usize>() < half {
            *served.entry(report.queue.clone()).or_default() += 1;
        }
    });
    let worker = worker.build().unwrap();
    let status = worker.status();
    let opened = async {
        while !status.has_served() {
            sleep(Duration::from_millis(20)).await;
        }
        // Until each queue's first deliveries are here.
        sleep(Duration::from_millis(500)).await;
        opening.send(true).unwrap();
        ran.all.notified().await;
    };
    worker.run(opened).await.unwrap();
    site.close().await;
    let served = served.lock().unwrap();
    let least = names.iter().map(|queue| served.get(queue).copied().unwrap_or(0)).min().unwrap_or(0);
    Sample::plain((least * queues) as f64 / half as f64)
}
