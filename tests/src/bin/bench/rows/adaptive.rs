//! How many jobs a worker holds: left to it, beside a constant.

use worker_core::{Registry, Worker};
use worker_tests::noop::Noop;

use crate::{
    jobs::none_of,
    measure::{Goal, Line, Sample},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Stage},
};

const FIXED: &str = "prefetch of twice the slots";
const LEFT: &str = "framework, no prefetch set";

pub(crate) async fn prefetch(stage: &Stage) -> Vec<Line> {
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        // With one slot, where jobs run in their order, RabbitMQ keeps its number.
        let few = if kind == Kind::RabbitMq { 2 } else { 1 };
        for (slots, jobs) in [(few, stage.jobs(20_000, 200)), (16, stage.jobs(100_000, 500))] {
            let site = Site::new(stage, kind).await;
            ours::warm_up(&site.client).await;
            let contest = Contest::new(stage, "adaptive");
            let contest = contest.side(FIXED, async || process(stage, &site, slots, jobs, true).await);
            let contest = contest.side(LEFT, async || process(stage, &site, slots, jobs, false).await);
            let results = contest.run().await;
            let what = format!("{}, no-op jobs, slots: {slots}", kind.name());
            // What the worker finds must not be worse than the constant that it replaces.
            let line = Line::rate(what, Goal::RatioAtLeast(1.0), results.of(LEFT, 0));
            lines.push(results.beside(line, FIXED, 0));
            site.close().await;
        }
    }
    lines
}

async fn process(stage: &Stage, site: &Site, slots: usize, jobs: u64, is_fixed: bool) -> Vec<Sample> {
    ours::enqueue_all(&site.client, 0..jobs).await;
    let (meter, ran) = (stage.meter(), none_of(jobs));
    let registry = Registry::new().with::<Noop>();
    let worker = match is_fixed {
        true => ours::worker(&site.client, registry, &ran, Size { slots, prefetch: 2 * slots }),
        false => {
            Worker::builder(&site.client).registry(registry).state_arc(std::sync::Arc::clone(&ran)).concurrency(slots)
        }
    };
    let done = ours::run(worker, &ran).await;
    assert_eq!((done.report.settled, ran.count()), (jobs, jobs));
    vec![meter.rate_until(jobs, done.at)]
}
