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
//!   enqueued, as long as none was delivered before, nor, where
//!   [`Capabilities::keeps_place`] is not set, fetched; nor is the subscription resized, where that is
//!   [not in order](Broker::resizes_in_order). There is no order between queues.
//! * **D2** Among those that wait, a higher priority is delivered first: in every queue where
//!   [`Capabilities::priorities`] is set, and where [`Capabilities::queue_priorities`] is, in those that were declared with
//!   a [`max_priority`](crate::queue::QueueOptions::max_priority). Where [`Capabilities::two_priorities`] is set instead,
//!   two of what is above the usual one come for one of the rest. What was delivered and
//!   comes back comes before all that wait where [`Capabilities::ranks_returned`] is not set;
//!   a retry waits by its priority everywhere.
//! * **D3** A delayed job is never delivered early, and promptly when due. Dates have whole milliseconds.
//! * **D4** A delayed job holds up no other.
//! * **D5** A subscription never owns more than its prefetch of unsettled deliveries, and, where
//!   [`Capabilities::exact_blame`] is not set, one suspect beside them. Of jobs that share a message
//!   it counts the messages.
//! * **D6** [`Source::next_batch`] gives at most what was asked, waits while there is nothing, and wakes when a job arrives.
//! * **D7** Dropping the future of `next_batch` loses no delivery.
//! * **D8** A subscription gets jobs of its queue only.
//! * **D9** No delivery is owned by two consumers.
//! * **D10** An expiry date is carried, not acted on: the worker decides at the start.
//! * **D11** A first delivery has `attempt` 1 and `starts` 0.
//! * **D12** [`Source::resize`] changes the prefetch of a subscription that lives, upwards from what it began with and back.
//!   What was fetched before stays owned, and is still returned; no more than the new prefetch is owned beside it, and once
//!   that is settled, D5 holds of the new prefetch. Attempts are unchanged by it, and starts too, but for one that crosses
//!   the change where [`Capabilities::exact_blame`] is not set.
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
//! * **S8** [`Settler::submit_all`] is [`submit`](Settler::submit) of each: one ticket for each, in that order, and none
//!   suffers for another.
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
//!   Where [`Capabilities::exact_blame`] is not set, those that had not begun come with
//!   `starts` one higher too.
//! * **O4** A job whose `starts` reach [`STARTS_MAX`] is dead-lettered as `Crashed`, not delivered.
//! * **O5** A subscription owns at most one suspect (`starts` above 0) at a time,
//!   and other jobs are delivered beside it.
//! * **O6** A lost delivery says so: its token is cancelled, `begin` refuses it,
//!   and settling it is `Lost`, even when its consumer was only frozen.
//! * **O7** Dropping both halves of a subscription in a living process gives back
//!   everything it owned, attempts and starts unchanged.
//!
//! # Exchanges
//!
//! Where [`Capabilities::exchanges`] is set. The rules by which an exchange chooses are those of
//! [`Binding::takes`](crate::exchange::Binding::takes).
//!
//! * **P1** What is published to an exchange is copied into every queue with a binding that takes
//!   it: one copy per queue, however many of its bindings do.
//! * **P2** Each copy is a job of its own, with the id it was published with: settling one changes
//!   no other, and a retry comes back to its own queue only.
//! * **P3** Where no queue is chosen, the answer is `Unroutable` if it was mandatory, and `Ok` if not.
//! * **P4** Publishing to an exchange that was not declared, or binding one or a queue that was not, is
//!   refused as `Permanent`, by name; its neighbours are not affected.
//! * **P5** A copy says by which exchange and key it came ([`Envelope::origin`]), through retries,
//!   dead-lettering and replay.
//! * **P6** Declaring an exchange that exists with another kind is refused as `Permanent`, with both
//!   kinds. Declaring a binding twice changes nothing.
//! * **P7** A delay to an exchange is refused as `Unsupported`.
//! * **P8** Exchanges and bindings are there for all processes, as queues are, and as durable.
//!
//! # Calls
//!
//! Where [`Capabilities::calls`] is set. A *call* is a job whose enqueuer waits for what it returns.
//!
//! * **C1** [`Broker::call`] answers with the reply that the job's [`Settlement::Ack`] has; until then
//!   the job is one as any other: released, retried and taken over with its [`Caller`](crate::envelope::Caller).
//! * **C2** No call gets the reply of another, whatever the ids of their jobs.
//! * **C3** Dropping the future of `call` forgets it: the job is run all the same, and its reply
//!   changes nothing.
//! * **C4** A caller that is gone costs the worker nothing: the settlement is `Ok`, and the job leaves its
//!   queue. Where the broker knows that it is gone, a failure is among the dead.
//! * **C5** A call to a queue that was not declared is `Unroutable`, at once.
//! * **C6** The reply finds the caller whichever process settles the job.
//! * **C7** A dead letter has no caller any more: replayed, it is a job that nobody waits for.
//! * **C8** Closing the caller's broker ends its calls with an error.
//!
//! # Bundles
//!
//! Jobs that are enqueued together and may share a message ([`Envelope::bundle`]) do so where [`Capabilities::bundles`]
//! is set; where it is not, that makes no difference.
//!
//! * **B1** Each is delivered as a job of its own, with all that it was sent with, in its order and when it is due.
//! * **B2** Each is settled by itself, and what becomes of one changes no other: it is released, retried or dead-lettered
//!   at once, also while others of its bundle run.
//! * **B3** A ticket may wait until all jobs of the bundle are settled.
//! * **B4** What was given back of a bundle comes back as any job does, and what was settled of it does not.
//! * **B5** Where a process dies with a bundle of which one job was not settled, all of it comes back, where the capability
//!   is set: also what was acknowledged.
//!
//! # Inspection
//!
//! * **I1** [`Inspector::queues`] counts ready, running, delayed, retrying ([`Inspector::retrying`], where that
//!   is a question of its own) and dead jobs, and living consumers: from their first wait for jobs, at the latest, until they stop. One that is
//!   [larger](Source::resize) than it began may count as two. Where
//!   [`Capabilities::counts_all`] is not set, what it cannot count it says not to know.
//!   [`Inspector::exists`] tells one that was declared from one that was not.
//! * **I2** Dead jobs are listed oldest first, in pages that neither repeat nor skip.
//! * **I3** Replay puts a dead job back into its queue under its id, attempt 1, without an
//!   expiry date; only the selected ones.
//! * **I4** Replay and drop leave alone what died after the selection's date.
//! * **I5** Drop removes the selected ones for good.
//!
//! # The rest
//!
//! * **T1** Declaring is idempotent, and says what it created; of several that declare
//!   the same at once, at least one.
//! * **T2** Consuming a queue that was not declared is refused as `Permanent`.
//! * **T3** What is [asked of a queue](crate::queue::QueueOptions) holds of the one that is made for it. A queue that is
//!   there and cannot be that is refused as `Permanent`, with what differs, and is left as it is; what a broker has no
//!   choice about is ignored.
//! * **T4** What a [`Plan`] of this broker has is there once it was [applied](Broker::apply): then
//!   [`Inspector::compare`] finds nothing missing or different. Before, it says what is missing,
//!   and comparing creates nothing.
//! * **X1** [`Broker::close`] finishes what was submitted and gives back what is owned, attempts
//!   and starts unchanged. After it, everything fails with an error; nothing hangs.

