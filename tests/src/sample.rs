//! Jobs, settlements and selections as the conformance cases use them.

use std::time::Duration;

use worker_core::{
    Failure, FailureKind, QueueName, Timestamp,
    broker::{DeadJob, Delivery, QueueStats, Selection},
    envelope::Envelope,
    settlement::Settlement,
};

/// The queue of most cases.
pub const QUEUE: &str = "q";

/// When the jobs of the cases were enqueued first: brokers carry this date, and read nothing from it.
pub const ENQUEUED_AT: Timestamp = Timestamp::from_unix_ms(1_700_000_000_123);

/// A queue's name.
#[must_use]
pub fn queue_name(name: &str) -> QueueName {
    name.parse().unwrap()
}

/// A job of this id for [`QUEUE`].
#[must_use]
pub fn job(id: impl AsRef<str>) -> Envelope {
    job_for(QUEUE, id)
}

/// A job of this id for `queue`.
#[must_use]
pub fn job_for(queue: &str, id: impl AsRef<str>) -> Envelope {
    let id = id.as_ref();
    let (name, body) = (Some("case".parse().unwrap()), format!("{{\"id\":\"{id}\"}}"));
    Envelope::new(id.parse().unwrap(), queue_name(queue), name, body, ENQUEUED_AT)
}

/// `count` jobs for [`QUEUE`], called `prefix` and a number from 0 on.
pub fn jobs(prefix: &str, count: usize) -> impl Iterator<Item = Envelope> {
    (0..count).map(move |n| job(format!("{prefix}{n}")))
}

/// The job goes back as if it had not been delivered.
#[must_use]
pub const fn release(after: Duration) -> Settlement {
    Settlement::Release { after, note: None }
}

/// The attempt failed and is to be repeated.
#[must_use]
pub fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, failure: Failure::new(FailureKind::Error, "try again") }
}

/// The job failed for good.
#[must_use]
pub fn bury(kind: FailureKind) -> Settlement {
    Settlement::DeadLetter { failure: Failure::new(kind, format!("it is {kind}")) }
}

/// The same delivery once more, as a program with a mistake would hold it.
#[must_use]
pub fn copy(delivery: &Delivery) -> Delivery {
    let counts = (delivery.attempt, delivery.starts);
    let Delivery { envelope, queue, receipt, lost, .. } = delivery;
    Delivery::new(envelope.clone(), queue.clone(), counts, *receipt, lost.clone())
}

/// The ids of these deliveries.
#[must_use]
pub fn ids<'d>(deliveries: impl IntoIterator<Item = &'d Delivery>) -> Vec<String> {
    deliveries.into_iter().map(|delivery| delivery.envelope.id.to_string()).collect()
}

/// The ids of these deliveries, in their own order.
#[must_use]
pub fn sorted_ids<'d>(deliveries: impl IntoIterator<Item = &'d Delivery>) -> Vec<String> {
    let mut ids = ids(deliveries);
    ids.sort_unstable();
    ids
}

/// The ids of these dead jobs, oldest first as they came.
#[must_use]
pub fn dead_ids(dead: &[DeadJob]) -> Vec<String> {
    dead.iter().map(|dead| dead.id.to_string()).collect()
}

/// A selection with what `set` sets.
#[must_use]
pub fn selection(set: impl FnOnce(&mut Selection)) -> Selection {
    let mut selection = Selection::default();
    set(&mut selection);
    selection
}

/// One settlement of each kind.
#[must_use]
pub fn four_settlements() -> [Settlement; 4] {
    [Settlement::Ack { reply: None }, bury(FailureKind::Error), release(Duration::ZERO), retry(Duration::ZERO)]
}

/// Whether these are the numbers of ready, running, delayed and dead jobs, as far as the broker knows them.
#[must_use]
pub fn counts_are(stats: &QueueStats, [ready, running, delayed, dead]: [u64; 4]) -> bool {
    stats.ready == ready
        && stats.running.is_none_or(|counted| counted == running)
        && stats.delayed.is_none_or(|counted| counted == delayed)
        && stats.dead == dead
}

/// Asserts that these are the numbers of ready, running, delayed and dead jobs, as far as the broker knows them.
///
/// # Panics
///
/// When they are not.
pub fn assert_counts(stats: &QueueStats, expected: [u64; 4]) {
    assert!(counts_are(stats, expected), "{stats:?} where {expected:?} were expected");
}

/// Asserts that a number is this one, where the broker knows it.
///
/// # Panics
///
/// When it is another.
pub fn assert_known(counted: Option<u64>, expected: u64) {
    assert_eq!(counted.unwrap_or(expected), expected);
}
