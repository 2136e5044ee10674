//! How many jobs run at once, and which of them first.

use std::{sync::Arc, time::Duration};

use worker_core::{Registry, seconds};

use crate::{
    bench::{Act, Bench, Limited, Other, Play, Running},
    gate::settle_down,
};

const SECOND: Act = Act::Work(1_000);

async fn enqueue_many<J: worker_core::Job + From<crate::bench::Acts>>(
    bench: &Bench,
    prefix: &str,
    count: usize,
    act: Act,
) {
    for n in 0..count {
        bench.enqueue::<J>(&format!("{prefix}{n}"), [act.clone()]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_run_at_once_than_there_are_slots_and_no_slot_is_idle() {
    let (bench, _) = Bench::memory();
    enqueue_many::<Play>(&bench, "a", 50, SECOND).await;
    let worker = Running::start(bench.worker().concurrency(4));
    bench.finished(50).await;
    assert_eq!(bench.log.now(), seconds(13), "fifty seconds of work in four slots");
    worker.stop().await;
    assert_eq!(bench.log.most_at_once(|_| true), 4);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_taken_as_soon_as_it_is_free() {
    let (bench, _) = Bench::memory();
    for (id, ms) in [("long", 10_000), ("short1", 1_000), ("short2", 2_000), ("short3", 500)] {
        bench.enqueue::<Play>(id, [Act::Work(ms)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(2));
    bench.finished(4).await;
    worker.stop().await;
    let begins: Vec<_> = bench.log.runs().iter().map(|run| run.began.as_millis()).collect();
    assert_eq!(begins, [0, 0, 1_000, 3_000]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_can_have_fewer_slots_than_the_worker() {
    let (bench, _) = Bench::memory();
    enqueue_many::<Play>(&bench, "a", 9, SECOND).await;
    enqueue_many::<Other>(&bench, "b", 9, SECOND).await;
    let worker = Running::start(bench.worker().concurrency(5).queue_concurrency("q", 2));
    bench.finished(18).await;
    worker.stop().await;
    assert_eq!(bench.log.most_at_once(|run| run.job == "play"), 2);
    assert_eq!(bench.log.most_at_once(|_| true), 5);
}

#[tokio::test(start_paused = true)]
async fn a_job_type_can_have_fewer_slots_than_its_queue_and_holds_up_no_other() {
    let (bench, _) = Bench::memory();
    enqueue_many::<Limited>(&bench, "limited", 6, SECOND).await;
    enqueue_many::<Play>(&bench, "play", 6, SECOND).await;
    let worker = Running::start(bench.worker().concurrency(4));
    bench.finished(12).await;
    assert_eq!(bench.log.now(), seconds(3), "the slots that are left to the others are used by them");
    worker.stop().await;
    assert_eq!(bench.log.most_at_once(|run| run.job == "limited"), 2);
    assert_eq!(bench.log.most_at_once(|run| run.job == "play"), 2);
}

/// Two of them in each of two workers: the limit is one worker's.
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_job_type_is_one_workers() {
    let (bench, broker) = Bench::memory();
    enqueue_many::<Limited>(&bench, "limited", 8, SECOND).await;
    let neighbour = bench.neighbour(Arc::new(broker.another_process()));
    let workers = [Running::start(bench.worker().prefetch(4)), Running::start(neighbour.worker().prefetch(4))];
    bench.finished(8).await;
    assert_eq!((bench.log.most_at_once(|_| true), bench.log.now()), (4, seconds(2)));
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_higher_priority_runs_first() {
    let (bench, _) = Bench::memory();
    for (n, level) in [4, 0, 31, 5, 31, 4].into_iter().enumerate() {
        bench.enqueue_as(Bench::job::<Play>(&format!("{level}-{n}"), [SECOND]).priority(level)).await;
    }
    let worker = Running::start(bench.worker().concurrency(1));
    bench.finished(6).await;
    worker.stop().await;
    let order: Vec<_> = bench.log.runs().into_iter().map(|run| run.id).collect();
    assert_eq!(order, ["31-2", "31-4", "5-3", "4-0", "4-5", "0-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_does_not_starve_another() {
    let (bench, _) = Bench::memory();
    enqueue_many::<Play>(&bench, "play", 100, SECOND).await;
    enqueue_many::<Other>(&bench, "other", 10, SECOND).await;
    let worker = Running::start(bench.worker().concurrency(2));
    bench.finished(110).await;
    worker.stop().await;
    let last_other = bench.log.runs().iter().filter(|run| run.job == "other").map(|run| run.began).max();
    assert!(last_other <= Some(seconds(9)), "one slot in two while both have jobs: {last_other:?}");
    assert_eq!(bench.log.now(), seconds(55));
}

/// Reads how much a worker owns while everything it started hangs.
async fn owned(bench: &Bench, queue: &str) -> (u64, u64) {
    settle_down().await;
    let stats = bench.stats(queue).await;
    (stats.running.unwrap(), stats.ready)
}

#[tokio::test(start_paused = true)]
async fn a_worker_owns_twice_as_many_jobs_as_it_has_slots_where_some_may_not_use_all_and_else_a_quarter_more() {
    let (bench, _) = Bench::memory();
    enqueue_many::<Other>(&bench, "a", 40, Act::Hang).await;
    enqueue_many::<Play>(&bench, "b", 40, Act::UntilStopping).await;
    let worker = Running::start(bench.worker().concurrency(8).queue_concurrency("q", 3));
    assert_eq!(owned(&bench, "other").await, (10, 30));
    assert_eq!(owned(&bench, "q").await, (6, 34), "as many slots as the queue has count");
    worker.drop_in_the_middle().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_owns_no_more_than_its_prefetch() {
    for (prefetch, running) in [(1, 1), (3, 3), (20, 5)] {
        let (bench, _) = Bench::memory();
        enqueue_many::<Other>(&bench, "a", 30, Act::Hang).await;
        let worker = Running::start(bench.worker().concurrency(5).prefetch(prefetch));
        assert_eq!(owned(&bench, "other").await, (prefetch as u64, 30 - prefetch as u64));
        assert_eq!(bench.log.runs().len(), running, "a small prefetch is a limit, too");
        worker.drop_in_the_middle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_serves_only_the_queues_it_was_given() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.enqueue::<Other>("b", [Act::Succeed]).await;
    let registry = Registry::new().with::<Play>().with::<Other>();
    let worker = Running::start(bench.worker_of(registry).queues(["other"]));
    bench.finished(1).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    worker.stop().await;
    assert_eq!(bench.log.runs().iter().map(|run| &*run.id).collect::<Vec<_>>(), ["b"]);
    assert_eq!(bench.stats("q").await.ready, 1);
}
