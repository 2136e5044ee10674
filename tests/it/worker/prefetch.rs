//! How many jobs a worker holds, by how long they take.

use std::sync::Arc;

use worker_core::{Registry, WorkerBuilder, WorkerStatus};
use worker_tests::{
    eventually::eventually,
    fixture::{BrokerFixture, MemoryFixture, RabbitFixture, SqliteFixture, run},
};

use crate::{
    bench::{Act, Bench, Play, Running},
    gate::settle_down,
};

const SLOTS: usize = 4;

/// How many of the queue `q` a worker may hold now.
fn held(status: &WorkerStatus) -> usize {
    status.queues().into_iter().find(|queue| queue.queue == "q").unwrap().prefetch
}

/// A worker of jobs that may all run at once.
fn worker(bench: &Bench) -> WorkerBuilder {
    bench.worker_of(Registry::new().with::<Play>()).concurrency(SLOTS)
}

async fn enqueue(bench: &Bench, name: &str, count: usize, act: Act) {
    let jobs = (0..count).map(|n| Bench::job::<Play>(&format!("{name}-{n}"), [act.clone()]));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
}

/// Has a worker do quick jobs until it holds more of them than at first.
async fn grow(bench: &Bench, status: &WorkerStatus) {
    let first = held(status);
    for round in 0.. {
        enqueue(bench, &format!("quick{round}"), 200, Act::Work(1)).await;
        bench.finished((round + 1) * 200).await;
        if held(status) >= 2 * first {
            return;
        }
        assert!(round < 50, "it holds {} still", held(status));
    }
}

async fn slow_jobs_that_a_worker_of_quick_ones_holds_go_to_whoever_is_free<F: BrokerFixture>(fx: &F) {
    let bench = Bench::on(Arc::new(fx.open().await) as _, fx.clock(), fx.patience());
    let worker = |bench: &Bench| worker(bench).build().unwrap();
    let first = worker(&bench);
    let status = first.status();
    let first = Running::of(first);
    grow(&bench, &status).await;
    // As many as it may hold: nobody else would get any.
    let count = held(&status);
    enqueue(&bench, "slow", count, Act::Hang).await;
    let neighbour = bench.neighbour(Arc::new(fx.open().await));
    let second = Running::of(worker(&neighbour));
    let all_slots = 2 * SLOTS;
    bench.log.until("both work at it", |runs| runs.iter().filter(|run| run.ended.is_none()).count() == all_slots).await;
    eventually("it holds no more than at first", async || (held(&status) == SLOTS + 1).then_some(())).await;
    for n in 0..count {
        assert!(bench.log.begins_of(&format!("slow-{n}")).len() <= 1, "none ran twice");
    }
    first.abort_and_end().await;
    second.abort_and_end().await;
}

on_all_brokers! {
    slow_jobs_that_a_worker_of_quick_ones_holds_go_to_whoever_is_free
}

/// How many of the queue are owned.
async fn owned(bench: &Bench) -> Option<u64> {
    let stats = bench.client.broker().inspector().unwrap().queues(&[]).await.unwrap();
    stats.into_iter().find(|stats| stats.queue == "q")?.running
}

#[tokio::test(start_paused = true)]
async fn of_slow_jobs_a_quarter_more_than_run_is_held() {
    let (bench, _) = Bench::memory();
    enqueue(&bench, "slow", 40, Act::Work(10_000)).await;
    let worker = Running::start(worker(&bench));
    for ended in [0, 8, 16] {
        bench.log.until("four more run", |runs| runs.len() == ended + SLOTS).await;
        settle_down().await;
        assert_eq!(owned(&bench).await, Some(SLOTS as u64 + 1));
    }
    worker.abort_and_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_that_was_set_stays() {
    let (bench, _) = Bench::memory();
    let worker = worker(&bench).prefetch(5).build().unwrap();
    let status = worker.status();
    let worker = Running::of(worker);
    enqueue(&bench, "quick", 4_000, Act::Work(1)).await;
    let mut most = 0;
    eventually("all have run", async || {
        most = most.max(owned(&bench).await.unwrap());
        (bench.reports().len() == 4_000).then_some(())
    })
    .await;
    assert_eq!((held(&status), most), (5, 5));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_beyond_goes_back_in_its_order_and_the_most_urgent_stay() {
    let (bench, _) = Bench::memory();
    let worker = worker(&bench).build().unwrap();
    let status = worker.status();
    let worker = Running::of(worker);
    grow(&bench, &status).await;
    let jobs = (0..held(&status)).map(|n| {
        let job = Bench::job::<Play>(&format!("slow-{n:02}"), [Act::Work(20_000)]);
        if n == 9 { job.priority(9) } else { job }
    });
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
    bench.log.until("four have begun", |runs| slow(runs).len() == SLOTS).await;
    eventually("the rest went back", async || (owned(&bench).await == Some(SLOTS as u64 + 1)).then_some(())).await;
    assert_eq!(slow(&bench.log.runs()).len(), SLOTS, "before the next began");
    bench.log.until("eight have begun", |runs| slow(runs).len() == 2 * SLOTS).await;
    let begun = slow(&bench.log.runs());
    assert_eq!(begun[..SLOTS + 1], ["slow-09", "slow-00", "slow-01", "slow-02", "slow-03"].map(String::from));
    worker.abort_and_end().await;
}

fn slow(runs: &[crate::bench::Run]) -> Vec<String> {
    runs.iter().map(|run| run.id.clone()).filter(|id| id.starts_with("slow")).collect()
}
