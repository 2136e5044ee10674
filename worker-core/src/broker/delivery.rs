//! An envelope in a consumer's hands, and the answer to giving it up.

use std::{
    future::Future,
    pin::Pin,
    task::{Context as Task, Poll},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    envelope::Envelope,
    error::BrokerError,
    name::QueueName,
    outcome::{Failure, FailureKind},
    settlement::Settlement,
};

/// What [`Settler::begin`](super::Settler::begin) answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begin {
    /// Start it.
    Go,
    /// Do not start it: it may have killed a worker, and was moved to where such jobs run one at a time.
    Moved,
    /// Do not start it: it is no longer ours.
    Lost,
}

/// An envelope handed to us, ours until settled or lost.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The job; boxed, since a delivery changes hands a dozen times.
    pub envelope: Box<Envelope>,
    /// Where it was fetched from.
    pub queue: QueueName,
    /// 1 on the first run: executions that were started and not released, and this one.
    pub attempt: u32,
    /// Starts that never ended: the worker was gone before the job was settled.
    pub starts: u32,
    /// What the broker knows it by.
    pub receipt: Receipt,
    /// Cancelled when the delivery is no longer ours; one token for all of an epoch.
    pub lost: CancellationToken,
}

impl Delivery {
    /// A delivery of `envelope` from `queue`. For implementors of brokers.
    #[must_use]
    pub fn new(
        envelope: impl Into<Box<Envelope>>,
        queue: QueueName,
        (attempt, starts): (u32, u32),
        receipt: Receipt,
        lost: CancellationToken,
    ) -> Self {
        Self { envelope: envelope.into(), queue, attempt, starts, receipt, lost }
    }

    /// Whether its worker was gone before it ended at least once.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.starts > 0
    }
}

/// What a broker knows a delivery by: plain data, meaningful to the broker that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Which incarnation of the connection or lease handed it out.
    pub epoch: u64,
    /// Which delivery of that incarnation.
    pub tag: u64,
    /// Which hand-out or part of that delivery: a fence, or, where [`Capabilities::bundles`](super::Capabilities::bundles)
    /// is set, the index in a bundle.
    pub part: u64,
}

/// Resolves when the broker has made a settlement true, or gives the delivery back.
///
/// # Cancel safety
///
/// Dropping it does not take the settlement back.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<(), SettleError>>);

impl Ticket {
    /// A ticket and the means to resolve it; dropping the latter resolves it as lost.
    #[must_use]
    pub fn pending() -> (oneshot::Sender<Result<(), SettleError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// A ticket that is resolved already.
    #[must_use]
    pub fn resolved(answer: Result<(), SettleError>) -> Self {
        let (sender, ticket) = Self::pending();
        drop(sender.send(answer));
        ticket
    }
}

impl Future for Ticket {
    type Output = Result<(), SettleError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(task).map(|answer| answer.unwrap_or(Err(SettleError::Lost)))
    }
}

/// A settlement that was not made true.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettleError {
    /// The delivery was no longer ours; nothing changed. It is delivered again elsewhere.
    Lost,
    /// Nothing changed. The delivery is still ours: submit it again after a pause.
    Unsettled(Box<Unsettled>),
}

/// What could not be settled, given back so that it can be submitted again.
#[derive(Debug)]
pub struct Unsettled {
    /// Still ours.
    pub delivery: Delivery,
    /// What should have become true.
    pub settlement: Settlement,
    /// Why it did not.
    pub error: BrokerError,
}

/// The failure of a job that is dead-lettered because its worker died too often while it ran.
#[must_use]
pub fn crashed(starts: u32) -> Failure {
    let message =
        format!("its worker, or that one's connection to the broker, was gone before the job ended, {starts} times");
    Failure::new(FailureKind::Crashed, message)
}

/// How many executions failed, for a dead letter of this kind that was delivered as `attempt`.
///
/// A job that expired or that no worker knew was never run this time, and a
/// crash is counted apart, in `starts`.
#[must_use]
pub const fn attempts_failed(kind: FailureKind, attempt: u32) -> u32 {
    match kind {
        FailureKind::Crashed | FailureKind::Expired | FailureKind::UnknownJob | FailureKind::Unroutable => {
            attempt.saturating_sub(1)
        }
        _ => attempt,
    }
}
