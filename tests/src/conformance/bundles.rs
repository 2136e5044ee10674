//! Jobs that share a message, where a broker has messages: each is one as any other all the same.

use std::{num::NonZeroU16, time::Duration};

use worker_core::{
    Clock as _, FailureKind, TokioClock,
    broker::{Broker as _, Delivery, Ticket},
    envelope::{Due, Envelope},
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    eventually::soon,
    fixture::BrokerFixture,
    sample::{ENQUEUED_AT, bury, dead_ids, ids, job, jobs, release, retry, sorted_ids},
};

/// The job, which may share a message with others up to `most`.
fn shared(most: u16, job: Envelope) -> Envelope {
    let mut job = job;
    job.bundle = NonZeroU16::new(most);
    job
}

/// `count` jobs that may all be in one message.
fn bundle(prefix: &str, count: u16) -> impl Iterator<Item = Envelope> {
    jobs(prefix, count.into()).map(move |job| shared(count, job))
}

fn named(prefix: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{prefix}{n}")).collect()
}

/// Submits without waiting: an answer may come when all of the bundle is settled.
fn submit(consumer: &Consumer, delivery: Delivery, settlement: Settlement) -> Ticket {
    consumer.begin(&delivery);
    consumer.settler.submit(delivery, settlement)
}

async fn told(tickets: Vec<Ticket>) {
    for ticket in tickets {
        soon("a settlement is answered", ticket).await.expect("it can be settled");
    }
}

/// Clause B1: several messages and one that is not full, among jobs that travel alone.
pub async fn each_job_of_a_bundle_is_delivered_as_it_was_sent_and_in_its_order<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let with_headers = |n: usize, mut job: Envelope| {
        job.headers.insert("number", n);
        job.expires_at = n.is_multiple_of(2).then_some(ENQUEUED_AT + Duration::from_secs(400 * 86_400));
        if n % 50 == 7 { job } else { shared(20, job) }
    };
    process.enqueue(jobs("job", 150).enumerate().map(|(n, job)| with_headers(n, job))).await;
    let mut consumer = process.consume(200).await;
    let all = consumer.take(150).await;
    assert_eq!(ids(&all), named("job", 0..150));
    for (n, delivery) in all.iter().enumerate() {
        let mut sent = with_headers(n, job(format!("job{n}")));
        sent.bundle = None;
        assert_eq!((&*delivery.envelope, delivery.attempt, delivery.starts), (&sent, 1, 0));
    }
    consumer.ack_all(all).await;
    consumer.nothing().await;
}

/// Clause B2, B3: one of each, in one message.
pub async fn jobs_of_a_bundle_are_settled_each_in_its_own_way<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(bundle("job", 6)).await;
    let mut consumer = process.consume(10).await;
    let settlements = [
        Settlement::Ack { reply: None },
        bury(FailureKind::Error),
        release(Duration::ZERO),
        retry(Duration::ZERO),
        release(Duration::from_millis(40)),
        Settlement::Ack { reply: None },
    ];
    let owned = consumer.take(6).await;
    let submitted = owned.into_iter().zip(settlements);
    told(submitted.map(|(delivery, settlement)| submit(&consumer, delivery, settlement)).collect()).await;
    let mut back = consumer.take(3).await;
    back.sort_by_key(|delivery| delivery.envelope.id.to_string());
    let seen = back.iter().map(|delivery| (delivery.envelope.id.to_string(), delivery.attempt, delivery.starts));
    let expected = [("job2", 1), ("job3", 2), ("job4", 1)].map(|(id, attempt)| (id.to_owned(), attempt, 0));
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    for delivery in back {
        assert_eq!(delivery.envelope.body, job(delivery.envelope.id.to_string()).body);
        consumer.ack(delivery).await;
    }
    consumer.nothing().await;
    assert_eq!(dead_ids(&process.dead().await), ["job1"]);
}

