//! The view for people: queues in numbers, dead letters, replay.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    broker::{Finding, Plan},
    envelope::{Body, Headers, Priority},
    error::BrokerError,
    id::JobId,
    name::{JobName, QueueName},
    outcome::{Failure, FailureKind},
    time::Timestamp,
};

/// What people do to queues. The worker never uses it.
#[async_trait]
pub trait Inspector: Send + Sync {
    /// All declared queues, by name. A broker that cannot list its queues
    /// ([`Capabilities::counts_all`](super::Capabilities::counts_all)) answers for those
    /// of `known` that exist, and those it has met in this process.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    async fn queues(&self, known: &[QueueName]) -> Result<Vec<QueueStats>, BrokerError>;

    /// Whether `queue` was declared; `None` where this user may not know.
    ///
    /// # Errors
    ///
    /// The broker could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn exists(&self, queue: &QueueName) -> Result<Option<bool>, BrokerError> {
        let found = self.queues(std::slice::from_ref(queue)).await?;
        Ok(Some(found.iter().any(|stats| stats.queue == *queue)))
    }

    /// How many jobs of each of these queues workers own, where that is not in their [statistics](Self::queues) because
    /// it takes another question: on RabbitMQ one to the management API, where that was named. Of a queue that is not
    /// among them it is not known. The number may be some seconds old.
    ///
    /// # Errors
    ///
    /// Who should know could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn running(&self, queues: &[QueueName]) -> Result<BTreeMap<QueueName, u64>, BrokerError> {
        let _ = queues;
        Ok(BTreeMap::new())
    }

    /// How many retries of `queue` wait, where that is not in its [statistics](Self::queues) because it costs a
    /// question for each queue in which they could. On RabbitMQ those that wait on the queue's own rungs; the
    /// others are [scheduled](Self::scheduled).
    ///
    /// # Errors
    ///
    /// The broker could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn retrying(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError> {
        let _ = queue;
        Ok(None)
    }

    /// Jobs that wait where all queues share their waits, if this broker has such a place.
    ///
    /// # Errors
    ///
    /// The broker could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn scheduled(&self) -> Result<Option<Scheduled>, BrokerError> {
        Ok(None)
    }

    /// How each thing in `plan` is here, in its order: queues, exchanges, bindings. What this broker or this
    /// user cannot see is [`Unseen`](super::Standing::Unseen).
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    async fn compare(&self, plan: &Plan) -> Result<Vec<Finding>, BrokerError>;

    /// The selected dead jobs, oldest first, one page.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing. (RabbitMQ shows dead letters only to who takes them: while one
    /// reads, others wait, and what was taken goes back to its place also when this is dropped.)
    async fn dead(&self, selection: &Selection, page: Page) -> Result<DeadPage, BrokerError>;

    /// How many dead jobs are selected: what a change would affect.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing. (RabbitMQ shows dead letters only to who takes them: while one
    /// reads, others wait, and what was taken goes back to its place also when this is dropped.)
    async fn count_dead(&self, selection: &Selection) -> Result<u64, BrokerError>;

    /// Puts at most `limit` of the selected dead jobs back into their queues, oldest first; says how many.
    ///
    /// Where [`Capabilities::retry_is_atomic`](super::Capabilities::retry_is_atomic) is set, each
    /// call is one step that happens wholly or not at all. Elsewhere it goes job by job, first
    /// into the queue and then out of the dead: a failure between the two leaves it in both.
    ///
    /// # Errors
    ///
    /// The broker could not be changed: none of this call's jobs was, or, without atomic
    /// steps, not all of them.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; when its future is dropped, how much was done is unknown.
    async fn replay(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError>;

    /// Removes at most `limit` of the selected dead jobs for good, oldest first; says how many.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    ///
    /// # Cancel safety
    ///
    /// As [`replay`](Self::replay).
    async fn drop_dead(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError>;
}

/// One queue in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// The queue.
    pub queue: QueueName,
    /// Jobs that wait for a worker.
    pub ready: u64,
    /// Jobs that a worker owns, running or prefetched; `None` where the broker cannot tell without more ado, see
    /// [`Inspector::running`].
    pub running: Option<u64>,
    /// Jobs that are not due yet; `None` where the broker cannot tell.
    pub delayed: Option<u64>,
    /// Those of them that have failed before; `None` where the broker cannot tell without more ado, see
    /// [`Inspector::retrying`].
    pub retrying: Option<u64>,
    /// Jobs in the dead-letter queue.
    pub dead: u64,
    /// Living consumers.
    pub consumers: u64,
}

impl QueueStats {
    /// An empty queue. For implementors of brokers.
    #[must_use]
    pub const fn empty(queue: QueueName) -> Self {
        Self { queue, ready: 0, running: Some(0), delayed: Some(0), retrying: Some(0), dead: 0, consumers: 0 }
    }

    /// Jobs that have not come to their end, as far as the broker can tell.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.ready + self.running.unwrap_or(0) + self.delayed.unwrap_or(0)
    }
}

/// Jobs that wait where all queues share their waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Scheduled {
    /// What the place is called: the beginning of its queues' names.
    pub namespace: String,
    /// How many wait.
    pub jobs: u64,
}

impl Scheduled {
    /// So many in the place of this name. For implementors of brokers.
    #[must_use]
    pub const fn new(namespace: String, jobs: u64) -> Self {
        Self { namespace, jobs }
    }
}

/// Which dead jobs. Every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Of one of these queues; empty for any.
    pub queues: Vec<QueueName>,
    /// Of this job type.
    pub job: Option<JobName>,
    /// With this kind of failure.
    pub kind: Option<FailureKind>,
    /// With one of these ids; empty for any.
    pub ids: Vec<JobId>,
    /// Where the broker cannot list its queues and none is chosen: the queues to look in,
    /// beside those it has met in this process.
    pub known: Vec<QueueName>,
    /// Dead since this date or before, so that a long replay ends although jobs die again meanwhile.
    pub died_until: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// After this place; `None` for the beginning.
    pub after: Option<Cursor>,
    /// The most rows, 1 to [`BATCH_MAX`](super::BATCH_MAX).
    pub limit: usize,
}

impl Page {
    /// The first `limit` rows.
    #[must_use]
    pub const fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    /// The `limit` rows after `cursor`.
    #[must_use]
    pub const fn after(cursor: Cursor, limit: usize) -> Self {
        Self { after: Some(cursor), limit }
    }
}

/// A place in a listing: plain data, meaningful to the broker that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u128);

/// One page of dead jobs.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct DeadPage {
    /// The jobs, oldest first.
    pub jobs: Vec<DeadJob>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

impl DeadPage {
    /// A page. For implementors of brokers.
    #[must_use]
    pub const fn new(jobs: Vec<DeadJob>, next: Option<Cursor>) -> Self {
        Self { jobs, next }
    }
}

/// A job that left its queue without success, kept for people.
#[derive(Clone, PartialEq)]
pub struct DeadJob {
    /// Its id.
    pub id: JobId,
    /// The queue it left.
    pub queue: QueueName,
    /// Its type, where the producer named one.
    pub job: Option<JobName>,
    /// Executions that failed, the last one included; 0 when it never ran.
    pub attempts: u32,
    /// Starts that never ended.
    pub starts: u32,
    /// Why it is here.
    pub failure: Failure,
    /// Since when.
    pub died_at: Timestamp,
    /// When it was enqueued first.
    pub enqueued_at: Timestamp,
    /// Its priority.
    pub priority: Priority,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub body: Body,
}

impl fmt::Debug for DeadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadJob")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("job", &self.job)
            .field("attempts", &self.attempts)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
