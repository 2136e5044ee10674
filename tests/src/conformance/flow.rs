//! How deliveries flow: prefetch, waiting, waking, and futures that are dropped.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{task::yield_now, time::timeout};
use worker_core::{
    Clock as _, FailureKind, TokioClock,
    broker::{Broker as _, Delivery, Selection, SettleError},
    hours,
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    eventually::soon,
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{bury, copy, ids, job, jobs, release, retry, sorted_ids},
};

/// Longer than any case takes.
const HOUR: Duration = hours(1);

/// Clause D5: however much is asked for, and with settlements in the middle.
pub async fn a_subscription_never_owns_more_than_its_prefetch<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 40)).await;
    let mut consumer = process.consume(5).await;
    let mut owned = consumer.take(5).await;
    for round in 1..=7 {
        consumer.nothing().await;
        let running = other.stats().await.running;
        assert!(running.is_none_or(|running| running <= 5), "what is fetched ahead is owned too");
        let settled = round % 5 + 1;
        consumer.ack_all(owned.drain(..settled)).await;
        owned.extend(consumer.take(settled).await);
    }
    consumer.nothing().await;
    assert_eq!(owned.len(), 5);
}

/// Clause D5: settled is settled, whichever way.
pub async fn every_settlement_makes_room_for_one_delivery<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 12)).await;
    let mut consumer = process.consume(2).await;
    let mut owned = consumer.take(2).await;
    for settlement in [
        Settlement::Ack { reply: None },
        bury(FailureKind::Error),
        release(HOUR),
        retry(HOUR),
        release(Duration::ZERO),
        retry(Duration::ZERO),
    ] {
        consumer.settle(owned.remove(0), settlement).await;
        owned.push(consumer.one().await);
        consumer.nothing().await;
    }
}

/// Clause D5: a settlement of what is no longer owned does not count as one of what is.
pub async fn a_lost_settlement_makes_no_room<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 10)).await;
    let mut consumer = process.consume(2).await;
    let mut owned = consumer.take(2).await;
    let first = owned.remove(0);
    let again = copy(&first);
    consumer.ack(first).await;
    owned.push(consumer.one().await);
    for _ in 0..3 {
        let answer = consumer.try_settle(copy(&again), Settlement::Ack { reply: None }).await;
        assert!(matches!(answer, Err(SettleError::Lost)), "{answer:?}");
    }
    consumer.nothing().await;
}

/// Clause D5: of two subscriptions each has its own prefetch, also on one queue in one process.
pub async fn each_subscription_has_its_own_prefetch<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 20)).await;
    let (mut small, mut large) = (process.consume(1).await, process.consume(6).await);
    let of_small = small.take(1).await;
    let of_large = large.take(6).await;
    small.nothing().await;
    large.nothing().await;
    small.ack_all(of_small).await;
    small.take(1).await;
    large.nothing().await;
    large.ack_all(of_large).await;
    large.take(6).await;
    small.nothing().await;
}

/// Clause D12: what there is, and what is settled makes room up to the new number.
pub async fn a_subscription_that_is_made_larger_takes_more_at_once<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 40)).await;
    let mut consumer = process.consume(5).await;
    let mut owned = consumer.take(5).await;
    consumer.nothing().await;
    consumer.resize(12).await;
    owned.extend(consumer.take(7).await);
    consumer.nothing().await;
    consumer.ack_all(owned.drain(..9)).await;
    owned.extend(consumer.take(9).await);
    consumer.nothing().await;
    assert_eq!(sorted_ids(&owned).len(), 12);
}

/// Clause D12: it can be settled, and then the new number holds; one below the first is the first.
pub async fn what_was_returned_stays_owned_when_the_prefetch_shrinks<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 60)).await;
    let mut consumer = process.consume(4).await;
    consumer.resize(20).await;
    let owned = consumer.take(20).await;
    consumer.resize(1).await;
    consumer.ack_all(owned).await;
    let mut owned = consumer.take(4).await;
    consumer.nothing().await;
    let running = other.stats().await.running;
    assert!(running.is_none_or(|running| running <= 4), "{running:?}");
    for _ in 0..3 {
        consumer.ack_all(owned.drain(..2)).await;
        owned.extend(consumer.take(2).await);
        consumer.nothing().await;
    }
    assert!(owned.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{owned:?}");
}

