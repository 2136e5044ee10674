//! Who owns a delivery, and what becomes of it when its owner goes.

use std::{cell::Cell, time::Duration};

use tokio::time::timeout;
use worker_core::{
    FailureKind,
    broker::{Begin, Broker as _, Delivery},
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    eventually::{eventually, soon},
    fixture::{BrokerFixture, skipped},
    sample::{bury, ids, job, jobs, release, retry, sorted_ids},
};

/// The attempt and the starts of a delivery.
const fn counts(delivery: &Delivery) -> (u32, u32) {
    (delivery.attempt, delivery.starts)
}

/// Clause O1: what was fetched and not returned goes to others, promptly and uncounted.
pub async fn stopping_gives_back_what_was_fetched_and_not_returned<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 10)).await;
    let mut stopping = process.consume(10).await;
    let returned = stopping.take(3).await;
    // Time to fetch ahead, where a broker does.
    fx.pass(Duration::from_millis(50)).await;
    stopping.stop().await;
    stopping.stop().await;
    let mut next = other.consume(20).await;
    let rest = next.take(7).await;
    assert_eq!(ids(&rest), (3..10).map(|n| format!("job{n}")).collect::<Vec<_>>());
    assert!(rest.iter().all(|delivery| counts(delivery) == (1, 0)), "{rest:?}");
    next.nothing().await;
    assert_eq!(ids(&returned), ["job0", "job1", "job2"]);
}

/// Clause O1: a job given back keeps the attempts it had.
pub async fn stopping_gives_back_a_retried_job_with_its_attempts<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 5)).await;
    let mut stopping = process.consume(5).await;
    for delivery in stopping.take(5).await {
        stopping.settle(delivery, retry(Duration::ZERO)).await;
    }
    stopping.one().await;
    fx.pass(Duration::from_millis(50)).await;
    stopping.stop().await;
    let rest = other.consume(5).await.take(4).await;
    assert!(rest.iter().all(|delivery| counts(delivery) == (2, 0)), "{rest:?}");
}

/// Clause O1, O2: a stop ends, and costs nothing that runs, also where jobs come all the time and never so many that
/// the prefetch is full.
pub async fn a_stop_ends_though_jobs_keep_coming<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("running", 3)).await;
    let mut consumer = process.consume(500).await;
    let running = consumer.take(3).await;
    let (is_stopped, came) = (Cell::new(false), Cell::new(0));
    let stopping = async {
        consumer.stop().await;
        is_stopped.set(true);
    };
    let coming = async {
        while !is_stopped.get() {
            other.enqueue([job(format!("coming{}", came.get()))]).await;
            came.set(came.get() + 1);
            fx.pass(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(stopping, coming);
    consumer.ack_all(running).await;
    let mut next = other.consume(500).await;
    for _ in 0..came.get() {
        let delivery = next.one().await;
        assert_eq!(delivery.attempt, 1, "{delivery:?}");
        next.ack(delivery).await;
    }
    next.nothing().await;
}

/// Clause O2: what was returned can be begun and settled, each way, long after its source stopped.
pub async fn what_was_returned_before_a_stop_is_still_owned<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(["acked", "dead", "released", "retried", "late"].map(job)).await;
    let mut stopping = process.consume(5).await;
    let mut owned = stopping.take(5).await.into_iter();
    stopping.stop().await;
    let Consumer { source, settler, .. } = stopping;
    let mut next = other.consume(5).await;
    next.nothing().await;
    // The settler alone keeps them.
    drop(source);
    next.nothing().await;
    let settlements = [
        Settlement::Ack { reply: None },
        bury(FailureKind::Error),
        release(Duration::ZERO),
        retry(Duration::ZERO),
        Settlement::Ack { reply: None },
    ];
    for settlement in settlements {
        let delivery = owned.next().unwrap();
        assert!(!delivery.lost.is_cancelled());
        assert_eq!(settler.begin(&delivery), Begin::Go);
        soon("it is settled", settler.submit(delivery, settlement)).await.unwrap();
    }
    let mut back = next.take(2).await;
    back.sort_by_key(|delivery| delivery.attempt);
    assert_eq!(ids(&back), ["released", "retried"]);
    assert_eq!(back.iter().map(counts).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
    assert_eq!(process.dead().await.len(), 1);
    next.nothing().await;
}

/// Clause O3: of what a dead process owned, exactly what had begun is blamed, or all of it
/// where a broker does not know what had.
pub async fn a_dead_process_gives_back_all_and_only_what_had_begun_is_blamed<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    doomed.enqueue(jobs("job", 12)).await;
    let mut consumer = doomed.consume(12).await;
    // Two of them are at their second attempt.
    for delivery in consumer.take(2).await {
        consumer.settle(delivery, retry(Duration::ZERO)).await;
    }
    let owned = consumer.take(8).await;
    for delivery in owned.iter().step_by(2) {
        consumer.begin(delivery);
        consumer.begin(delivery);
    }
    let exact = doomed.broker.capabilities().exact_blame;
    let expected = |id: &str, delivery: &Delivery| {
        let attempt = if ["job0", "job1"].contains(&id) { 2 } else { 1 };
        let begun = owned.iter().step_by(2).any(|begun| begun.envelope.id == delivery.envelope.id);
        (attempt, u32::from(begun))
    };
    doomed.crash().await;
    let mut seen = Vec::new();
    let mut next = other.consume(20).await;
    while seen.len() < 12 {
        let delivery = next.one().await;
        let id = delivery.envelope.id.to_string();
        let (attempt, starts) = expected(&id, &delivery);
        assert_eq!(delivery.attempt, attempt, "{id}");
        // Without exact blame, what was on its way to the dead process may be blamed or not.
        assert!(delivery.starts == starts || !exact && starts == 0 && delivery.starts == 1, "{id}: {delivery:?}");
        seen.push(id);
        next.ack(delivery).await;
    }
    next.nothing().await;
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 12, "each once");
}

