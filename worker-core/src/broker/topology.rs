//! What must exist in a broker, what to consume of it, and what it can do.

use std::num::NonZeroU16;

use serde::Serialize;

use crate::name::QueueName;

/// What must exist in the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// Queues, each with its dead-letter queue.
    pub queues: Vec<QueueName>,
}

impl Topology {
    /// These queues.
    pub fn queues(queues: impl IntoIterator<Item = QueueName>) -> Self {
        Self { queues: queues.into_iter().collect() }
    }
}

/// What [`Broker::declare`](super::Broker::declare) created, as opposed to found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// The queues that did not exist before.
    pub created: Vec<QueueName>,
}

impl Declared {
    /// These queues were created. For implementors of brokers.
    #[must_use]
    pub const fn created(created: Vec<QueueName>) -> Self {
        Self { created }
    }
}

/// What to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// The queue.
    pub queue: QueueName,
    /// The most unsettled deliveries to own.
    pub prefetch: NonZeroU16,
}

impl Subscription {
    /// `queue`, with at most `prefetch` unsettled deliveries.
    #[must_use]
    pub const fn new(queue: QueueName, prefetch: NonZeroU16) -> Self {
        Self { queue, prefetch }
    }
}

/// What a broker can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The broker's name, as in its URL.
    pub broker: &'static str,
    /// Jobs outlive the process.
    pub durable: bool,
    /// Several processes can share it.
    pub shared: bool,
    /// A retry happens in one step, so that a crash in it cannot duplicate the job.
    pub retry_is_atomic: bool,
    /// Higher priorities are delivered first.
    pub priorities: bool,
    /// [`Route::Exchange`](crate::envelope::Route::Exchange) works.
    pub exchanges: bool,
}

impl Capabilities {
    /// A broker of this name that can do nothing special. For implementors of brokers.
    #[must_use]
    pub const fn none(broker: &'static str) -> Self {
        Self { broker, durable: false, shared: false, retry_is_atomic: false, priorities: false, exchanges: false }
    }
}
