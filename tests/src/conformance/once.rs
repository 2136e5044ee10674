//! A delivery is settled once, by whoever owns it.

use std::time::Duration;

use worker_core::{
    BrokerErrorKind, FailureKind,
    broker::{Begin, Selection, SettleError, Unsettled},
    settlement::Settlement,
};

use crate::{
    eventually::{eventually, soon},
    fixture::{BrokerFixture, skipped},
    sample::{assert_counts, bury, copy, dead_ids, four_settlements, job, jobs, release, retry, sorted_ids},
};

/// Clause S6: every settlement after every other.
pub async fn a_second_settlement_is_lost_and_changes_nothing<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(1).await;
    for first in four_settlements() {
        for second in four_settlements() {
            process.enqueue([job("job")]).await;
            let delivery = consumer.one().await;
            let again = copy(&delivery);
            consumer.settle(delivery, first.clone()).await;
            assert_eq!(consumer.settler.begin(&again), Begin::Lost);
            let answer = consumer.try_settle(again, second.clone()).await;
            assert!(matches!(answer, Err(SettleError::Lost)), "{second:?} after {first:?}: {answer:?}");
            let attempt = match first {
                Settlement::Release { .. } => 1,
                Settlement::Retry { .. } => 2,
                _ => continue,
            };
            let back = consumer.one().await;
            assert_eq!((back.attempt, back.starts), (attempt, 0), "{second:?} after {first:?}");
            consumer.ack(back).await;
        }
    }
    consumer.nothing().await;
    let stats = process.stats().await;
    assert_counts(&stats, [0, 0, 0, 4]);
}

/// Clause S6: two settlements on their way at once, as a broker that collects them sees them.
pub async fn of_two_settlements_submitted_together_one_is_made_true<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(1).await;
    for first in four_settlements() {
        for second in four_settlements() {
            process.enqueue([job("job")]).await;
            let delivery = consumer.one().await;
            let again = copy(&delivery);
            let dead_before = process.stats().await.dead;
            let tickets =
                (consumer.settler.submit(delivery, first.clone()), consumer.settler.submit(again, second.clone()));
            let (one, two) = soon("both are answered", async { tokio::join!(tickets.0, tickets.1) }).await;
            let winner = match (&one, &two) {
                (Ok(()), Err(SettleError::Lost)) => &first,
                (Err(SettleError::Lost), Ok(())) => &second,
                _ => panic!("{first:?} and {second:?}: {one:?} and {two:?}"),
            };
            let died = process.stats().await.dead - dead_before;
            assert_eq!(died, u64::from(matches!(winner, Settlement::DeadLetter { .. })), "{winner:?} won");
            if let Settlement::Release { .. } | Settlement::Retry { .. } = winner {
                let back = consumer.one().await;
                assert_eq!(back.attempt == 2, matches!(winner, Settlement::Retry { .. }), "{winner:?} won");
                consumer.ack(back).await;
            }
        }
    }
    consumer.nothing().await;
}

/// Clause S6: a job that went on to another consumer is not the first one's to settle.
pub async fn a_delivery_that_went_on_is_not_its_former_owners<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("job")]).await;
    for settlement in [release(Duration::ZERO), retry(Duration::ZERO)] {
        let mut former = process.consume(1).await;
        let delivery = former.one().await;
        former.stop().await;
        let stale = copy(&delivery);
        former.settle(delivery, settlement).await;

        let mut owner = other.consume(1).await;
        let owned = owner.one().await;
        former.assert_lost(&stale).await;
        owner.begin(&owned);
        former.assert_lost(&stale).await;
        let kept = copy(&owned);
        owner.settle(owned, release(Duration::ZERO)).await;
        former.assert_lost(&stale).await;
        owner.assert_lost(&kept).await;
    }
    // The same consumer gets the same job again: its old receipt is still an old one.
    let mut consumer = process.consume(1).await;
    let delivery = consumer.one().await;
    let stale = copy(&delivery);
    consumer.settle(delivery, release(Duration::ZERO)).await;
    let delivery = consumer.one().await;
    assert_ne!(delivery.receipt, stale.receipt);
    consumer.assert_lost(&stale).await;
    consumer.ack(delivery).await;
    consumer.nothing().await;
    assert!(process.dead().await.is_empty());
}

/// Clause S6: a job that was replayed is another delivery than the one that died.
pub async fn a_receipt_from_before_a_replay_is_lost<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue([job("job")]).await;
    let mut consumer = process.consume(1).await;
    let delivery = consumer.one().await;
    let stale = copy(&delivery);
    consumer.settle(delivery, bury(FailureKind::Error)).await;
    consumer.assert_lost(&stale).await;
    process.inspector().replay(&Selection::default(), 1).await.unwrap();
    consumer.assert_lost(&stale).await;
    let replayed = consumer.expect("job").await;
    consumer.assert_lost(&stale).await;
    consumer.ack(replayed).await;
    assert!(process.dead().await.is_empty());
}

/// Clause S6: every settlement while the storage cannot be changed, and again when it can.
pub async fn what_cannot_be_settled_now_comes_back_and_is_still_ours<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 4)).await;
    let mut consumer = process.consume(4).await;
    let owned = consumer.take(4).await;
    let obstruction = match fx.obstruct() {
        Ok(obstruction) => obstruction,
        Err(reason) => return skipped(&fx.capabilities().await, reason),
    };
    let submit = |(delivery, settlement)| consumer.settler.submit(delivery, settlement);
    let tickets: Vec<_> = owned.into_iter().zip(four_settlements()).map(submit).collect();
    let mut unsettled = Vec::new();
    for ticket in tickets {
        let answer = soon("it is answered", ticket).await;
        let Err(SettleError::Unsettled(given_back)) = answer else { panic!("it cannot be settled now: {answer:?}") };
        assert_eq!(given_back.error.kind(), BrokerErrorKind::Transient, "{}", given_back.error);
        assert_eq!(consumer.settler.begin(&given_back.delivery), Begin::Go);
        unsettled.push(given_back);
    }
    drop(obstruction);
    other.consume(4).await.nothing().await;
    for given_back in unsettled {
        let Unsettled { delivery, settlement, .. } = *given_back;
        consumer.settle(delivery, settlement).await;
    }
    let back = consumer.take(2).await;
    assert_eq!(back.iter().map(|delivery| (delivery.attempt, delivery.starts)).max(), Some((2, 0)));
    assert_eq!(sorted_ids(&back), ["job2", "job3"], "released and retried");
    assert_eq!(dead_ids(&process.dead().await), ["job1"]);
    consumer.nothing().await;
}

/// Clause S6: dropping a ticket does not take the settlement back.
pub async fn a_settlement_whose_ticket_is_dropped_is_made_true<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 40)).await;
    let mut consumer = process.consume(40).await;
    for (n, delivery) in consumer.take(40).await.into_iter().enumerate() {
        let settlement = if n % 2 == 0 { Settlement::Ack { reply: None } } else { bury(FailureKind::Error) };
        drop(consumer.settler.submit(delivery, settlement));
    }
    eventually("all are settled", async || {
        let stats = process.stats().await;
        (stats.running.unwrap_or(0) == 0 && stats.dead == 20).then_some(())
    })
    .await;
    consumer.nothing().await;
    assert_eq!(dead_ids(&process.dead().await).len(), 20);
}