/// Clause O3: what other processes own, and what was settled, is not touched.
pub async fn a_death_gives_back_nothing_that_was_not_owned<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    other.enqueue(jobs("job", 6)).await;
    let mut of_other = other.consume(2).await;
    let kept = of_other.take(2).await;
    // Or it would take a suspect, beside what it owns.
    of_other.stop().await;
    let mut of_doomed = doomed.consume(4).await;
    let mut owned = of_doomed.take(4).await;
    owned.iter().for_each(|delivery| of_doomed.begin(delivery));
    of_doomed.ack(owned.remove(0)).await;
    of_doomed.settle(owned.remove(0), bury(FailureKind::Error)).await;
    doomed.crash().await;
    let mut next = other.consume(10).await;
    let first = next.one().await;
    next.ack(first).await;
    let second = next.one().await;
    next.ack(second).await;
    next.nothing().await;
    for delivery in kept {
        assert!(!delivery.lost.is_cancelled());
        of_other.begin(&delivery);
        of_other.ack(delivery).await;
    }
    next.nothing().await;
    assert_eq!(other.dead().await.len(), 1);
}

/// Clause O3: a start that ended is not one that never did.
pub async fn a_start_that_was_settled_is_not_blamed_later<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    doomed.enqueue([job("job")]).await;
    let mut consumer = doomed.consume(1).await;
    for settlement in [release(Duration::ZERO), retry(Duration::ZERO), release(Duration::from_millis(10))] {
        let delivery = consumer.one().await;
        consumer.begin(&delivery);
        consumer.settle(delivery, settlement).await;
    }
    // Delivered once more, but not begun.
    consumer.one().await;
    // Time to be done with where it came from: a death in between makes two of it.
    fx.pass(Duration::from_millis(50)).await;
    doomed.crash().await;
    let blamed = u32::from(!doomed.broker.capabilities().exact_blame);
    assert_eq!(counts(&other.consume(1).await.one().await), (2, blamed));
}

/// What must hold for a delivery that `former` lost and `owner` has.
async fn assert_moved_on(former: &Consumer, stale: &Delivery, owner: &Consumer, owned: Delivery) {
    eventually("the token says so", async || stale.lost.is_cancelled().then_some(())).await;
    former.assert_lost(stale).await;
    owner.begin(&owned);
    former.assert_lost(stale).await;
    assert!(!owned.lost.is_cancelled(), "the new owner's token is its own");
    owner.ack(owned).await;
    former.assert_lost(stale).await;
}

