//! How a worker ends: nothing is lost, nobody is blamed, and it does not take long.

use std::{sync::Arc, time::Duration};

use worker_core::{DrainReport, Ending, Enqueue, Registry, broker::Subscription, minutes, seconds};
use worker_tests::fault::{Call, Fault};

use crate::{
    bench::{Act, Bench, End, Limited, Other, Play, Running},
    gate::{Blocking, Gate, advance, settle_down},
};

/// Waits until `count` runs have begun.
async fn begun(bench: &Bench, count: usize) {
    bench.log.until("they run", |runs| runs.len() >= count).await;
    settle_down().await;
}

/// The attempt and the starts of every job that waits in `queue`, by id.
async fn waiting(bench: &Bench, queue: &str) -> Vec<(String, u32, u32)> {
    let subscription = Subscription::new(queue.parse().unwrap(), 1_000.try_into().unwrap());
    let (mut source, _settler) = bench.client.broker().consume(subscription).await.unwrap();
    let mut found = Vec::new();
    while let Ok(Ok(batch)) = tokio::time::timeout(Duration::from_millis(1), source.next_batch(1_000)).await {
        found
            .extend(batch.iter().map(|delivery| (delivery.envelope.id.to_string(), delivery.attempt, delivery.starts)));
    }
    found.sort_unstable();
    found
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_the_unstarted_at_once_and_lets_the_running_finish() {
    let (bench, broker) = Bench::memory();
    for n in 0..10 {
        bench.enqueue::<Play>(&format!("job{n}"), [Act::Work(20_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(2).prefetch(6));
    begun(&bench, 2).await;
    assert_eq!(bench.stats("q").await.running.unwrap(), 6);
    worker.shut_down();
    settle_down().await;
    let stats = bench.stats("q").await;
    assert_eq!((stats.running.unwrap(), stats.ready), (2, 8), "given back at once, not when the others end");
    // They can be had by another worker from now on.
    let neighbour = bench.neighbour(Arc::new(broker.another_process()));
    let other = Running::start(neighbour.worker().concurrency(8));
    begun(&bench, 10).await;
    assert_eq!(bench.log.now(), Duration::ZERO);
    let report = worker.ended().await.unwrap();
    assert_eq!(bench.log.now(), seconds(20), "the drain ends with the last running job");
    assert_eq!((report.settled, report.released, report.is_clean()), (2, 4, true));
    assert_eq!(report.to_string(), "2 settled, 4 given back");
    bench.finished(10).await;
    other.stop().await;
    assert!(bench.log.runs().iter().all(|run| run.attempt == 1), "giving back does not count");
    assert_eq!(bench.log.runs().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_given_back_unstarted_is_not_reported() {
    let (bench, _) = Bench::memory();
    for n in 0..4 {
        bench.enqueue::<Play>(&format!("job{n}"), [Act::Work(1_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(1).prefetch(4));
    begun(&bench, 1).await;
    assert_eq!(worker.stop().await.released, 3);
    assert_eq!(bench.reports().len(), 1, "observers hear of executions");
    let waiting = waiting(&bench, "q").await;
    assert_eq!(waiting, [1, 2, 3].map(|n| (format!("job{n}"), 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_end_is_cancelled_and_given_back_at_the_end_of_the_grace_period() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Other>("hangs", [Act::Hang]).await;
    bench.enqueue::<Other>("ends", [Act::Work(39_999)]).await;
    bench.enqueue::<Other>("too_late", [Act::Work(40_001)]).await;
    let worker = Running::start(bench.worker().grace(seconds(40)));
    begun(&bench, 3).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.now(), seconds(40));
    assert_eq!((report.settled, report.interrupted, report.released), (1, 2, 0));
    assert!(!report.is_clean());
    let ends: Vec<_> = bench.log.runs().iter().map(|run| run.ended.unwrap().1).collect();
    assert_eq!(ends, [End::Cancelled, End::Itself, End::Cancelled]);
    let released = Ending::Released { after: Duration::ZERO };
    assert_eq!(bench.endings_of("hangs"), [released]);
    let expected = ["hangs", "too_late"].map(|id| (id.to_owned(), 1, 0));
    assert_eq!(waiting(&bench, "other").await, expected, "neither counted nor blamed");
}

#[tokio::test(start_paused = true)]
async fn the_grace_period_is_thirty_seconds_where_nothing_is_said() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Other>("hangs", [Act::Hang]).await;
    let worker = bench.start();
    begun(&bench, 1).await;
    worker.stop().await;
    assert_eq!(bench.log.now(), seconds(30));
}

#[tokio::test(start_paused = true)]
async fn no_job_starts_once_the_drain_has_begun() {
    let (bench, _) = Bench::memory();
    for n in 0..50 {
        bench.enqueue::<Play>(&format!("job{n}"), [Act::Work(1_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(5));
    begun(&bench, 12).await;
    let running = bench.log.runs().len();
    worker.shut_down();
    for n in 50..60 {
        bench.enqueue::<Play>(&format!("job{n}"), [Act::Work(1_000)]).await;
    }
    let report = worker.ended().await.unwrap();
    assert_eq!((bench.log.runs().len() as u64, report.settled), (running as u64, running as u64));
    assert_eq!(waiting(&bench, "q").await.len(), 60 - running);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_end_early_when_its_worker_stops() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Other>("polite", [Act::UntilStopping]).await;
    let worker = bench.start();
    begun(&bench, 1).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.now(), Duration::ZERO, "well within the grace period");
    assert_eq!((report.released, report.interrupted, report.is_clean()), (1, 0, true));
    assert_eq!(waiting(&bench, "other").await, [("polite".into(), 1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_during_the_drain_is_retried_by_another_worker() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("a", [Act::Work(5_000)]).await;
    bench.enqueue::<Play>("timed_out", [Act::Hang]).await;
    let worker = Running::start(bench.worker().grace(minutes(5)));
    begun(&bench, 2).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.now(), seconds(30), "timeouts hold during the drain");
    assert_eq!((report.settled, report.is_clean()), (2, true));
    assert_eq!(bench.stats("q").await.delayed.unwrap(), 1);
    let worker = bench.start();
    begun(&bench, 3).await;
    assert_eq!(bench.log.runs()[2].attempt, 2);
    worker.drop_in_the_middle().await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_the_grace_period_at_once() {
    for after in [Duration::ZERO, seconds(7)] {
        let (bench, _) = Bench::memory();
        bench.enqueue::<Other>("hangs", [Act::Hang]).await;
        bench.enqueue::<Other>("ends", [Act::Work(3_000)]).await;
        let worker = Running::start(bench.worker().grace(minutes(10)));
        begun(&bench, 2).await;
        worker.shut_down();
        tokio::time::sleep(after).await;
        worker.abort();
        let report = worker.ended().await.unwrap();
        assert_eq!(bench.log.now(), after);
        let ended = u64::from(after > Duration::ZERO);
        assert_eq!((report.settled, report.interrupted), (ended, 2 - ended));
        settle_down().await;
        assert_eq!(waiting(&bench, "other").await.len() as u64, 2 - ended);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_without_a_shutdown_is_both() {
    let (bench, _) = Bench::memory();
    for n in 0..6 {
        bench.enqueue::<Limited>(&format!("job{n}"), [Act::Work(1_000)]).await;
    }
    let worker = Running::start(bench.worker().prefetch(6));
    begun(&bench, 2).await;
    worker.abort();
    let report = worker.ended().await.unwrap();
    assert_eq!((bench.log.now(), report.interrupted, report.released), (Duration::ZERO, 2, 4));
    assert_eq!(waiting(&bench, "q").await.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_job_that_does_not_return_is_abandoned_and_given_back() {
    let (bench, _) = Bench::memory();
    let gate = Gate::closed();
    bench.enqueue_as(Enqueue::new(Blocking {}).id("blocks".parse().unwrap())).await;
    let worker = bench.worker_of(Registry::new().with::<Blocking>()).state_arc(Arc::clone(&gate));
    let worker = Running::start(worker.grace(seconds(10)));
    gate.entered(1).await;
    worker.shut_down();
    settle_down().await;
    assert_eq!(bench.stats("q").await.running.unwrap(), 1, "its thread has the grace period");
    advance(seconds(10)).await;
    let report = worker.ended().await.unwrap();
    assert_eq!((report.abandoned, report.interrupted, report.is_clean()), (1, 0, false));
    assert_eq!(bench.stats("q").await.ready, 1, "although its thread still runs");
    gate.open();
    assert_eq!(waiting(&bench, "q").await, [("blocks".into(), 1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_job_that_returns_in_time_is_settled() {
    let (bench, _) = Bench::memory();
    let gate = Gate::closed();
    bench.enqueue_as(Enqueue::new(Blocking {})).await;
    let worker = bench.worker_of(Registry::new().with::<Blocking>()).state_arc(Arc::clone(&gate));
    let worker = Running::start(worker);
    gate.entered(1).await;
    worker.shut_down();
    advance(seconds(5)).await;
    gate.open();
    let report = worker.ended().await.unwrap();
    assert_eq!((report.settled, report.is_clean()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_workers_future_cancels_what_runs_and_gives_everything_back() {
    let (bench, _) = Bench::memory();
    for n in 0..6 {
        bench.enqueue::<Other>(&format!("job{n}"), [Act::Hang]).await;
    }
    let worker = Running::start(bench.worker().concurrency(2).prefetch(5));
    begun(&bench, 2).await;
    worker.drop_in_the_middle().await;
    settle_down().await;
    assert!(bench.log.runs().iter().all(|run| matches!(run.ended, Some((_, End::Cancelled)))));
    let stats = bench.stats("other").await;
    assert_eq!((stats.running.unwrap(), stats.ready, stats.consumers), (0, 6, 0));
    assert!(waiting(&bench, "other").await.iter().all(|(_, attempt, starts)| (*attempt, *starts) == (1, 0)));
    assert!(bench.reports().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_ends_at_once() {
    let (bench, _) = Bench::memory();
    bench.enqueue_as(Bench::job::<Play>("later", [Act::Succeed]).delay(minutes(60))).await;
    let worker = bench.start();
    settle_down().await;
    let report = worker.stop().await;
    assert_eq!((report, bench.log.now()), (DrainReport::default(), Duration::ZERO));
    assert_eq!(bench.stats("q").await.delayed.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_told_to_end_before_it_begins_starts_nothing() {
    let (bench, _) = Bench::memory();
    for n in 0..5 {
        bench.enqueue::<Play>(&format!("job{n}"), [Act::Succeed]).await;
    }
    let worker = bench.worker().build().unwrap();
    let report = worker.run(std::future::ready(())).await.unwrap();
    assert_eq!((report.settled, report.is_clean()), (0, true));
    assert_eq!((bench.log.runs().len(), waiting(&bench, "q").await.len()), (0, 5));
}

/// The settlement of a job that has ended is waited for, also beyond other jobs' ends.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_brokers_word() {
    let bench = Bench::faulty(|call| if let Call::Settle(..) = call { Fault::Late(seconds(3)) } else { Fault::None });
    bench.enqueue::<Play>("a", [Act::Work(1_000)]).await;
    let worker = bench.start();
    begun(&bench, 1).await;
    let report = worker.stop().await;
    assert_eq!((report.settled, report.unsettled, report.is_clean()), (1, 0, true));
    assert_eq!(bench.log.now(), seconds(4));
    assert_eq!(bench.endings_of("a"), [Ending::Succeeded]);
}

/// A source that cannot give back must not hold up the end for ever, nor fail it.
#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_stop_costs_no_job() {
    for fault in [Fault::Refused(worker_core::BrokerErrorKind::Transient), Fault::Hangs] {
        let bench = Bench::faulty(move |call| if matches!(call, Call::Stop) { fault } else { Fault::None });
        bench.enqueue::<Play>("a", [Act::Work(1_000)]).await;
        let worker = Running::start(bench.worker().queues(["q"]).grace(seconds(10)));
        begun(&bench, 1).await;
        let report = worker.stop().await;
        assert_eq!((report.settled, report.is_clean()), (1, true));
        assert!(bench.log.now() <= seconds(15), "{:?}", bench.log.now());
        settle_down().await;
        let stats = bench.stats("q").await;
        assert_eq!((stats.running.unwrap(), stats.ready), (0, 0));
    }
}
