//! Jobs whose worker died while they ran: blamed, watched, and convicted at last.

use std::{sync::Arc, time::Duration};

use worker_core::{
    FailureKind,
    broker::{Delivery, STARTS_MAX},
    hours,
    settlement::Settlement,
};

use crate::{
    eventually::eventually,
    fixture::{BrokerFixture, skipped},
    sample::{assert_counts, assert_known, bury, ids, job, jobs, release, retry},
};

/// A process that dies while it runs the job `id`, which it gets with these starts.
async fn die_running<F: BrokerFixture>(fx: &F, id: &str, starts: u32) {
    let doomed = fx.process().await;
    let mut consumer = doomed.consume(1).await;
    let delivery = consumer.expect(id).await;
    assert_eq!(delivery.starts, starts);
    consumer.begin(&delivery);
    // Time to be done with where it came from: a death in between makes two of it.
    fx.pass(Duration::from_millis(50)).await;
    doomed.crash().await;
}

/// Clause O4: it starts exactly as often as is tolerated, and then dies by itself.
pub async fn a_job_that_kills_its_workers_is_dead_lettered_as_crashed<F: BrokerFixture>(fx: &F) {
    let other = fx.process().await;
    other.enqueue([job("killer")]).await;
    let mut consumer = other.consume(1).await;
    let first = consumer.one().await;
    consumer.settle(first, retry(Duration::ZERO)).await;
    drop(consumer);
    for starts in 0..STARTS_MAX {
        die_running(fx, "killer", starts).await;
    }
    let mut consumer = other.consume(5).await;
    let dead = eventually("the killer is among the dead", async || other.dead().await.pop()).await;
    assert_eq!((dead.id.to_string().as_str(), dead.failure.kind), ("killer", FailureKind::Crashed));
    assert_eq!((dead.starts, dead.attempts), (STARTS_MAX, 1), "one attempt failed, the crashes are counted apart");
    assert!(dead.failure.message.contains(&STARTS_MAX.to_string()), "{}", dead.failure.message);
    consumer.nothing().await;
    let stats = other.stats().await;
    assert_counts(&stats, [0, 0, 0, 1]);
}

/// Clause O4: being prefetched by workers that die is no guilt, however often it happens.
pub async fn a_job_that_never_began_is_never_convicted<F: BrokerFixture>(fx: &F) {
    let capabilities = fx.capabilities().await;
    if !capabilities.exact_blame {
        return skipped(&capabilities, "no exact blame");
    }
    let other = fx.process().await;
    other.enqueue([job("innocent")]).await;
    for _ in 0..STARTS_MAX + 2 {
        let doomed = fx.process().await;
        let mut consumer = doomed.consume(1).await;
        assert_eq!(consumer.expect("innocent").await.starts, 0);
        doomed.crash().await;
    }
    assert_eq!(other.consume(1).await.expect("innocent").await.starts, 0);
}

/// Makes `count` suspects: jobs that had begun when their process died.
async fn make_suspects<F: BrokerFixture>(fx: &F, count: usize) {
    let doomed = fx.process().await;
    doomed.enqueue(jobs("suspect", count)).await;
    let mut consumer = doomed.consume(count.try_into().unwrap()).await;
    consumer.take(count).await.iter().for_each(|delivery| consumer.begin(delivery));
    doomed.crash().await;
}

fn suspects(deliveries: &[Delivery]) -> usize {
    deliveries.iter().filter(|delivery| delivery.is_suspect()).count()
}

/// Clause O5: of many suspects one at a time, and the others of the queue beside it.
pub async fn a_subscription_owns_one_suspect_at_a_time_beside_other_jobs<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    make_suspects(fx, 8).await;
    let mut consumer = process.consume(20).await;
    let mut owned = vec![consumer.one().await];
    consumer.nothing().await;
    process.enqueue(jobs("plain", 30)).await;
    owned.extend(consumer.take(19).await);
    assert_eq!(suspects(&owned), 1, "{owned:?}");
    // As soon as one is settled, whichever way, there is the next.
    for settlement in
        [Settlement::Ack { reply: None }, release(Duration::ZERO), bury(FailureKind::Error), retry(hours(1))]
    {
        let suspect = owned.iter().position(Delivery::is_suspect).unwrap();
        consumer.settle(owned.remove(suspect), settlement).await;
        while suspects(&owned) == 0 {
            let plain = owned.pop().unwrap();
            consumer.ack(plain).await;
            owned.extend(consumer.batch(20).await);
        }
        assert_eq!(suspects(&owned), 1, "{owned:?}");
    }
}

/// Clause O5: also when the consumer waits for it already.
pub async fn settling_a_suspect_wakes_a_consumer_that_waits_for_the_next<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    make_suspects(fx, 5).await;
    let mut consumer = process.consume(10).await;
    let mut suspect = consumer.one().await;
    for settlement in [Settlement::Ack { reply: None }, bury(FailureKind::Error), release(hours(1)), retry(hours(1))] {
        let settler = Arc::clone(&consumer.settler);
        let settle = async {
            fx.pass(Duration::from_millis(50)).await;
            settler.submit(suspect, settlement).await.unwrap();
        };
        (suspect, ()) = tokio::join!(consumer.one(), settle);
        assert!(suspect.is_suspect());
    }
}

/// Clause O5: each subscription has its own, so suspects are worked off by all workers.
pub async fn each_subscription_owns_a_suspect_of_its_own<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    make_suspects(fx, 5).await;
    let mut consumers = [process.consume(10).await, other.consume(10).await];
    let mut owned = vec![consumers[0].one().await, consumers[1].one().await];
    for consumer in &mut consumers {
        consumer.nothing().await;
    }
    let mut seen = ids(&owned);
    for turn in 0..3 {
        let consumer = &mut consumers[turn % 2];
        consumer.ack(owned.remove(0)).await;
        owned.push(consumer.one().await);
        seen.extend(ids(owned.last()));
        assert_eq!(suspects(&owned), 2, "{owned:?}");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..5).map(|n| format!("suspect{n}")).collect::<Vec<_>>());
}

/// Clause O5: a suspect that waits for its turn does not fill the prefetch.
pub async fn waiting_suspects_take_no_room<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    make_suspects(fx, 6).await;
    let mut consumer = process.consume(3).await;
    let suspect = consumer.one().await;
    assert!(suspect.is_suspect());
    process.enqueue(jobs("plain", 10)).await;
    for _ in 0..5 {
        let plain = consumer.take(2).await;
        assert_eq!(suspects(&plain), 0);
        consumer.ack_all(plain).await;
    }
    consumer.nothing().await;
    assert_known(process.stats().await.running, 1);
}
