//! A worker on a broker that fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use worker_core::{
    BrokerErrorKind::{Permanent, Transient, Unsupported},
    Ending, RunError, hours, minutes, seconds,
    settlement::Settlement,
};
use worker_tests::fault::{Call, Fault, first};

use crate::{
    bench::{Act, Bench, Other, Play, Running},
    gate::settle_down,
};

fn settles(call: Call<'_>) -> bool {
    matches!(call, Call::Settle(..))
}

fn waits(call: Call<'_>) -> bool {
    matches!(call, Call::NextBatch)
}

fn counting(
    count: &Arc<AtomicU32>,
    matches: impl Fn(Call<'_>) -> bool + Send + 'static,
    fault: Fault,
) -> impl FnMut(Call<'_>) -> Fault + Send + 'static {
    let count = Arc::clone(count);
    move |call| {
        if matches(call) {
            count.fetch_add(1, Ordering::SeqCst);
            return fault;
        }
        Fault::None
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_fails_is_submitted_again_until_it_is_true() {
    for fault in [Fault::Refused(Transient), Fault::Refused(Permanent)] {
        let bench = Bench::faulty(first(settles, [fault; 10]));
        let worker = bench.start();
        bench.enqueue::<Play>("a", [Act::Succeed]).await;
        bench.reported(1).await;
        let waited = bench.log.now();
        // 50 ms doubled up to 5 s, ten times.
        assert!((seconds(20)..seconds(30)).contains(&waited), "after {waited:?}");
        let report = worker.stop().await;
        assert_eq!((report.settled, report.unsettled, report.is_clean()), (1, 0, true));
        assert_eq!((bench.log.runs().len(), bench.endings_of("a")), (1, vec![Ending::Succeeded]));
        assert_eq!(bench.stats("q").await.running.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_settlement_is_submitted_again() {
    let mut refused = std::collections::BTreeSet::new();
    let bench = Bench::faulty(move |call| match call {
        Call::Settle(delivery, settlement) => {
            let once = (
                delivery.envelope.id.clone(),
                delivery.attempt,
                std::mem::discriminant(settlement) == std::mem::discriminant(&Settlement::Ack { reply: None }),
            );
            if refused.insert((once.0, once.1, once.2)) { Fault::Refused(Transient) } else { Fault::None }
        }
        _ => Fault::None,
    });
    let worker = bench.start();
    bench.enqueue::<Play>("retried", [Act::Fail("no".into()), Act::Succeed]).await;
    bench.enqueue::<Play>("snoozed", [Act::Snooze(10), Act::Succeed]).await;
    bench.enqueue::<Play>("dead", [Act::Discard("no".into())]).await;
    bench.finished(3).await;
    worker.stop().await;
    assert_eq!(bench.log.begins_of("retried").len(), 2);
    assert_eq!(bench.log.begins_of("snoozed").len(), 2);
    assert_eq!(bench.only_dead().await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_does_not_wait_for_the_brokers_word() {
    let late = Fault::Late(seconds(5));
    let bench = Bench::faulty(move |call| if settles(call) { late } else { Fault::None });
    for n in 0..4 {
        bench.enqueue::<Play>(&n.to_string(), [Act::Work(1_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(1).prefetch(10));
    bench.finished(4).await;
    worker.stop().await;
    let begins: Vec<_> = bench.log.runs().iter().map(|run| run.began.as_secs()).collect();
    assert_eq!(begins, [0, 1, 2, 3]);
    assert_eq!(bench.log.now(), seconds(9), "reported when the broker has said so");
}

#[tokio::test(start_paused = true)]
async fn a_lost_settlement_is_counted_and_the_job_runs_again() {
    let bench = Bench::faulty(first(settles, [Fault::Lost]));
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    let report = worker.stop().await;
    assert_eq!(bench.endings_of("a"), [Ending::Lost, Ending::Succeeded]);
    assert_eq!((report.lost, report.settled, report.is_clean()), (1, 1, true));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_lost_before_its_start_is_not_started() {
    let bench = Bench::faulty(first(|call| matches!(call, Call::Begin(_)), [Fault::Lost, Fault::Moved]));
    let worker = Running::start(bench.worker().concurrency(1));
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.runs().len(), 1, "delivered three times, started once: the others have it or move it");
    assert_eq!((report.lost, report.settled), (1, 1));
    assert_eq!(bench.endings_of("a"), [Ending::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_wait_for_jobs_is_repeated_with_pauses() {
    let failures = [Fault::Refused(Transient); 20];
    let bench = Bench::faulty(first(waits, failures));
    let worker = Running::start(bench.worker().queues(["q"]));
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    worker.stop().await;
    // From 100 ms doubled up to 500 ms, and up to half as much again: a source tries by itself.
    assert!((seconds(8)..seconds(14)).contains(&bench.log.now()), "{:?}", bench.log.now());
}

#[tokio::test(start_paused = true)]
async fn what_a_source_has_again_after_a_failure_does_not_wait_for_a_pause() {
    let bench = Bench::faulty(first(waits, [Fault::Refused(Transient)]));
    let worker = Running::start(bench.worker().queues(["q"]));
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    worker.stop().await;
    assert!(bench.log.now() < Duration::from_millis(50), "{:?}", bench.log.now());
}

#[tokio::test(start_paused = true)]
async fn a_worker_gets_its_queue_however_often_the_broker_fails_first() {
    for failing in [Call::Declare, Call::Consume] {
        let name = format!("{failing:?}");
        let faults = [Fault::Refused(Transient), Fault::AnswerLost, Fault::Refused(Transient)];
        let bench = Bench::faulty(first(move |call| format!("{call:?}") == name, faults));
        let worker = Running::start(bench.worker().queues(["q"]));
        tokio::time::sleep(minutes(5)).await;
        bench.enqueue::<Play>("a", [Act::Succeed]).await;
        bench.finished(1).await;
        assert!(worker.stop().await.is_clean(), "after {failing:?} failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_by_itself_is_replaced() {
    let bench = Bench::faulty(first(waits, [Fault::Ends, Fault::Ends, Fault::Ends]));
    let worker = Running::start(bench.worker().queues(["q"]));
    tokio::time::sleep(minutes(1)).await;
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    bench.finished(1).await;
    assert!(worker.stop().await.is_clean());
    assert_eq!(bench.stats("q").await.consumers, 0);
}

/// Hot loops are how a broken broker is kept from recovering.
#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_broken_is_asked_twice_a_minute_and_a_source_twice_a_second() {
    let calls = [waits, |call: Call<'_>| matches!(call, Call::Consume), |call: Call<'_>| matches!(call, Call::Declare)];
    for (matches, often) in calls.into_iter().zip([4_800..7_300, 60..150, 60..150]) {
        let count = Arc::new(AtomicU32::new(0));
        let bench = Bench::faulty(counting(&count, matches, Fault::Refused(Transient)));
        let worker = Running::start(bench.worker().queues(["q"]));
        tokio::time::sleep(hours(1)).await;
        let asked = count.load(Ordering::SeqCst);
        assert!(often.contains(&asked), "asked {asked} times in an hour");
        let started = bench.log.now();
        worker.stop().await;
        assert_eq!(bench.log.now(), started, "a pause does not hold up the shutdown");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_does_not_hold_up_the_shutdown() {
    for failing in [Call::Declare, Call::Consume, Call::NextBatch] {
        let name = format!("{failing:?}");
        let bench = Bench::faulty(move |call| if format!("{call:?}") == name { Fault::Hangs } else { Fault::None });
        let worker = Running::start(bench.worker().queues(["q"]));
        tokio::time::sleep(minutes(5)).await;
        let report = worker.stop().await;
        assert_eq!((bench.log.now(), report.is_clean()), (minutes(5), true), "while {failing:?} hung");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_stops_the_worker_after_what_runs_has_ended() {
    for kind in [Permanent, Unsupported] {
        let mut calls = 0;
        let bench = Bench::faulty(move |call| {
            if !waits(call) {
                return Fault::None;
            }
            calls += 1;
            if calls == 3 { Fault::Refused(kind) } else { Fault::None }
        });
        for n in 0..6 {
            bench.enqueue::<Play>(&format!("job{n}"), [Act::Work(5_000)]).await;
        }
        // Of a queue that has not failed.
        bench.enqueue::<Other>("other", [Act::Work(8_000)]).await;
        let worker = Running::start(bench.worker().concurrency(4).prefetch(5).queues(["q", "other"]));
        let Err(RunError::Broker(error)) = worker.ended().await else { panic!("a permanent failure is an error") };
        assert_eq!(error.kind(), kind);
        settle_down().await;
        let ran = bench.log.runs();
        assert!(
            !ran.is_empty() && ran.iter().all(|run| run.ended.is_some_and(|(_, end)| end == crate::bench::End::Itself))
        );
        let (q, other) = (bench.stats("q").await, bench.stats("other").await);
        assert_eq!((q.running.unwrap(), other.running.unwrap()), (0, 0), "everything else was given back");
        assert_eq!(q.ready + other.ready, 7 - ran.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_had_stops_the_worker() {
    for failing in [Call::Declare, Call::Consume] {
        let name = format!("{failing:?}");
        let refused = Fault::Refused(Permanent);
        let bench = Bench::faulty(move |call| if format!("{call:?}") == name { refused } else { Fault::None });
        let ended = Running::start(bench.worker().queues(["q"])).ended().await;
        let Err(RunError::Broker(error)) = ended else { panic!("{failing:?}: {ended:?}") };
        assert_eq!((error.kind(), bench.log.now()), (Permanent, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_confirms_holds_up_the_end_for_a_bounded_time() {
    let bench = Bench::faulty(|call| if settles(call) { Fault::Hangs } else { Fault::None });
    bench.enqueue::<Play>("a", [Act::Succeed]).await;
    let worker = Running::start(bench.worker().grace(seconds(10)));
    bench.log.until("it ran", |runs| runs.iter().any(|run| run.ended.is_some())).await;
    let report = worker.stop().await;
    assert_eq!((report.unsettled, report.settled, report.is_clean()), (1, 0, false));
    assert_eq!(bench.log.now(), seconds(14), "the grace period, and four seconds for the broker");
    settle_down().await;
    assert_eq!(bench.stats("q").await.ready, 1, "it goes back to its queue");
}
