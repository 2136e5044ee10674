//! How many jobs a worker holds: left to it, beside a constant.

use crate::{
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
            let contest = contest.side(FIXED, async || process(stage, &site, jobs, Size::of_prefetch(2 * slots)).await);
            let contest = contest.side(LEFT, async || process(stage, &site, jobs, Size::of_slots(slots)).await);
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

async fn process(stage: &Stage, site: &Site, jobs: u64, size: Size) -> Vec<Sample> {
    ours::enqueue_all(&site.client, 0..jobs).await;
    let meter = stage.meter();
    let done = ours::process(&site.client, jobs, size).await;
    vec![meter.rate_until(jobs, done)]
}
