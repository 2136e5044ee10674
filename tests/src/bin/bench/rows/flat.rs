//! P9: that a job costs the same whatever else there is: queues, types, slots, waiting and delayed jobs.
//!
//! Each curve has one line per point, beside its first point; the goal of 20% more per job is a rate of 0.83.

use std::time::Duration;

use worker_core::{QueueName, Registry};
use worker_tests::noop::Noop;

use crate::{
    jobs::{none_of, type_name, with_types},
    measure::{Goal, Line, Sample},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Scale, Stage},
};

/// A job costs a fifth more at most.
const FLAT: Goal = Goal::RatioAtLeast(1.0 / 1.2);

/// What varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    Queues,
    Types,
    Slots,
    Waiting,
    Delayed,
}

impl Curve {
    const ALL: [Self; 5] = [Self::Queues, Self::Types, Self::Slots, Self::Waiting, Self::Delayed];

    const fn name(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Types => "types",
            Self::Slots => "slots",
            Self::Waiting => "jobs waiting",
            Self::Delayed => "jobs delayed",
        }
    }

    fn points(self, scale: Scale, kind: Kind) -> Vec<usize> {
        let most = match (scale, kind) {
            (Scale::Quick, _) => 2_000,
            (Scale::Usual, _) | (Scale::Full, Kind::RabbitMq) => 100_000,
            (Scale::Full, Kind::Sqlite) => 1_000_000,
        };
        let points: &[usize] = match (self, scale) {
            (Self::Queues, Scale::Quick) => &[1, 4],
            (Self::Queues, _) => &[1, 20, 200],
            (Self::Types, _) => &[1, 10, 100],
            (Self::Slots, _) => &[1, 32, 1_000],
            (Self::Waiting, _) => &[1_000, 10_000, 100_000, 1_000_000],
            (Self::Delayed, _) => &[0, 10_000, 100_000, 1_000_000],
        };
        points.iter().copied().filter(|point| *point <= most).collect()
    }
}

pub(crate) async fn flat(stage: &Stage) -> Vec<Line> {
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        for curve in Curve::ALL {
            let points = curve.points(stage.scale, kind);
            let mut contest = Contest::new(stage, "P9");
            let name = |point: usize| format!("{}, {point} {}", kind.name(), curve.name());
            for point in points.clone() {
                contest = contest.side(name(point), async move || vec![one(stage, kind, curve, point).await]);
            }
            let results = contest.run().await;
            let Some((first, others)) = points.split_first() else { continue };
            for point in others {
                let name_of_point = name(*point);
                let line = Line::rate(name_of_point.clone(), FLAT, results.of(&name_of_point, 0));
                lines.push(results.beside(line, &name(*first), 0));
            }
        }
    }
    lines
}

/// Jobs per second at one point of a curve.
async fn one(stage: &Stage, kind: Kind, curve: Curve, point: usize) -> Sample {
    let jobs = match (kind, curve) {
        // So many that how a worker of 200 queues begins is a small part of it.
        (_, Curve::Queues) => stage.jobs(200_000, 400),
        (Kind::RabbitMq, _) => stage.jobs(20_000, 400),
        (Kind::Sqlite, _) => stage.jobs(50_000, 400),
    };
    let site = Site::new(stage, kind).await;
    let sample = match curve {
        Curve::Queues => queues(stage, &site, jobs, point).await,
        Curve::Types => types(stage, &site, jobs, point).await,
        Curve::Slots => {
            ours::warm_up(&site.client).await;
            ours::enqueue_all(&site.client, 0..jobs).await;
            let meter = stage.meter();
            // As many in advance at every point: what varies is how many run at once.
            let done = ours::process(&site.client, jobs, Size { slots: point, prefetch: Some(2_000) }).await;
            meter.rate_until(jobs, done)
        }
        Curve::Waiting => {
            ours::warm_up(&site.client).await;
            ours::enqueue_all(&site.client, 0..jobs + point as u64).await;
            let ran = none_of(jobs);
            let worker = ours::worker(&site.client, Registry::new().with::<Noop>(), &ran, Size::of_prefetch(256));
            let meter = stage.meter();
            let done = ours::run(worker, &ran).await;
            // A few more have run by then.
            meter.rate_until(done.settled, done.at)
        }
        Curve::Delayed => {
            ours::warm_up(&site.client).await;
            let later = |n| worker_core::Enqueue::new(Noop::new(n)).delay(Duration::from_secs(86_400));
            for answer in site.client.enqueue_all((0..point as u64).map(later)).await {
                answer.unwrap();
            }
            let meter = stage.meter();
            ours::enqueue_all(&site.client, 0..jobs).await;
            let done = ours::process(&site.client, jobs, Size::of_prefetch(256)).await;
            meter.rate_until(jobs, done)
        }
    };
    site.close().await;
    sample
}

/// The jobs are spread over so many queues of one worker.
async fn queues(stage: &Stage, site: &Site, jobs: u64, count: usize) -> Sample {
    let names: Vec<QueueName> = (0..count).map(|n| format!("q{n}").parse().unwrap()).collect();
    ours::declare(&site.client, names.clone()).await;
    let enqueue = async |jobs: u64| {
        let bodies = (0..jobs).map(|n| {
            let body = serde_json::to_string(&Noop::new(n)).unwrap();
            (names[n as usize % count].clone(), "noop".to_owned(), body)
        });
        ours::enqueue_bodies(&site.client, bodies).await;
    };
    let run = async |jobs: u64| {
        let ran = none_of(jobs);
        let worker = ours::worker(&site.client, Registry::new().with::<Noop>(), &ran, Size::of_prefetch(256));
        ours::run(worker.queues(names.iter().map(ToString::to_string)), &ran).await.at
    };
    enqueue(count as u64).await;
    run(count as u64).await;
    enqueue(jobs).await;
    let meter = stage.meter();
    let done = run(jobs).await;
    meter.rate_until(jobs, done)
}

/// The jobs are of so many types.
async fn types(stage: &Stage, site: &Site, jobs: u64, count: usize) -> Sample {
    ours::warm_up(&site.client).await;
    let default: QueueName = "default".parse().unwrap();
    let bodies = (0..jobs).map(|n| {
        let body = serde_json::to_string(&Noop::new(n)).unwrap();
        (default.clone(), type_name(n as usize % count), body)
    });
    ours::enqueue_bodies(&site.client, bodies).await;
    let ran = none_of(jobs);
    let worker = ours::worker(&site.client, with_types(count), &ran, Size::of_prefetch(256));
    let meter = stage.meter();
    let done = ours::run(worker, &ran).await;
    meter.rate_until(jobs, done.at)
}
