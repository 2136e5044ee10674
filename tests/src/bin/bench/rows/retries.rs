//! P7: jobs that fail once, beside jobs that do not.

use worker_core::Registry;
use worker_tests::noop::Noop;

use crate::{
    jobs::{Flaky, none_of},
    measure::{Goal, Line},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Stage},
};

const WELL: &str = "framework, no-op jobs";
const FAILING: &str = "framework, failing jobs";

pub(crate) async fn retries(stage: &Stage) -> Vec<Line> {
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        let (jobs, size) = (stage.jobs(50_000, 500), Size::of_prefetch(256));
        let site = Site::new(stage, kind).await;
        ours::warm_up(&site.client).await;
        let client = &site.client;
        let contest = Contest::new(stage, "P7");
        let contest = contest.side(WELL, async || {
            ours::enqueue_all(client, 0..jobs).await;
            let meter = stage.meter();
            let done = ours::process(client, jobs, size).await;
            vec![meter.rate_until(jobs, done)]
        });
        let contest = contest.side(FAILING, async || {
            for answer in client.enqueue_all((0..jobs).map(|n| Flaky(Noop::new(n)))).await {
                answer.unwrap();
            }
            let meter = stage.meter();
            let ran = none_of(jobs);
            let worker = ours::worker(client, Registry::new().with::<Flaky>(), &ran, size);
            let done = ours::run(worker, &ran).await;
            assert_eq!((done.report.settled, ran.count()), (2 * jobs, jobs));
            vec![meter.rate_until(jobs, done.at)]
        });
        let results = contest.run().await;
        let goal = if kind == Kind::RabbitMq { Goal::RatioAtLeast(0.30) } else { Goal::None };
        let line = Line::rate(format!("{}, each run twice", kind.name()), goal, results.of(FAILING, 0));
        lines.push(results.beside(line, WELL, 0));
        site.close().await;
    }
    lines
}
