//! Both halves of a subscription, as the worker holds them.
//!
//! What is fetched and what is owned is one table under a lock that is never
//! held across a wait. The lane's task (`lane`) fills it and empties it when a
//! connection is lost; `begin` and `submit` read it without waiting.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroU16,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Begin, Delivery, Receipt, SettleError, Settler, Source, Subscription, Ticket},
    brokers::rabbitmq::{
        adopt,
        course::{Alibi, Carried, Held, Line, Place},
        declare::broker_error,
        lane::Lane,
        porter,
        shared::Shared,
        stack,
        wire::{Decoded, Message},
    },
    envelope::{BUNDLE_MAX, Envelope, Route},
    error::{BrokerError, BrokerErrorKind},
    id::JobId,
    settlement::Settlement,
    telemetry::TARGET,
    time::monotonic_now,
};

/// Ids of lost deliveries that are remembered: above it, all are forgotten.
const OUTLIVED_MAX: usize = 200_000;

/// How long after a lost connection what comes back is taken for lost with one, too. A server that restarts gives out
/// within a second what was not settled; a job that kills its worker in these moments has one start more.
const SHAKEN: Duration = Duration::from_secs(10);

/// How long a worker's start waits for the levels of the ladder, which it may never need.
const LADDER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Deliveries of one subscription: what the worker sees of its lane.
#[derive(Default)]
pub(super) struct Table {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Counts the times that the queue was consumed anew: what was delivered before is lost.
    epoch: u64,
    lost: CancellationToken,
    next: u64,
    owned: HashMap<u64, Held>,
    /// Lost with a connection, not met again yet: this process lives, so none of them killed it.
    outlived: HashSet<JobId>,
    /// Until then, what comes back may come from a worker that has lost its connection as this one has.
    shaken_until: Option<Instant>,
    /// Owned, and not returned yet.
    fetched: VecDeque<Delivery>,
    failure: Option<BrokerError>,
    stopped: bool,
    closed: bool,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_one();
        value
    }

    /// A new connection: what is delivered from now on belongs to it.
    pub(super) fn begin_epoch(&self) {
        let now = monotonic_now();
        self.change(|state| {
            state.shaken_until = (state.epoch > 0).then_some(now + SHAKEN);
            (state.epoch, state.lost, state.failure) = (state.epoch + 1, CancellationToken::new(), None);
        });
    }

    /// The connection is gone, and with it all that was owned.
    pub(super) fn lose_all(&self, why: Option<BrokerError>) -> usize {
        self.change(|state| {
            state.lost.cancel();
            state.fetched.clear();
            state.failure = why;
            let lost = std::mem::take(&mut state.owned);
            // What others have taken since is never met again.
            if state.outlived.len() > OUTLIVED_MAX {
                state.outlived.clear();
            }
            state.outlived.extend(lost.values().map(Held::carrier));
            lost.len()
        })
    }

    /// What this process can say for a job that came back. That it had it, it says once.
    pub(super) fn alibi(&self, id: &JobId) -> Alibi {
        let mut state = self.lock();
        if state.outlived.remove(id) {
            return Alibi::Outlived;
        }
        let shaken = state.shaken_until.is_some_and(|until| monotonic_now() < until);
        if shaken { Alibi::Shared } else { Alibi::None }
    }

    /// Reports a failure to whoever waits for a batch.
    pub(super) fn fail(&self, error: BrokerError) {
        self.change(|state| state.failure = Some(error));
    }

    /// Tells whoever waits for a batch that there is one, once for all that came together.
    pub(super) fn tell(&self) {
        if !self.lock().fetched.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Hands a message to the worker, who is to be [told](Self::tell).
    pub(super) fn fetch(
        &self,
        queue: &crate::name::QueueName,
        line: Line,
        tag: u64,
        decoded: Decoded,
        message: Message,
    ) {
        let mut state = self.lock();
        state.next += 1;
        let Decoded { envelope, retries, starts } = decoded;
        let starts = if line == Line::Suspects { starts.max(1) } else { starts };
        let held = Held {
            line,
            tag,
            carried: Carried::Alone(Box::new(message)),
            id: envelope.id.clone(),
            attempt: retries + 1,
            caller: envelope.caller.clone(),
        };
        let (arrival, counts) = (state.next, (held.attempt, starts));
        let receipt = Receipt { epoch: state.epoch, tag: arrival, part: 0 };
        let delivery = Delivery::new(envelope, queue.clone(), counts, receipt, state.lost.clone());
        state.fetched.push_back(delivery);
        state.owned.insert(arrival, held);
    }

    /// Hands the jobs of a bundle to the worker, who is to be [told](Self::tell).
    pub(super) fn fetch_bundle(&self, line: Line, tag: u64, jobs: Vec<Envelope>, retries: u32, message: Message) {
        let (bundle, attempt) = (Arc::new(message), retries + 1);
        let mut state = self.lock();
        for (part, envelope) in (0..).zip(jobs) {
            let Route::Queue(queue) = &envelope.route else { continue };
            let queue = queue.clone();
            state.next += 1;
            let (id, carried) =
                (envelope.id.clone(), Carried::Bundled(Arc::clone(&bundle), Box::new(envelope.clone())));
            let held = Held { line, tag, carried, id, attempt, caller: None };
            let arrival = state.next;
            let receipt = Receipt { epoch: state.epoch, tag: arrival, part };
            let delivery = Delivery::new(envelope, queue, (attempt, 0), receipt, state.lost.clone());
            state.fetched.push_back(delivery);
            state.owned.insert(arrival, held);
        }
    }

    /// No more is taken, by the wish of who waits for it: there are empty batches from now on.
    pub(super) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    /// What was fetched and not returned, which is owned no more.
    pub(super) fn take_fetched(&self) -> Vec<Held> {
        self.change(|state| {
            let fetched = std::mem::take(&mut state.fetched);
            fetched.iter().filter_map(|delivery| state.owned.remove(&delivery.receipt.tag)).collect()
        })
    }

    /// Everything that is owned, in the order of its arrival, which it is no more.
    pub(super) fn take_all(&self) -> Vec<Held> {
        self.change(|state| {
            state.fetched.clear();
            let mut owned: Vec<_> = std::mem::take(&mut state.owned).into_iter().collect();
            owned.sort_unstable_by_key(|(arrival, _)| *arrival);
            owned.into_iter().map(|(_, held)| held).collect()
        })
    }

    pub(super) fn close(&self) {
        self.change(|state| {
            state.closed = true;
            state.lost.cancel();
            state.owned.clear();
            state.fetched.clear();
        });
    }

    /// A settlement failed: the delivery is owned again, if its connection lives.
    pub(super) fn take_back(&self, receipt: Receipt, held: Held) -> bool {
        let mut state = self.lock();
        let alive = state.epoch == receipt.epoch && !state.lost.is_cancelled();
        if alive {
            state.owned.insert(receipt.tag, held);
        }
        alive
    }
}