/// Clause D12: what had come before comes still, and whoever is free gets what is released of it.
pub async fn what_was_fetched_before_the_prefetch_shrank_comes_and_can_be_released<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 40)).await;
    let mut consumer = process.consume(3).await;
    consumer.resize(30).await;
    let first = consumer.take(5).await;
    consumer.resize(3).await;
    let mut fetched = Vec::new();
    while let Some(batch) = consumer.source.next_batch(30).now_or_never() {
        fetched.extend(batch.unwrap());
    }
    assert!(fetched.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{fetched:?}");
    for delivery in fetched {
        consumer.settle(delivery, release(Duration::ZERO)).await;
    }
    let mut others = other.consume(60).await;
    let theirs = others.take(40 - 5 - 3).await;
    assert!(theirs.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{theirs:?}");
    others.ack_all(theirs).await;
    others.stop().await;
    consumer.ack_all(first).await;
    let left = consumer.take(3).await;
    assert!(left.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{left:?}");
    consumer.ack_all(left).await;
    consumer.nothing().await;
}

/// Clause D1, D12: where the broker says so.
pub async fn what_a_resized_subscription_gets_is_in_order<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    if !process.broker.resizes_in_order() {
        return skipped(&process.broker.capabilities(), "loses the order when resized");
    }
    process.enqueue(jobs("job", 100)).await;
    let mut consumer = process.consume(2).await;
    let mut seen = Vec::new();
    for prefetch in [2, 30, 4, 60, 2].into_iter().cycle() {
        consumer.resize(prefetch).await;
        let batch = consumer.batch(9).await;
        seen.extend(ids(&batch));
        consumer.ack_all(batch).await;
        if seen.len() == 100 {
            break;
        }
    }
    let expected: Vec<_> = (0..100).map(|n| format!("job{n}")).collect();
    assert_eq!(seen, expected);
}

/// Clause D12: however often it changes, with deliveries, settlements and enqueues in the middle.
pub async fn a_prefetch_that_changes_all_the_time_loses_nothing_and_marks_nothing<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(2).await;
    let mut seen = Vec::new();
    let mut owned = Vec::new();
    for (round, prefetch) in [9, 2, 2, 30, 5, 3, 12, 2].into_iter().enumerate() {
        process.enqueue((0..12).map(|n| job(format!("job{round}-{n}")))).await;
        owned.extend(consumer.batch(3).await);
        consumer.resize(prefetch).await;
        seen.extend(ids(&owned));
        consumer.ack_all(owned.drain(..)).await;
    }
    while seen.len() < 8 * 12 {
        let batch = consumer.batch(5).await;
        assert!(batch.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{batch:?}");
        seen.extend(ids(&batch));
        consumer.ack_all(batch).await;
    }
    consumer.nothing().await;
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8 * 12, "each once");
}

/// Clause D6: with more waiting than asked for.
pub async fn a_batch_has_at_most_what_was_asked_for<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 30)).await;
    let mut consumer = process.consume(30).await;
    let mut delivered = Vec::new();
    for max in [1, 2, 1, 5, 3, 30] {
        // `batch` checks the size.
        delivered.extend(consumer.batch(max).await);
    }
    delivered.extend(consumer.take(30 - delivered.len()).await);
    let expected: Vec<_> = (0..30).map(|n| format!("job{n}")).collect();
    assert_eq!(ids(&delivered), expected, "what was fetched beyond the batch comes next");
}

/// Clause D6: an empty queue is waited on, and the wait ends when there is something.
pub async fn an_arrival_wakes_a_waiting_consumer<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let mut consumer = process.consume(10).await;
    consumer.nothing().await;
    for n in 0..5 {
        for sender in [&process, &other] {
            let delivery = woken_by(fx, &mut consumer, async || sender.enqueue([job(format!("job{n}"))]).await).await;
            consumer.ack(delivery).await;
        }
    }
    consumer.nothing().await;
}

/// The next delivery, which must come promptly after `act`, while the consumer waits already.
async fn woken_by<F: BrokerFixture>(fx: &F, consumer: &mut Consumer, act: impl AsyncFnOnce()) -> Delivery {
    let watch = TokioClock::starting_now();
    let acting = async {
        fx.pass(Duration::from_millis(20)).await;
        act().await;
        watch.now()
    };
    let ((delivery, delivered_at), acted_at) = tokio::join!(async { (consumer.one().await, watch.now()) }, acting);
    let late = delivered_at.since(acted_at);
    assert!(late <= fx.lateness(), "{delivery:?} came {late:?} after it could");
    delivery
}

/// Clause D6: every way in which another process lets go of a job ends a wait for one.
pub async fn every_way_back_into_the_queue_wakes_a_waiting_consumer<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    for settlement in [release(Duration::ZERO), retry(Duration::ZERO)] {
        let (owner, owned) = own(&process, "settled").await;
        let mut waiting = other.consume(1).await;
        let back = woken_by(fx, &mut waiting, async || owner.settle(owned, settlement).await).await;
        waiting.ack(back).await;
    }

    let (owner, owned) = own(&process, "dropped").await;
    let mut waiting = other.consume(1).await;
    let back = woken_by(fx, &mut waiting, async || drop(owner)).await;
    waiting.settle(back, bury(FailureKind::Error)).await;
    drop(owned);

    let inspector = process.inspector();
    let replay = async || assert_eq!(inspector.replay(&Selection::default(), 1).await.unwrap(), 1);
    let back = woken_by(fx, &mut waiting, replay).await;
    waiting.ack(back).await;

    // Or a broker that pushes would give it the job at once.
    waiting.stop().await;
    let closing = fx.process().await;
    let (_owner, _owned) = own(&closing, "closed").await;
    let mut waiting = other.consume(1).await;
    let back = woken_by(fx, &mut waiting, async || closing.broker.close().await.unwrap()).await;
    waiting.ack(back).await;
}