/// Clause O6: the handle of a process that others hold for dead.
pub async fn a_delivery_that_went_to_another_after_a_death_is_lost<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    doomed.enqueue(jobs("job", 2)).await;
    let mut former = doomed.consume(2).await;
    let stale = former.take(2).await;
    former.begin(&stale[0]);
    doomed.crash().await;
    let mut owner = other.consume(2).await;
    for _ in 0..2 {
        let owned = owner.one().await;
        let stale = stale.iter().find(|stale| stale.envelope.id == owned.envelope.id).unwrap();
        assert_moved_on(&former, stale, &owner, owned).await;
    }
    owner.nothing().await;
    assert!(other.dead().await.is_empty());
}

/// Clause O6: a process that was only frozen, and finds on waking that others took over.
pub async fn a_frozen_consumer_finds_its_deliveries_lost<F: BrokerFixture>(fx: &F) {
    let (frozen, other) = (fx.process().await, fx.process().await);
    frozen.enqueue(jobs("job", 3)).await;
    let mut former = frozen.consume(3).await;
    let stale = former.take(3).await;
    former.begin(&stale[0]);
    if let Err(reason) = fx.freeze(&frozen.broker).await {
        return skipped(&fx.capabilities().await, reason);
    }
    let mut owner = other.consume(3).await;
    let taken = owner.take(3).await;
    let blamed: Vec<_> = taken.iter().filter(|delivery| delivery.starts == 1).collect();
    assert_eq!(ids(blamed), ["job0"]);
    fx.thaw(&frozen.broker).await;
    for owned in taken {
        let stale = stale.iter().find(|stale| stale.envelope.id == owned.envelope.id).unwrap();
        assert_moved_on(&former, stale, &owner, owned).await;
    }
    // It goes on, with what comes next.
    owner.stop().await;
    frozen.enqueue([job("next")]).await;
    let next = former.expect("next").await;
    assert!(!next.lost.is_cancelled());
    former.begin(&next);
    former.ack(next).await;
}

/// Clause O7: begun or not, returned or not, everything comes back uncounted.
pub async fn dropping_both_halves_gives_everything_back_uncounted<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 8)).await;
    let mut dropped = process.consume(8).await;
    let owned = dropped.take(5).await;
    dropped.begin(&owned[0]);
    dropped.begin(&owned[1]);
    let Consumer { source, settler, .. } = dropped;
    drop(settler);
    drop(source);
    let mut next = other.consume(20).await;
    let back = next.take(8).await;
    assert_eq!(sorted_ids(&back), (0..8).map(|n| format!("job{n}")).collect::<Vec<_>>());
    assert!(back.iter().all(|delivery| counts(delivery) == (1, 0)), "{back:?}");
    next.nothing().await;
    assert!(back.iter().all(|delivery| !delivery.lost.is_cancelled()));
}

/// Clause O7: the other subscriptions of the process keep what is theirs.
pub async fn dropping_one_subscription_leaves_the_others_alone<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 4)).await;
    let (mut kept, mut dropped) = (process.consume(2).await, process.consume(2).await);
    let of_kept = kept.take(2).await;
    let of_dropped = sorted_ids(&dropped.take(2).await);
    drop(dropped);
    kept.ack_all(of_kept).await;
    let back = kept.take(2).await;
    assert_eq!(sorted_ids(&back), of_dropped);
    kept.ack_all(back).await;
    kept.nothing().await;
}

/// Clause O7: a task that is aborted while it waits for a batch loses nothing either.
pub async fn a_consumer_dropped_in_the_middle_of_a_wait_gives_everything_back<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    for round in 0..10 {
        process.enqueue(jobs(&format!("{round}-"), 3)).await;
        let mut dropped = process.consume(3).await;
        let wait = timeout(Duration::from_micros(round * 150), dropped.source.next_batch(2));
        drop(wait.await);
        drop(dropped);
        let mut next = other.consume(3).await;
        let back = next.take(3).await;
        assert!(back.iter().all(|delivery| counts(delivery) == (1, 0)), "{back:?}");
        next.ack_all(back).await;
    }
}
