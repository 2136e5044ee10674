//! Many jobs, several workers, and nothing left behind.

use std::{collections::BTreeMap, sync::Arc};

use tokio::runtime::Handle;
use worker_core::{
    Client, Context, Ending, Enqueue, Handler, Job, JobResult, Registry, Requirement, State, Supplied as _, seconds,
};

use crate::{
    bench::{Act, Acts, Bench, Other, Play, Running},
    gate::settle_down,
};

#[tokio::test(start_paused = true)]
async fn ten_thousand_jobs_are_all_settled_once() {
    let (bench, _) = Bench::memory();
    let jobs = (0..10_000).map(|n| {
        let acts = match n % 10 {
            0 => vec![Act::Fail("no".into()), Act::Succeed],
            1 => vec![Act::Snooze(1_000), Act::Succeed],
            2 => vec![Act::Discard("no".into())],
            _ => vec![Act::Work(n % 7)],
        };
        Bench::job::<Play>(&n.to_string(), acts)
    });
    let answers = bench.client.enqueue_all(jobs).await;
    assert!(answers.iter().all(Result::is_ok));
    let worker = Running::start(bench.worker().concurrency(64));
    bench.finished(10_000).await;
    let report = worker.stop().await;
    let mut endings: BTreeMap<String, Vec<Ending>> = BTreeMap::new();
    for report in bench.reports() {
        endings.entry(report.id.to_string()).or_default().push(report.ending);
    }
    assert_eq!(endings.len(), 10_000);
    for (id, endings) in endings {
        let expected = if ["0", "1"].contains(&&id[id.len() - 1..]) { 2 } else { 1 };
        assert_eq!(endings.len(), expected, "{id}: {endings:?}");
    }
    assert_eq!((report.settled, report.released, report.lost), (11_000, 1_000, 0));
    assert_eq!(bench.dead().await.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn two_workers_share_a_queue() {
    let (bench, broker) = Bench::memory();
    for n in 0..200 {
        bench.enqueue::<Play>(&n.to_string(), [Act::Work(100)]).await;
    }
    let neighbour = bench.neighbour(Arc::new(broker.another_process()));
    let workers = [Running::start(bench.worker().concurrency(4)), Running::start(neighbour.worker().concurrency(4))];
    bench.finished(200).await;
    assert_eq!(bench.log.now().as_millis(), 2_500, "twenty seconds of work in eight slots");
    let mut settled = 0;
    for worker in workers {
        let report = worker.stop().await;
        assert!(report.settled >= 80, "they share: {report}");
        settled += report.settled;
    }
    assert_eq!((settled, bench.log.runs().len()), (200, 200), "each job once");
}

#[tokio::test(start_paused = true)]
async fn a_worker_leaves_no_task_behind() {
    let (bench, _) = Bench::memory();
    let before = Handle::current().metrics().num_alive_tasks();
    for round in 0..3 {
        for n in 0..10 {
            let act = if n % 3 == 0 { Act::Hang } else { Act::Work(n) };
            bench.enqueue::<Other>(&format!("{round}-{n}"), [act]).await;
        }
        let worker = Running::start(bench.worker().grace(seconds(5)));
        bench.log.until("they run", |runs| runs.len() >= (round + 1) * 10).await;
        tokio::time::sleep(seconds(1)).await;
        match round {
            0 => drop(worker.stop().await),
            1 => {
                worker.abort();
                drop(worker.ended().await);
            }
            _ => worker.drop_in_the_middle().await,
        }
        settle_down().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), before, "after round {round}");
    }
}

/// Enqueues the jobs of a tree, of this depth.
#[derive(serde::Serialize, serde::Deserialize)]
struct Tree {
    depth: u32,
}

impl Job for Tree {
    const NAME: &'static str = "tree";
    const QUEUE: &'static str = "q";
    type Return = ();
}

impl Handler for Tree {
    fn requirements() -> Vec<Requirement> {
        State::<Client>::requirements()
    }

    async fn run(self, cx: Context) -> JobResult {
        let client = cx.supply::<State<Client>>()?;
        for answer in
            client.enqueue_all((0..2).filter(|_| self.depth > 0).map(|_| Self { depth: self.depth - 1 })).await
        {
            answer?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_enqueue_jobs_through_the_workers_own_client() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(Registry::new().with::<Tree>()).concurrency(3));
    bench.enqueue_as(Enqueue::new(Tree { depth: 7 })).await;
    bench.finished(255).await;
    let report = worker.stop().await;
    assert_eq!((report.settled, bench.stats("q").await.ready), (255, 0));
}

#[tokio::test(start_paused = true)]
async fn jobs_of_several_types_are_enqueued_in_one_batch() {
    let (bench, _) = Bench::memory();
    let acts = || Acts { acts: vec![Act::Succeed] };
    let jobs = [Enqueue::new(Play(acts())).erase(), Enqueue::new(Other(acts())).erase()];
    for answer in bench.client.enqueue_all(jobs).await {
        answer.unwrap();
    }
    let worker = bench.start();
    bench.finished(2).await;
    worker.stop().await;
    let mut ran: Vec<_> = bench.log.runs().into_iter().map(|run| run.job).collect();
    ran.sort_unstable();
    assert_eq!(ran, ["other", "play"]);
}
