//! Jobs in the memory of one process: the contract in the fewest lines.
//!
//! This is the specification that can be run: where the prose of
//! [`broker`](crate::broker) leaves a doubt, this file answers it. It is also
//! what tests use, because its dates come from a [`Clock`] and its waits from
//! `tokio`, so that both can be virtual. Nothing here survives the process.

mod consume;
mod inspect;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::inspect::View;
use crate::{
    broker::{
        Broker, Callers, Capabilities, DeadJob, Declared, Inspector, STARTS_MAX, Settler, Source, Subscription,
        Topology, attempts_failed, crashed,
    },
    envelope::{Caller, Due, Envelope, Priority, Route},
    error::{BrokerError, BrokerErrorKind, CallFailure, EnqueueFailure},
    exchange::{Binding, Exchange, ExchangeKind},
    name::{ExchangeName, QueueName},
    outcome::Failure,
    reply::Reply,
    time::{Clock, Timestamp, TokioClock},
};

/// Jobs in the memory of one process.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use worker_core::{Client, brokers::memory::MemoryBroker};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let client = Client::new(Arc::new(MemoryBroker::new()));
/// # });
/// ```
pub struct MemoryBroker {
    shared: Arc<Shared>,
    session: Arc<Session>,
    /// The calls of this process.
    callers: Arc<Callers>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    /// Priorities, exchanges and calls.
    whole: bool,
    store: Mutex<Store>,
    /// Wakes in the order of waiting, so that the same test gives the same run.
    changed: Notify,
}

/// What stands for a process: it owns deliveries, and can die.
#[derive(Debug)]
struct Session {
    id: u64,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Store {
    /// The living processes that have called, by their addresses.
    callers: BTreeMap<String, Arc<Callers>>,
    /// Source of sequence numbers, tags and session numbers.
    last: u64,
    queues: BTreeMap<QueueName, Queue>,
    exchanges: BTreeMap<ExchangeName, ExchangeKind>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Default)]
struct Queue {
    ready: BTreeMap<(Reverse<Priority>, u64), Job>,
    suspects: BTreeMap<(u32, u64), Job>,
    delayed: BTreeMap<(Timestamp, u64), Job>,
    held: BTreeMap<u64, Held>,
    dead: BTreeMap<u64, DeadJob>,
    /// The living subscriptions, with their sessions.
    consumers: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Job {
    seq: u64,
    envelope: Envelope,
    retries: u32,
    starts: u32,
}

#[derive(Debug)]
struct Held {
    job: Job,
    session: u64,
    subscription: u64,
    begun: bool,
    lost: CancellationToken,
}

impl MemoryBroker {
    /// An empty broker whose dates advance with `tokio`'s clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(TokioClock::starting_now()))
    }

    /// An empty broker with dates of the caller's choice.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::build(clock, true)
    }

    /// An empty broker that lacks what a broker may lack: priorities, as RabbitMQ's quorum queues
    /// before 4.0 do, and exchanges.
    #[must_use]
    pub fn reduced(clock: Arc<dyn Clock>) -> Self {
        Self::build(clock, false)
    }

    fn build(clock: Arc<dyn Clock>, whole: bool) -> Self {
        let shared = Shared { clock, whole, store: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared), session: Session::new(0), callers: Arc::default() }
    }

    /// The same jobs, seen by another process.
    #[must_use]
    pub fn another_process(&self) -> Self {
        let id = self.shared.store().next();
        Self { shared: Arc::clone(&self.shared), session: Session::new(id), callers: Arc::default() }
    }

    /// The death of this process: what it owned comes back, blamed if it had begun.
    pub fn crash(&self) {
        self.leave(true);
    }

    /// This process was silent for longer than others wait: as [`crash`](Self::crash), but it lives on.
    pub fn lapse(&self) {
        let (now, session) = (self.shared.clock.now(), self.session.id);
        self.shared.change(|store| store.give_back(|held| held.session == session, true, now));
    }

    fn leave(&self, blame: bool) {
        self.session.closed.store(true, Ordering::SeqCst);
        let (now, session) = (self.shared.clock.now(), self.session.id);
        self.shared.change(|store| {
            store.give_back(|held| held.session == session, blame, now);
            store.queues.values_mut().for_each(|queue| queue.consumers.retain(|_, of| *of != session));
            store.callers.remove(&address(session));
        });
        self.callers.fail(&closed());
    }

    /// The jobs that wait, in the order of their enqueueing, with when each is due.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Envelope, Option<Timestamp>)> {
        let store = self.shared.store();
        let mut waiting: Vec<_> = store.queues.values().flat_map(Queue::waiting).collect();
        waiting.sort_unstable_by_key(|(seq, ..)| *seq);
        waiting.into_iter().map(|(_, envelope, due)| (envelope.clone(), due)).collect()
    }

    /// When the next delayed job is due; `None` when none waits.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.shared.store().queues.values().filter_map(Queue::next_due).min()
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker").field("session", &self.session.id).finish_non_exhaustive()
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    fn new(id: u64) -> Arc<Self> {
        Arc::new(Self { id, closed: AtomicBool::new(false) })
    }

    fn check(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed());
        }
        Ok(())
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // No code that can panic runs under the lock but a violated invariant, which is a bug.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let value = change(&mut self.store());
        self.changed.notify_waiters();
        value
    }
}