mod callers;
mod delivery;
mod inspect;
mod plan;
mod topology;

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    envelope::Envelope,
    error::{BrokerError, CallFailure, EnqueueFailure},
    reply::Reply,
    settlement::Settlement,
};

pub use callers::CALLS_MAX;
pub(crate) use callers::Callers;
pub use delivery::{Begin, Delivery, Receipt, SettleError, Ticket, Unsettled, attempts_failed, crashed};
pub use inspect::{Cursor, DeadJob, DeadPage, Inspector, Page, QueueStats, Scheduled, Selection};
pub(crate) use plan::once;
pub use plan::{Finding, Made, Needs, Plan, PlannedQueue, Role, Standing, What};
pub use topology::{Capabilities, Declared, Reach, Subscription, Topology};

/// The most envelopes in one [`Broker::enqueue`]: beyond it, one commit takes
/// long enough to hold up others, and gains nothing.
pub const BATCH_MAX: usize = 1_000;

/// A job is dead-lettered when its worker died this often while it ran.
///
/// Three, as in Sidekiq: once may be anything, twice a coincidence.
pub const STARTS_MAX: u32 = 3;

/// How long a consumer may be silent before others take over what it owns, where a broker uses leases.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// What stores envelopes and hands them out.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// How the way to what stores the jobs is now: for probes, cheap, without asking anyone.
    fn reach(&self) -> Reach {
        Reach::Up
    }

    /// How long an [`enqueue`](Self::enqueue) takes at most until this broker itself says what it knows; `None`
    /// where it sets no limit. A client that waits longer hears the reason instead of its own "no answer".
    fn enqueue_limit(&self) -> Option<Duration> {
        None
    }

    /// How many queues one process can consume; `None` for any number.
    fn queues_at_most(&self) -> Option<usize> {
        None
    }

    /// Whether what a [resized](Source::resize) subscription is delivered keeps its order.
    fn resizes_in_order(&self) -> bool {
        true
    }

    /// How long a worker may hold a delivery before it is taken away; `None` for as long as it lives.
    fn held_at_most(&self) -> Option<Duration> {
        None
    }

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

    /// Everything that must exist here for `needs`, down to what this broker makes by itself. Pure: nobody is asked.
    fn plan(&self, needs: &Needs) -> Plan {
        Plan::plain(needs)
    }

    /// Makes sure that everything in `plan` exists, also what is otherwise made when the first job needs it.
    ///
    /// # Errors
    ///
    /// As [`declare`](Self::declare).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: applying again completes it.
    async fn apply(&self, plan: &Plan) -> Result<(), BrokerError> {
        self.declare(&plan.topology()).await.map(drop)
    }

    /// Tells it what jobs ask of their queues, without making or looking at any: for who only looks at them, and must
    /// know where their dead letters are. Brokers that keep those with their queue need not be told.
    fn know(&self, topology: &Topology) {
        let _ = topology;
    }

    /// Stores 1 to [`BATCH_MAX`] envelopes; one answer each, in their order.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future leaves the batch in an unknown state.
    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>>;

    /// Enqueues a job, and waits for what it is answered with, however long that takes.
    ///
    /// The broker chooses by what it finds the caller again: of the envelope's
    /// [`caller`](Envelope::caller) only `retries` is looked at.
    ///
    /// # Errors
    ///
    /// * [`CallFailure::NotEnqueued`] — as [`enqueue`](Self::enqueue) says it.
    /// * [`CallFailure::Lost`] — the reply cannot come any more: the way it would have come by is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future forgets the call; the job may or may not be enqueued.
    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        drop(envelope);
        let ways_out = "enqueue the job instead";
        let error = BrokerError::unsupported(self.capabilities().broker, "calls", ways_out);
        Err(CallFailure::NotEnqueued(EnqueueFailure::Refused(error)))
    }

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

    /// Owns at most `prefetch` from now on, in place of what the [`Subscription`] says, but never less than that.
    ///
    /// Made smaller, what was fetched before stays owned, and [`next_batch`](Self::next_batch) returns it at once. Whoever does
    /// not want to keep it waiting [releases](Settlement::Release) it when this has returned, and not before, or it comes
    /// again.
    ///
    /// # Errors
    ///
    /// `Permanent` — the broker is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the number is changed all the same, and the last call counts.
    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError>;

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

    /// The same for several, in this order; a ticket for each. A broker has its own way where that is cheaper, as where
    /// whoever talks to the server is woken once for all of them.
    fn submit_all(&self, settlements: Vec<(Delivery, Settlement)>) -> Vec<Ticket> {
        settlements.into_iter().map(|(delivery, settlement)| self.submit(delivery, settlement)).collect()
    }
}