/// Clause B2: one that is given back does not wait for its neighbours, which still run.
pub async fn a_released_job_does_not_wait_for_its_bundle<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(bundle("job", 4)).await;
    let mut consumer = process.consume(10).await;
    let mut owned = consumer.take(4).await;
    let tickets = vec![submit(&consumer, owned.remove(1), release(Duration::ZERO))];
    let again = consumer.expect("job1").await;
    assert_eq!((again.attempt, again.starts), (1, 0));
    consumer.ack(again).await;
    consumer.ack_all(owned).await;
    told(tickets).await;
    consumer.nothing().await;
}

/// Clause B4: of what was fetched, those that nobody took go to others, and the rest can still be settled.
pub async fn stopping_gives_back_the_jobs_of_a_bundle_that_nobody_took<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(bundle("job", 10)).await;
    let mut stopping = process.consume(10).await;
    let taken = stopping.take(3).await;
    stopping.stop().await;
    let mut next = other.consume(10).await;
    let rest = next.take(7).await;
    assert_eq!(ids(&rest), named("job", 3..10));
    assert!(rest.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{rest:?}");
    stopping.ack_all(taken).await;
    next.ack_all(rest).await;
    next.nothing().await;
}

/// Clause B4: a bundle half done comes back as what is left of it.
pub async fn a_bundle_half_done_comes_back_as_what_is_left<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(bundle("job", 9)).await;
    let mut dropped = process.consume(10).await;
    let mut owned = dropped.take(9).await;
    let done = owned.drain(..4).map(|delivery| submit(&dropped, delivery, Settlement::Ack { reply: None })).collect();
    owned.iter().take(2).for_each(|delivery| dropped.begin(delivery));
    let Consumer { source, settler, .. } = dropped;
    drop((source, settler));
    told(done).await;
    let mut next = other.consume(10).await;
    let back = next.take(5).await;
    assert_eq!(sorted_ids(&back), named("job", 4..9));
    assert!(back.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{back:?}");
    next.ack_all(back).await;
    next.nothing().await;
}

/// Clause B5: nothing is lost with a process, and what comes twice had been done by it.
pub async fn a_death_brings_back_a_bundle_that_was_not_all_settled<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    doomed.enqueue(bundle("job", 6)).await;
    let mut consumer = doomed.consume(10).await;
    let mut owned = consumer.take(6).await;
    let capabilities = doomed.broker.capabilities();
    let done: Vec<_> =
        owned.drain(..2).map(|delivery| submit(&consumer, delivery, Settlement::Ack { reply: None })).collect();
    if !capabilities.bundles {
        told(done).await;
    }
    doomed.crash().await;
    let expected = named("job", if capabilities.bundles { 0..6 } else { 2..6 });
    let mut next = other.consume(20).await;
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let delivery = next.one().await;
        assert_eq!(delivery.attempt, 1);
        assert_eq!(delivery.starts, u32::from(!capabilities.exact_blame), "{delivery:?}");
        seen.push(delivery.envelope.id.to_string());
        next.ack(delivery).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, expected);
    next.nothing().await;
    assert!(other.dead().await.is_empty());
}

/// Clause B1: all of them, when they are due and not before.
pub async fn a_delayed_bundle_comes_when_it_is_due<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let delay = Duration::from_millis(300);
    let mut consumer = process.consume(10).await;
    let watch = TokioClock::starting_now();
    let start = watch.now();
    let delayed = |mut job: Envelope| {
        job.due = Due::In(delay);
        job
    };
    process.enqueue(bundle("job", 5).map(delayed)).await;
    let all = consumer.take(5).await;
    let waited = watch.now().since(start);
    assert!(waited >= delay && waited <= delay + fx.lateness(), "after {waited:?} instead of {delay:?}");
    assert_eq!(ids(&all), named("job", 0..5));
    assert!(all.iter().all(|delivery| delivery.envelope.due == Due::Now));
    consumer.ack_all(all).await;
    consumer.nothing().await;
}
