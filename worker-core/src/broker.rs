//! The contract between a worker and what stores its jobs.
//!
//! A broker keeps envelopes in queues, hands them out as deliveries, and makes
//! four settlements true. It says *what* must become true, never how, so that
//! SQLite can use one `UPDATE` where AMQP needs a confirmed publish and an
//! acknowledgement. Each clause below has a case in the conformance suite
//! (`tests/src/conformance`), which every broker passes; a clause without a
//! case does not exist.
//!
//! # Enqueue
//!
//! * **E1** `Ok` means durable: the job outlives a crash of this process and,
//!   where [`Capabilities::durable`] is set, of the machine.
//! * **E2** A batch of 1 to [`BATCH_MAX`] envelopes has one answer per envelope, in its order.
//! * **E3** An envelope for a queue that was not declared is `Unroutable`; its neighbours are not affected.
//! * **E4** What a broker cannot do is refused as `Unsupported`, by name, and nothing is stored.
//! * **E5** An id is no deduplication key: enqueued twice is two jobs.
//! * **E6** Id, name, body, headers, priority and dates arrive as they were sent.
//!
//! # Delivery
//!
//! * **D1** Jobs of one queue and priority are delivered in the order they were
//!   enqueued, as long as none was delivered before. There is no order between queues.
//! * **D2** Among those that wait, a higher priority is delivered first.
//! * **D3** A delayed job is never delivered early, and promptly when due. Dates have whole milliseconds.
//! * **D4** A delayed job holds up no other.
//! * **D5** A subscription never owns more than its prefetch of unsettled deliveries.
//! * **D6** [`Source::next_batch`] gives at most what was asked, waits while there is nothing, and wakes when a job arrives.
//! * **D7** Dropping the future of `next_batch` loses no delivery.
//! * **D8** A subscription gets jobs of its queue only.
//! * **D9** No delivery is owned by two consumers.
//! * **D10** An expiry date is carried, not acted on: the worker decides at the start.
//! * **D11** A first delivery has `attempt` 1 and `starts` 0.
//!
//! # Settlement
//!
//! * **S1** `Ack`: the job leaves its queue for good.
//! * **S2** `Release` without delay: it is delivered again at once, its attempt not counted, its starts as before.
//! * **S3** `Release` with a delay: not before it has passed, attempt not counted. A note is
//!   carried, also through releases without one, until another replaces it.
//! * **S4** `Retry`: not before the delay has passed, `attempt` one higher, `starts` 0, without a note.
//! * **S5** `DeadLetter`: the job is among the dead with failure, attempts, id, body and headers intact, and nowhere else.
//! * **S6** A delivery is settled once. What the broker cannot make true now comes back from the
//!   [`Ticket`], to be submitted again; what is no longer ours is [`SettleError::Lost`], and changes nothing.
//! * **S7** A settlement outlives a crash once its ticket is `Ok`.
//!
//! # Ownership
//!
//! A delivery is yours until you settle it or lose it. Brokers keep it yours by
//! their own means (a lease, a channel) and report its loss by one token.
//!
//! * **O1** [`Source::stop`] gives back what was fetched and not returned, attempts unchanged.
//! * **O2** What was returned before `stop` is still owned, and can be settled.
//! * **O3** When a process dies, its deliveries come back: those that had not begun
//!   unchanged, those that had ([`Settler::begin`]) with `starts` one higher. Attempts are unchanged.
//! * **O4** A job whose `starts` reach [`STARTS_MAX`] is dead-lettered as `Crashed`, not delivered.
//! * **O5** A subscription owns at most one suspect (`starts` above 0) at a time,
//!   and other jobs are delivered beside it.
//! * **O6** A lost delivery says so: its token is cancelled, `begin` refuses it,
//!   and settling it is `Lost`, even when its consumer was only frozen.
//! * **O7** Dropping both halves of a subscription in a living process gives back
//!   everything it owned, attempts and starts unchanged.
//!
//! # Inspection
//!
//! * **I1** [`Inspector::queues`] counts ready, running, delayed and dead jobs, and living
//!   consumers: from their first wait for jobs, at the latest, until they stop.
//! * **I2** Dead jobs are listed oldest first, in pages that neither repeat nor skip.
//! * **I3** Replay puts the selected dead jobs, and no other, back under their ids, attempt 1, without expiry dates.
//! * **I4** Replay and drop leave alone what died after the selection's date.
//! * **I5** Drop removes the selected ones for good.
//!
//! # The rest
//!
//! * **T1** Declaring is idempotent, and says what it created.
//! * **T2** Consuming a queue that was not declared is refused as `Permanent`.
//! * **X1** [`Broker::close`] finishes what was submitted and gives back what is owned, attempts
//!   and starts unchanged. After it, everything fails with an error; nothing hangs.

use std::{
    fmt,
    future::Future,
    num::NonZeroU16,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    envelope::{Body, Envelope, Headers, Priority},
    error::{BrokerError, EnqueueFailure},
    id::JobId,
    name::{JobName, QueueName},
    outcome::{Failure, FailureKind},
    settlement::Settlement,
    time::Timestamp,
};

/// The most envelopes in one [`Broker::enqueue`]: beyond it, one commit takes
/// long enough to hold up others, and gains nothing.
pub const BATCH_MAX: usize = 1_000;

/// A job is dead-lettered when its worker died this often while it ran.
///
/// Three, as in Sidekiq: once may be anything, twice a coincidence.
pub const STARTS_MAX: u32 = 3;