impl Store {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn put(&mut self, envelope: Envelope, now: Timestamp) {
        let (seq, due) = (self.next(), envelope.due.date(now));
        if let Route::Queue(queue) = &envelope.route
            && let Some(queue) = self.queues.get_mut(queue)
        {
            queue.put(Job { seq, envelope, retries: 0, starts: 0 }, due);
        }
    }

    fn bind(&mut self, binding: &Binding) -> Result<(), String> {
        let Binding { exchange, queue, .. } = binding;
        if !self.exchanges.contains_key(exchange) {
            return Err(format!("exchange `{exchange}` was not declared"));
        }
        if !self.queues.contains_key(queue) {
            return Err(format!("queue `{queue}` was not declared"));
        }
        if !self.bindings.contains(binding) {
            self.bindings.push(binding.clone());
        }
        Ok(())
    }

    /// The queues that an exchange chooses, each once.
    fn chosen(&self, name: &ExchangeName, key: &str, envelope: &Envelope) -> Result<BTreeSet<QueueName>, BrokerError> {
        let kind = *self.exchanges.get(name).ok_or_else(|| {
            BrokerError::new(BrokerErrorKind::Permanent, format!("exchange `{name}` was not declared"))
        })?;
        let bindings = self.bindings.iter().filter(|binding| binding.exchange == *name);
        let taking = bindings.filter(|binding| binding.takes(kind, key, &envelope.headers));
        Ok(taking.map(|binding| binding.queue.clone()).collect())
    }

    /// Gives a reply to its caller; what must be kept where there is none any more.
    fn tell(&self, caller: Option<&Caller>, reply: Option<Reply>) -> Option<Failure> {
        let (caller, reply) = (caller?, reply?);
        let Some(callers) = self.callers.get(&caller.address) else { return reply.unheard().cloned() };
        // One that waits no longer has gone its way, and lives.
        callers.tell(&caller.correlation, reply);
        None
    }

    /// Puts back what `which` selects; `blame` raises the starts of those that had begun.
    fn give_back(&mut self, which: impl Fn(&Held) -> bool, blame: bool, now: Timestamp) {
        for queue in self.queues.values_mut() {
            let tags: Vec<_> = queue.held.iter().filter(|(_, held)| which(held)).map(|(tag, _)| *tag).collect();
            for Held { mut job, begun, lost, .. } in
                tags.into_iter().filter_map(|tag| queue.held.remove(&tag)).collect::<Vec<_>>()
            {
                lost.cancel();
                job.starts += u32::from(blame && begun);
                if job.starts >= STARTS_MAX {
                    self.last += 1;
                    queue.bury(self.last, crashed(job.starts), job, now);
                } else {
                    queue.put(job, None);
                }
            }
        }
    }
}

impl Queue {
    fn put(&mut self, job: Job, due: Option<Timestamp>) {
        match due {
            Some(due) => drop(self.delayed.insert((due, job.seq), job)),
            None if job.starts > 0 => drop(self.suspects.insert((job.starts, job.seq), job)),
            None => drop(self.ready.insert((Reverse(job.envelope.priority), job.seq), job)),
        }
    }

    fn bury(&mut self, place: u64, failure: Failure, job: Job, died_at: Timestamp) {
        let Envelope { id, route: Route::Queue(queue), name, body, headers, priority, enqueued_at, .. } = job.envelope
        else {
            unreachable!("an exchange is refused at the enqueue")
        };
        let attempts = attempts_failed(failure.kind, job.retries + 1);
        let starts = job.starts;
        let dead =
            DeadJob { id, queue, job: name, attempts, starts, failure, died_at, enqueued_at, priority, headers, body };
        self.dead.insert(place, dead);
    }

    fn waiting(&self) -> impl Iterator<Item = (u64, &Envelope, Option<Timestamp>)> {
        let due_now = self.ready.values().chain(self.suspects.values()).map(|job| (job, None));
        let delayed = self.delayed.iter().map(|((due, _), job)| (job, Some(*due)));
        due_now.chain(delayed).map(|(job, due)| (job.seq, &job.envelope, due))
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.delayed.keys().next().map(|(due, _)| *due)
    }