/// A new job, owned by a consumer that takes no more.
async fn own<F: BrokerFixture>(process: &Process<'_, F>, id: &str) -> (Consumer, Delivery) {
    process.enqueue([job(id)]).await;
    let mut owner = process.consume(1).await;
    let owned = owner.expect(id).await;
    owner.stop().await;
    (owner, owned)
}

/// Clause D6: a consumer that owns as much as it may is woken by its own settlement.
pub async fn a_settlement_wakes_a_consumer_that_was_full<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 10)).await;
    let mut consumer = process.consume(1).await;
    let mut owned = consumer.one().await;
    for settlement in [
        Settlement::Ack { reply: None },
        bury(FailureKind::Error),
        release(HOUR),
        retry(HOUR),
        Settlement::Ack { reply: None },
    ] {
        let settler = Arc::clone(&consumer.settler);
        owned = woken_by(fx, &mut consumer, async || settler.submit(owned, settlement).await.unwrap()).await;
    }
}

/// Clause D6: of several waiting consumers none is forgotten.
pub async fn all_waiting_consumers_are_woken_for_as_many_jobs<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let (mut one, mut two, mut three) = (process.consume(1).await, other.consume(1).await, other.consume(1).await);
    let enqueue = async {
        fx.pass(Duration::from_millis(20)).await;
        process.enqueue(jobs("job", 3)).await;
    };
    let (one, two, three, ()) = tokio::join!(one.one(), two.one(), three.one(), enqueue);
    assert_eq!(sorted_ids([&one, &two, &three]), ["job0", "job1", "job2"]);
}

/// Clause D6: when it was stopped, also with jobs waiting.
pub async fn a_stopped_source_gives_nothing_at_once<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 5)).await;
    let mut consumer = process.consume(2).await;
    consumer.one().await;
    consumer.stop().await;
    for _ in 0..3 {
        let batch = soon("a stopped source answers", consumer.source.next_batch(10)).await.unwrap();
        assert!(batch.is_empty(), "{batch:?}");
    }
}

/// Polls `next_batch` at most `polls` times, and drops it.
async fn polled(consumer: &mut Consumer, max: usize, polls: usize) -> Vec<Delivery> {
    let mut next = pin!(consumer.source.next_batch(max));
    for _ in 0..polls {
        if let Poll::Ready(batch) = next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return batch.unwrap();
        }
        yield_now().await;
    }
    Vec::new()
}

/// Clause D7: dropped after any number of polls and after any time, while jobs arrive and are settled.
pub async fn dropping_the_wait_for_a_batch_loses_no_delivery<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let mut consumer = process.consume(6).await;
    let mut draw = fastrand::Rng::with_seed(3);
    let (mut enqueued, mut owned, mut seen) = (0, Vec::new(), Vec::new());
    for _ in 0..300 {
        if draw.u8(..3) == 0 {
            other.enqueue([job(format!("job{enqueued}"))]).await;
            enqueued += 1;
        }
        let max = draw.usize(1..=4);
        let batch = if draw.bool() {
            polled(&mut consumer, max, draw.usize(0..6)).await
        } else {
            let wait = timeout(Duration::from_micros(draw.u64(0..3_000)), consumer.source.next_batch(max));
            wait.await.unwrap_or(Ok(Vec::new())).unwrap()
        };
        seen.extend(ids(&batch));
        owned.extend(batch);
        assert!(owned.len() <= 6, "more than the prefetch");
        if draw.u8(..4) == 0 {
            consumer.ack_all(owned.drain(..)).await;
        }
    }
    consumer.ack_all(owned).await;
    while seen.len() < enqueued {
        let batch = consumer.batch(6).await;
        seen.extend(ids(&batch));
        consumer.ack_all(batch).await;
    }
    consumer.nothing().await;
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!((unique.len(), seen.len()), (enqueued, enqueued), "each once, none twice: {seen:?}");
}

/// Clause D7: what a dropped wait had fetched is not blamed, not counted and not out of order.
pub async fn what_a_dropped_wait_had_fetched_comes_unchanged<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(10).await;
    for round in 0..20 {
        process.enqueue(jobs(&format!("{round}-"), 3)).await;
        drop(polled(&mut consumer, 1, 0).await);
        drop(timeout(Duration::from_micros(round * 100), std::future::pending::<()>()).await);
        let batch = consumer.take(3).await;
        assert_eq!(ids(&batch), [0, 1, 2].map(|n| format!("{round}-{n}")));
        assert!(batch.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{batch:?}");
        consumer.ack_all(batch).await;
    }
}