/// What stores envelopes and hands them out.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes sure the topology exists.
    ///
    /// # Errors
    ///
    /// * `Unsupported` — something in the topology cannot be had here; nothing was created.
    /// * `Transient`, `Permanent` — see the message; some of it may exist.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: declaring again completes it.
    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError>;

    /// Stores 1 to [`BATCH_MAX`] envelopes; one answer each, in their order.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future leaves the batch in an unknown state.
    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>>;

    /// Begins to consume a queue.
    ///
    /// # Errors
    ///
    /// `Permanent` when the queue was not declared.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what had been fetched is given back.
    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError>;

    /// The view for people; `None` when this broker has none.
    fn inspector(&self) -> Option<Arc<dyn Inspector>>;

    /// Finishes what was submitted and lets go of everything.
    ///
    /// # Errors
    ///
    /// What could not be finished.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: closing again completes it.
    async fn close(&self) -> Result<(), BrokerError>;
}

/// Where deliveries come from, in batches, so that neither a boxed future nor a task is paid per job.
#[async_trait]
pub trait Source: Send {
    /// Waits for deliveries: 1 to `max`, or none once [`stop`](Self::stop) was called.
    ///
    /// # Errors
    ///
    /// `Transient` — call again after a pause. `Permanent` — it will not get better.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was fetched is returned by the next call.
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// Takes no more, and gives back what was fetched and not returned.
    ///
    /// # Errors
    ///
    /// What could not be given back; the broker does so when the process ends.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: stopping again completes it.
    async fn stop(&mut self) -> Result<(), BrokerError>;
}

/// The other half: telling the broker. `submit` does not wait, so acknowledgements can be coalesced behind it.
pub trait Settler: Send + Sync {
    /// Records that the job is about to start, so that a crash is blamed on the right one.
    ///
    /// Does not wait and is cheap: called for every job, right before it starts.
    /// Calling it again for the same delivery changes nothing.
    fn begin(&self, delivery: &Delivery) -> Begin;

    /// Asks the broker to make `settlement` true about `delivery`.
    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket;
}

/// What [`Settler::begin`] answers.
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
    /// The job.
    pub envelope: Envelope,
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
    pub const fn new(
        envelope: Envelope,
        queue: QueueName,
        (attempt, starts): (u32, u32),
        receipt: Receipt,
        lost: CancellationToken,
    ) -> Self {
        Self { envelope, queue, attempt, starts, receipt, lost }
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
    /// Which hand-out or part of that delivery: a fence, or an index in a bundle.
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

/// What [`Broker::declare`] created, as opposed to found.
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

/// What people do to queues. The worker never uses it.
#[async_trait]
pub trait Inspector: Send + Sync {
    /// All declared queues, by name.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    async fn queues(&self) -> Result<Vec<QueueStats>, BrokerError>;

    /// The selected dead jobs, oldest first, one page.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    async fn dead(&self, selection: &Selection, page: Page) -> Result<DeadPage, BrokerError>;

    /// How many dead jobs are selected: what a change would affect.
    ///
    /// # Errors
    ///
    /// The broker could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    async fn count_dead(&self, selection: &Selection) -> Result<u64, BrokerError>;

    /// Puts at most `limit` of the selected dead jobs back into their queues, oldest first; says how many.
    ///
    /// # Errors
    ///
    /// The broker could not be changed; none of this call's jobs was.
    ///
    /// # Cancel safety
    ///
    /// Each call is one step that happens wholly or not at all; when its future
    /// is dropped, which of the two is unknown.
    async fn replay(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError>;

    /// Removes at most `limit` of the selected dead jobs for good, oldest first; says how many.
    ///
    /// # Errors
    ///
    /// The broker could not be changed; none of this call's jobs was.
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
    /// Jobs that a worker owns, running or prefetched.
    pub running: u64,
    /// Jobs that are not due yet.
    pub delayed: u64,
    /// Jobs in the dead-letter queue.
    pub dead: u64,
    /// Living consumers.
    pub consumers: u64,
}

impl QueueStats {
    /// An empty queue. For implementors of brokers.
    #[must_use]
    pub const fn empty(queue: QueueName) -> Self {
        Self { queue, ready: 0, running: 0, delayed: 0, dead: 0, consumers: 0 }
    }
}

/// Which dead jobs. Every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// Of this job type.
    pub job: Option<JobName>,
    /// With this kind of failure.
    pub kind: Option<FailureKind>,
    /// With one of these ids; empty for any.
    pub ids: Vec<JobId>,
    /// Dead since this date or before, so that a long replay ends although jobs die again meanwhile.
    pub died_until: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// After this place; `None` for the beginning.
    pub after: Option<Cursor>,
    /// The most rows, 1 to [`BATCH_MAX`].
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
pub struct Cursor(pub u64);

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

/// The failure of a job that is dead-lettered because its worker died too often while it ran.
#[must_use]
pub fn crashed(starts: u32) -> Failure {
    let message = format!("its worker process was gone before the job ended, {starts} times");
    Failure::new(FailureKind::Crashed, message)
}

/// How many executions failed, for a dead letter of this kind that was delivered as `attempt`.
///
/// A job that expired or that no worker knew was never run this time, and a
/// crash is counted apart, in `starts`.
#[must_use]
pub const fn attempts_failed(kind: FailureKind, attempt: u32) -> u32 {
    match kind {
        FailureKind::Crashed | FailureKind::Expired | FailureKind::UnknownJob => attempt.saturating_sub(1),
        _ => attempt,
    }
}

/// How long a consumer may be silent before others take over what it owns, where a broker uses leases.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