    fn wake_the_due(&mut self, now: Timestamp) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let job = entry.remove();
            self.put(job, None);
        }
    }

    /// The next job to hand out: a suspect where none is owned yet, then by priority and age.
    fn take(&mut self, subscription: u64) -> Option<Job> {
        let owns_suspect = self.held.values().any(|held| held.subscription == subscription && held.job.starts > 0);
        let suspect = if owns_suspect { None } else { self.suspects.pop_first() };
        suspect.map(|(_, job)| job).or_else(|| self.ready.pop_first().map(|(_, job)| job))
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn capabilities(&self) -> Capabilities {
        let whole = self.shared.whole;
        let none = Capabilities::none("memory");
        Capabilities {
            retry_is_atomic: true,
            exact_blame: true,
            keeps_place: true,
            counts_all: true,
            priorities: whole,
            queue_priorities: whole,
            ranks_returned: whole,
            exchanges: whole,
            calls: whole,
            ..none
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        self.session.check()?;
        let asks = !topology.exchanges.is_empty() || !topology.bindings.is_empty();
        if asks && !self.shared.whole {
            return Err(no_exchanges());
        }
        let permanent = |message: String| BrokerError::new(BrokerErrorKind::Permanent, message);
        topology.problem().map_or(Ok(()), |problem| Err(permanent(problem)))?;
        self.shared.change(|store| {
            let mut created = Vec::new();
            for queue in &topology.queues {
                store.queues.entry(queue.clone()).or_insert_with(|| {
                    created.push(queue.clone());
                    Queue::default()
                });
            }
            for Exchange { name, kind } in &topology.exchanges {
                let found = *store.exchanges.entry(name.clone()).or_insert(*kind);
                if found != *kind {
                    return Err(permanent(format!("exchange `{name}` exists as {found}, and {kind} was asked for")));
                }
            }
            for binding in &topology.bindings {
                store.bind(binding).map_err(permanent)?;
            }
            Ok(Declared::created(created))
        })
    }

    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
        let now = self.shared.clock.now();
        let put = |store: &mut Store, envelope: Envelope| {
            self.session.check().map_err(EnqueueFailure::Refused)?;
            if envelope.priority != Priority::DEFAULT && !self.shared.whole {
                let ways_out = "leave the priority out";
                return Err(EnqueueFailure::Refused(BrokerError::unsupported("memory", "priorities", ways_out)));
            }
            match &envelope.route {
                Route::Queue(queue) if store.queues.contains_key(queue) => store.put(envelope, now),
                Route::Queue(_) => return Err(EnqueueFailure::Unroutable),
                Route::Exchange { .. } if !self.shared.whole => return Err(EnqueueFailure::Refused(no_exchanges())),
                Route::Exchange { .. } if envelope.due != Due::Now => {
                    let ways_out = "publish it when it is due";
                    let error = BrokerError::unsupported("memory", "delays to an exchange", ways_out);
                    return Err(EnqueueFailure::Refused(error));
                }
                Route::Exchange { name, key, mandatory } => {
                    let queues = store.chosen(name, key, &envelope).map_err(EnqueueFailure::Refused)?;
                    if queues.is_empty() && *mandatory {
                        return Err(EnqueueFailure::Unroutable);
                    }
                    queues.iter().for_each(|queue| store.put(envelope.copy_for(queue), now));
                }
            }
            Ok(())
        };
        self.shared.change(|store| batch.into_iter().map(|envelope| put(store, envelope)).collect())
    }

    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        if !self.shared.whole {
            let error = BrokerError::unsupported("memory", "calls", "enqueue the job instead");
            return Err(CallFailure::NotEnqueued(EnqueueFailure::Refused(error)));
        }
        let refused = |error| CallFailure::NotEnqueued(EnqueueFailure::Refused(error));
        let mut expected = self.callers.expect().map_err(refused)?;
        self.session.check().map_err(refused)?;
        let address = address(self.session.id);
        self.shared.store().callers.insert(address.clone(), Arc::clone(&self.callers));
        let retries = envelope.caller.as_ref().is_some_and(|caller| caller.retries);
        let caller = Caller { address, correlation: expected.correlation.clone(), retries };
        for answer in self.enqueue(vec![Envelope { caller: Some(caller), ..envelope }]).await {
            answer.map_err(CallFailure::NotEnqueued)?;
        }
        expected.reply().await.map_err(CallFailure::Lost)
    }

    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        self.session.check()?;
        let id = self.shared.change(|store| {
            let id = store.next();
            store.queues.get_mut(&subscription.queue).map(|queue| {
                queue.consumers.insert(id, self.session.id);
                id
            })
        });
        let id = id.ok_or_else(|| {
            let message = format!("queue `{}` was not declared", subscription.queue);
            BrokerError::new(BrokerErrorKind::Permanent, message)
        })?;
        let (shared, session) = (Arc::clone(&self.shared), Arc::clone(&self.session));
        Ok(consume::halves(shared, session, subscription, id))
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        Some(Arc::new(View::new(Arc::clone(&self.shared), Arc::clone(&self.session))))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.leave(false);
        Ok(())
    }
}

/// What a process is known by to those who answer its calls.
fn address(session: u64) -> String {
    format!("process-{session}")
}

fn closed() -> BrokerError {
    BrokerError::new(BrokerErrorKind::Permanent, "the memory broker is closed")
}

fn no_exchanges() -> BrokerError {
    BrokerError::unsupported("memory", "exchanges", "enqueue to a queue")
}
