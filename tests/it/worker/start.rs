//! What is wrong with a worker is said before it runs, all at once.

use std::{sync::Arc, time::Duration};

use worker_core::{
    Client, ConfigError, Context, Handler, Job, JobOptions, JobResult, Priority, Registry, Requirement, SystemClock,
    Worker, brokers::memory::MemoryBroker, seconds,
};

use crate::bench::{Act, Bench, Other, Play, Running, acting};

fn problems(built: Result<Worker, ConfigError>) -> Vec<String> {
    let Err(error) = built else { panic!("something is wrong with it") };
    error.problems().to_vec()
}

acting! {
    /// Called as another job is.
    Double, "play" in "q", JobOptions::DEFAULT
}
acting! {
    /// Called as another job was.
    Alias, "alias" in "q", JobOptions::DEFAULT.aliases(&["other"])
}
acting! {
    /// In a queue that cannot be.
    Homeless, "homeless" in "not a queue", JobOptions::DEFAULT
}
acting! {
    /// Before the others.
    Urgent, "urgent" in "q", JobOptions::DEFAULT.priority(Priority::MAX)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Needy {}

impl Job for Needy {
    const NAME: &'static str = "needy";
    const QUEUE: &'static str = "q";
    type Return = ();
}

impl Handler for Needy {
    fn requirements() -> Vec<Requirement> {
        vec![Requirement::state::<Duration>(), Requirement::state::<str>()]
    }

    async fn run(self, _: Context) -> JobResult {
        Ok(())
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let broker = MemoryBroker::reduced(Arc::new(SystemClock));
    let registry = Registry::new()
        .with::<Play>()
        .with::<Double>()
        .with::<Other>()
        .with::<Alias>()
        .with::<Homeless>()
        .with::<Urgent>()
        .with::<Needy>();
    let built = Worker::builder(&Client::new(Arc::new(broker)))
        .registry(registry)
        .state(7_u8)
        .queues(["q", "q", "no queue"])
        .concurrency(0)
        .prefetch(70_000)
        .queue_concurrency("elsewhere", 3)
        .build();
    let problems = problems(built);
    let all = problems.join("\n");
    for part in [
        "two jobs are called `play`",
        "two jobs are called `other`",
        "queue name `not a queue` contains a space",
        "queue name `no queue` contains a space",
        "queue `q` is named twice",
        "the concurrency is 0; use 1 to 10000",
        "the prefetch is 70000; use 1 to 65535",
        "the concurrency of queue `elsewhere` was set, but this worker does not serve it",
        "job `urgent` ",
        "asks for priority 31, which the memory broker cannot honour",
        "job `needy` ",
        "needs `State<core::time::Duration>`",
        "needs `State<str>`",
        "given: u8, worker_core::client::Client",
    ] {
        assert!(all.contains(part), "{part:?} is not said in\n{all}");
    }
    assert!(problems.is_sorted() && problems.len() >= 12, "{all}");
}

#[test]
fn a_worker_without_queues_is_refused() {
    let built = Worker::builder(&Client::new(Arc::new(MemoryBroker::new()))).registry(Registry::new()).build();
    let problems = problems(built).join("\n");
    assert!(
        problems.starts_with("there is no queue to serve") && problems.contains("`use my_jobs as _;`"),
        "{problems}"
    );
}

#[test]
fn numbers_out_of_their_range_are_refused() {
    let worker =
        || Worker::builder(&Client::new(Arc::new(MemoryBroker::new()))).registry(Registry::new()).queues(["q"]);
    for built in [
        worker().concurrency(0).build(),
        worker().concurrency(10_001).build(),
        worker().prefetch(0).build(),
        worker().prefetch(65_536).build(),
        worker().queue_concurrency("q", 0).build(),
        worker().queue_concurrency("q", 10_001).build(),
    ] {
        assert_eq!(problems(built).len(), 1);
    }
    assert!(worker().concurrency(10_000).prefetch(65_535).queue_concurrency("q", 1).build().is_ok());
}

#[test]
fn what_the_jobs_of_unserved_queues_need_is_not_asked_for() {
    let registry = Registry::new().with::<Needy>();
    let built =
        Worker::builder(&Client::new(Arc::new(MemoryBroker::new()))).registry(registry).queues(["other"]).build();
    assert!(built.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_worker_declares_its_queues_and_can_be_there_before_the_first_job() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(bench.stats("q").await.consumers, 1);
    assert_eq!(bench.stats("other").await.consumers, 1);
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    worker.stop().await;
    assert_eq!(bench.stats("q").await.consumers, 0);
}

#[tokio::test(start_paused = true)]
async fn two_workers_on_two_brokers_live_in_one_process() {
    let benches = [Bench::memory().0, Bench::memory().0];
    let mut workers = Vec::new();
    for (n, bench) in benches.iter().enumerate() {
        workers.push(Running::start(bench.worker()));
        bench.enqueue::<Play>(&n.to_string(), [Act::Work(1_000)]).await;
    }
    for (bench, worker) in benches.iter().zip(workers) {
        bench.finished(1).await;
        worker.stop().await;
        assert_eq!(bench.log.runs().len(), 1);
    }
}