/// What a half asks of its lane.
pub(super) enum Command {
    Settle(Vec<Settle>),
    /// Own at most so many from now on.
    Resize(NonZeroU16, oneshot::Sender<Result<(), BrokerError>>),
    /// Take no more, and give back what was not returned.
    Stop(oneshot::Sender<Result<(), BrokerError>>),
}

/// A settlement to make true.
pub(super) struct Settle {
    pub(super) delivery: Delivery,
    pub(super) held: Held,
    pub(super) settlement: Settlement,
    pub(super) answer: oneshot::Sender<Result<(), SettleError>>,
}

/// Either half. When both are gone, the lane gives back what is still owned.
struct Half {
    table: Arc<Table>,
    commands: mpsc::Sender<Command>,
}

struct RabbitSource {
    half: Arc<Half>,
}

#[async_trait]
impl Source for RabbitSource {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        let table = &self.half.table;
        loop {
            let mut changed = pin!(table.changed.notified());
            // From here on, so that no change is missed between the look and the wait.
            changed.as_mut().enable();
            {
                let mut state = table.lock();
                if state.closed {
                    return Err(closed());
                }
                if state.stopped {
                    return Ok(Vec::new());
                }
                if !state.fetched.is_empty() {
                    let count = max.min(state.fetched.len());
                    return Ok(state.fetched.drain(..count).collect());
                }
                if let Some(failure) = state.failure.take() {
                    return Err(failure);
                }
            }
            changed.await;
        }
    }

    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError> {
        let (answer, answered) = oneshot::channel();
        if self.half.commands.send(Command::Resize(prefetch, answer)).await.is_err() {
            return Err(closed());
        }
        // Not answered: the connection is gone, and what comes by the next is as many.
        answered.await.unwrap_or(Ok(()))
    }

    async fn stop(&mut self) -> Result<(), BrokerError> {
        let (answer, answered) = oneshot::channel();
        if self.half.commands.send(Command::Stop(answer)).await.is_err() {
            return Err(closed());
        }
        answered.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Settler for Half {
    fn begin(&self, delivery: &Delivery) -> Begin {
        let state = self.table.lock();
        if state.owned.contains_key(&delivery.receipt.tag) && state.epoch == delivery.receipt.epoch {
            Begin::Go
        } else {
            Begin::Lost
        }
    }

    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket {
        self.submit_all(vec![(delivery, settlement)]).pop().unwrap_or_else(|| Ticket::resolved(Err(SettleError::Lost)))
    }

    fn submit_all(&self, settlements: Vec<(Delivery, Settlement)>) -> Vec<Ticket> {
        let mut settles = Vec::with_capacity(settlements.len());
        let mut state = self.table.lock();
        let tickets = settlements.into_iter().map(|(delivery, settlement)| {
            let Receipt { epoch, tag, .. } = delivery.receipt;
            let held = if state.epoch == epoch { state.owned.remove(&tag) } else { None };
            let Some(held) = held else { return Ticket::resolved(Err(SettleError::Lost)) };
            let (answer, ticket) = Ticket::pending();
            settles.push(Settle { delivery, held, settlement, answer });
            ticket
        });
        let tickets = tickets.collect();
        drop(state);
        // Never full: there is room for everything that can be owned. Where the lane has
        // ended, dropping the answers says lost.
        if !settles.is_empty() {
            drop(self.commands.try_send(Command::Settle(settles)));
        }
        tickets
    }
}

/// Begins to consume.
pub(super) async fn consume(
    shared: &Arc<Shared>,
    subscription: Subscription,
) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
    shared.check()?;
    let queue = &subscription.queue;
    shared
        .consume
        .up_until(monotonic_now() + super::link::ANSWER_WAIT_MAX)
        .await
        .map_err(|error| broker_error("there is no connection to RabbitMQ", &error))?;
    let found = shared.declarer.depth(queue.as_str()).await;
    match found {
        Ok(Some(_)) => shared.declarer.saw(queue.as_str()),
        Ok(None) => {
            let message = format!("queue `{queue}` was not declared");
            return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
        }
        // A user who may read and not look: consuming will tell.
        Err(error) if error.kind == super::link::LinkErrorKind::Refused => {}
        Err(error) => return Err(broker_error(&format!("queue `{queue}` cannot be consumed"), &error)),
    }
    shared.declarer.place(Place::Suspects, queue).await?;
    if shared.server.nack_is_free() {
        // It is in quorum queues only: what these are decides how what was not started is given back.
        let failed = |error| broker_error(&format!("queue `{queue}` cannot be looked at"), &error);
        shared.declarer.nature(queue).await.map_err(failed)?;
        shared.declarer.nature_of_suspects(queue).await.map_err(failed)?;
    }
    shared.declarer.learn_rungs(queue).await?;
    adopt::warn_of_losses(&shared.declarer, queue).await;
    shared.warn_of_stack.call_once(stack::warn);
    shared.ladder_at_start.get_or_init(|| make_ladder(shared)).await;
    porter::start(shared);
    let table = Arc::new(Table::default());
    // One settlement per owned delivery, however many these become, of which a message may have many, one suspect, and
    // the stop.
    let (commands, received) = mpsc::channel(usize::from(u16::MAX) * usize::from(BUNDLE_MAX) + 8);
    let lane = Lane::new(Arc::clone(shared), subscription, Arc::clone(&table), received);
    shared.lanes.spawn(lane.run());
    let half = Arc::new(Half { table, commands });
    Ok((Box::new(RabbitSource { half: Arc::clone(&half) }), half))
}

/// Makes the short levels of the ladder before the first job is taken. A worker that needs none of them needs no right to
/// make them, and goes on.
async fn make_ladder(shared: &Shared) {
    let made = timeout(LADDER_WAIT_MAX, shared.declarer.ladder_at_start()).await;
    let error = match made {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.detail(),
        Err(_) => format!("there was no answer within {}", humantime::format_duration(LADDER_WAIT_MAX)),
    };
    tracing::warn!(target: TARGET, error, "the short levels of the delay ladder could not be declared; each is when it is first needed");
}

pub(super) fn closed() -> BrokerError {
    BrokerError::new(BrokerErrorKind::Permanent, "the RabbitMQ broker is closed")
}
