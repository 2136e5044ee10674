//! What the simulated server knows: queues, exchanges, and who has what. Pure but for the clock that it is told.

mod exchanges;
mod patience;
mod stall;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lapin::types::FieldTable;
use tokio::time::Instant;

use super::{
    death::{deaths, with_death},
    pipes::Deed,
    queue::{ConsumerId, Queue, Return, Returned as Back, Stored},
    refusal,
};
use crate::{
    brokers::rabbitmq::{
        lapin_link::GUARD,
        link::{Address, DIRECT_REPLY_TO, Declare, Depth, LinkError, Returned},
        wire::{self, Incoming, Message},
    },
    exchange::{Binding, ExchangeKind},
};

/// What a channel is given without having asked: a message, or the end of its consuming.
#[derive(Debug)]
pub(super) enum Given {
    Delivery(Box<Incoming>),
    Cancelled,
}

/// Where it is given.
pub(super) type Way = tokio::sync::mpsc::UnboundedSender<Given>;

/// Something that goes to a client, in its turn.
pub(super) struct Outgoing {
    pub(super) connection: u64,
    /// What happens there when it arrives.
    pub(super) deed: Deed,
}

impl Outgoing {
    fn given(connection: u64, way: Way, given: Given) -> Self {
        // Who is given it may have gone.
        Self { connection, deed: Box::new(move || drop(way.send(given))) }
    }
}

/// Tells a client that its channel was ended.
pub(super) type End = Arc<dyn Fn(&LinkError) + Send + Sync>;

/// A channel: by its connection and its own number.
pub(super) type ChannelId = (u64, u64);

struct Consumer {
    queue: String,
    prefetch: usize,
    held: usize,
    way: Way,
}

struct Unacked {
    queue: String,
    stored: Stored,
    /// Who got it; none where it was asked for.
    consumer: Option<String>,
    since: Instant,
}

struct ChannelState {
    end: End,
    last_tag: u64,
    unacked: BTreeMap<u64, Unacked>,
    consumers: BTreeMap<String, Consumer>,
    replies: Option<Way>,
    /// What was taken away: who settles it is not told that it changes nothing.
    taken_away: BTreeSet<u64>,
}

/// What became of a message that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) taken: bool,
    pub(super) routed: bool,
    /// Whether its sender is ever told.
    pub(super) told: bool,
}

pub(super) struct State {
    /// From 4.3 on.
    modern: bool,
    queues: BTreeMap<String, Queue>,
    exchanges: BTreeMap<String, ExchangeKind>,
    bindings: Vec<Binding>,
    channels: BTreeMap<ChannelId, ChannelState>,
    /// What is to be sent to clients.
    pub(super) outgoing: Vec<Outgoing>,
    /// It refuses what is published, as a queue that is full does.
    pub(super) full: bool,
    /// Somebody has consumed without a limit.
    pub(super) unlimited: bool,
    /// Somebody has published a message with an `x-death` of its own.
    pub(super) told_of_deaths: bool,
    /// Somebody has settled a delivery that it does not have, or has no more.
    pub(super) unknown_tags: bool,
    /// Messages that were delivered to consumers.
    pub(super) deliveries: u64,
    /// Queues that may have something for their consumers.
    stirred: BTreeSet<String>,
    /// Queues that stand still.
    stalled: BTreeSet<String>,
    /// Messages that have left one queue and are not in the next yet.
    under_way: Vec<UnderWay>,
    /// Nothing has waited too long before this time, as long as nothing has moved.
    next_expiry: Option<Instant>,
    /// Something has moved since that was looked up.
    moved: bool,
}

/// A message between two queues, which is lost where the server dies.
struct UnderWay {
    arrives: Instant,
    targets: BTreeSet<String>,
    message: Arc<Message>,
    exchange: String,
    key: String,
}

/// How long a message is between two queues that has left the first before it has arrived. With 15,000 that expired
/// together, a server that was killed in the first moments had lost 1,091.
const BETWEEN: Duration = Duration::from_secs(1);

/// How long a message that could not be forwarded waits for the next try.
const FORWARD_AGAIN: Duration = Duration::from_secs(1);

impl State {
    pub(super) const fn new(modern: bool) -> Self {
        Self {
            modern,
            queues: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            bindings: Vec::new(),
            channels: BTreeMap::new(),
            outgoing: Vec::new(),
            full: false,
            unlimited: false,
            told_of_deaths: false,
            unknown_tags: false,
            deliveries: 0,
            stirred: BTreeSet::new(),
            stalled: BTreeSet::new(),
            under_way: Vec::new(),
            next_expiry: None,
            moved: false,
        }
    }

    /// A new channel; by `end` its client is told when the server ends it.
    pub(super) fn open(&mut self, channel: ChannelId, end: End) {
        let (unacked, consumers, taken_away) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        self.channels.insert(channel, ChannelState { end, last_tag: 0, unacked, consumers, replies: None, taken_away });
    }

    pub(super) fn is_open(&self, channel: ChannelId) -> bool {
        self.channels.contains_key(&channel)
    }

    // --- queues and exchanges -------------------------------------------------

    pub(super) fn declare(&mut self, (connection, _): ChannelId, name: &str, how: Declare) -> Result<Depth, LinkError> {
        if name.starts_with(DIRECT_REPLY_TO) {
            let found = self.caller(name).is_some();
            return found.then_some(Depth { ready: 0, consumers: 1 }).ok_or_else(|| refusal::no_queue(name));
        }
        let there = self.queues.get(name);
        if there.is_some_and(|queue| queue.exclusive.is_some_and(|owner| owner != connection)) {
            return Err(refusal::locked(name));
        }
        match (how, there) {
            (Declare::Passive, None) => return Err(refusal::no_queue(name)),
            (Declare::Compared(_), None) => return Err(refusal::invalid_guard(GUARD, name)),
            (Declare::Durable(arguments) | Declare::Compared(arguments), Some(queue)) => {
                if let Some(error) = refusal::difference(name, &arguments, &queue.arguments) {
                    return Err(error);
                }
            }
            (Declare::Durable(arguments), None) => {
                self.queues.insert(name.to_owned(), Queue::new(arguments, None, self.modern));
            }
            (Declare::Exclusive, None) => {
                let queue = Queue::new(FieldTable::default(), Some(connection), self.modern);
                self.queues.insert(name.to_owned(), queue);
            }
            (Declare::Passive | Declare::Exclusive, Some(_)) => {}
        }
        Ok(self.queues.get(name).map_or(Depth { ready: 0, consumers: 0 }, depth))
    }

    pub(super) fn delete(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        self.stalled.remove(name);
        self.moved = true;
        self.bindings.retain(|binding| binding.queue.as_str() != name);
        for (connection, channel, tag) in queue.consumers {
            let ended = self.channels.get_mut(&(connection, channel)).and_then(|state| state.consumers.remove(&tag));
            if let Some(Consumer { way, .. }) = ended {
                self.outgoing.push(Outgoing::given(connection, way, Given::Cancelled));
            }
        }
    }

    // --- publishing -----------------------------------------------------------

    pub(super) fn publish(
        &mut self,
        channel: ChannelId,
        to: &Address,
        mut message: Message,
        now: Instant,
    ) -> Result<Published, LinkError> {
        // What is in a dead-letter queue says so for good.
        self.told_of_deaths |= message.header("x-death").is_some() && !to.key.ends_with("_dlq");
        if message.properties.reply_to().as_ref().is_some_and(|reply_to| reply_to.as_str() == DIRECT_REPLY_TO) {
            let answered = self.channels.get(&channel).is_some_and(|state| state.replies.is_some());
            if !answered {
                return Err(refusal::no_reply_consumer());
            }
            message.properties = message.properties.with_reply_to(address(channel).into());
        }
        if to.exchange.is_empty() && to.key.starts_with(DIRECT_REPLY_TO) {
            // It comes back whether the caller is there or not (measured on 3.10).
            if let Some((connection, way)) = self.caller(&to.key) {
                let incoming = Incoming { tag: 0, redelivered: false, message };
                self.outgoing.push(Outgoing::given(connection, way, Given::Delivery(Box::new(incoming))));
            }
            return Ok(Published { taken: true, routed: false, told: true });
        }
        let targets = self.targets(&to.exchange, &to.key, &message)?;
        if self.full && !targets.is_empty() {
            return Ok(Published { taken: false, routed: true, told: true });
        }
        let taken = self.put(&targets, &Arc::new(message), &to.exchange, &to.key, now);
        Ok(Published { taken, routed: !targets.is_empty(), told: self.stalled.is_disjoint(&targets) })
    }

    /// Puts a copy into each queue; whether all took it.
    fn put(
        &mut self,
        targets: &BTreeSet<String>,
        message: &Arc<Message>,
        exchange: &str,
        key: &str,
        now: Instant,
    ) -> bool {
        let mut taken = true;
        for name in targets {
            let Some(queue) = self.queues.get_mut(name) else { continue };
            if queue.refuses() {
                taken = false;
                continue;
            }
            let dropped = queue.push(Arc::clone(message), exchange, key, now);
            self.moved = true;
            self.stirred.insert(name.clone());
            if let Some(dropped) = dropped {
                self.forward(name, dropped, "maxlen", now);
            }
        }
        taken
    }

    /// A message leaves `queue` otherwise than by an acknowledgement.
    fn forward(&mut self, queue: &str, stored: Stored, reason: &str, now: Instant) {
        let Some(source) = self.queues.get(queue) else { return };
        let Some((exchange, key)) = source.dead_letters_to() else { return };
        let safe = source.forwards_at_least_once();
        let is_at_once = safe || !source.quorum;
        let key = key.unwrap_or_else(|| stored.key.clone());
        let message = Arc::new(with_death(&stored, queue, reason));
        // What went round in a circle without being refused once is dropped without a word.
        let circled =
            |target: &String| deaths(&stored.message).any(|(queue, reason)| queue == *target && reason != "rejected");
        let routed = self.targets(&exchange, &key, &message);
        let nowhere = routed.as_ref().is_ok_and(BTreeSet::is_empty);
        let targets: BTreeSet<_> = routed.unwrap_or_default().into_iter().filter(|target| !circled(target)).collect();
        let full = targets.iter().any(|name| self.queues.get(name).is_some_and(Queue::refuses));
        if safe && (nowhere || full) {
            if let Some(source) = self.queues.get_mut(queue) {
                source.hold(stored, now + FORWARD_AGAIN);
                self.moved = true;
            }
            return;
        }
        if is_at_once {
            self.put(&targets, &message, &exchange, &key, now);
        } else {
            self.moved = true;
            self.under_way.push(UnderWay { arrives: now + BETWEEN, targets, message, exchange, key });
        }
    }

    /// The server dies: what was between two queues is in neither.
    pub(super) fn die(&mut self) {
        self.under_way.clear();
    }

    /// Lets what has waited too long go on.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.next_expiry().is_none_or(|next| next > now) {
            return;
        }
        self.moved = true;
        for UnderWay { targets, message, exchange, key, .. } in
            self.under_way.extract_if(.., |it| it.arrives <= now).collect::<Vec<_>>()
        {
            self.put(&targets, &message, &exchange, &key, now);
        }
        loop {
            let stalled = &self.stalled;
            let expired =
                self.queues.iter_mut().filter(|(name, _)| !stalled.contains(*name)).find_map(|(name, queue)| {
                    let stored = queue.pop_expired(now)?;
                    Some((name.clone(), stored))
                });
            let Some((name, stored)) = expired else { return };
            self.forward(&name, stored, "expired", now);
        }
    }

    /// When something has waited too long next.
    pub(super) fn next_expiry(&mut self) -> Option<Instant> {
        if std::mem::take(&mut self.moved) {
            let under_way = self.under_way.iter().map(|it| it.arrives);
            let moving = self.queues.iter().filter(|(name, _)| !self.stalled.contains(*name));
            self.next_expiry = moving.filter_map(|(_, queue)| queue.expires()).chain(under_way).min();
        }
        self.next_expiry
    }

    // --- consuming ------------------------------------------------------------

    pub(super) fn consume(
        &mut self,
        (connection, channel): ChannelId,
        name: &str,
        tag: &str,
        (prefetch, hold): (usize, Option<Duration>),
        way: Way,
    ) -> Result<(), LinkError> {
        self.unlimited |= prefetch == 0;
        let modern = self.modern;
        let queue = self.reachable(connection, name)?;
        if modern && hold.is_some() && !queue.quorum {
            return Err(refusal::no_hold(name));
        }
        queue.consumers.push_back((connection, channel, tag.to_owned()));
        self.stirred.insert(name.to_owned());
        if let Some(state) = self.channels.get_mut(&(connection, channel)) {
            let consumer = Consumer { queue: name.to_owned(), prefetch, held: 0, way };
            state.consumers.insert(tag.to_owned(), consumer);
        }
        Ok(())
    }

    fn reachable(&mut self, connection: u64, name: &str) -> Result<&mut Queue, LinkError> {
        match self.queues.get_mut(name) {
            None => Err(refusal::no_queue(name)),
            Some(queue) if queue.exclusive.is_some_and(|owner| owner != connection) => Err(refusal::locked(name)),
            Some(queue) => Ok(queue),
        }
    }

    pub(super) fn replies(&mut self, channel: ChannelId, way: Way) {
        if let Some(state) = self.channels.get_mut(&channel) {
            state.replies = Some(way);
        }
    }

    pub(super) fn cancel(&mut self, (connection, channel): ChannelId, tag: &str) {
        let state = self.channels.get_mut(&(connection, channel));
        let Some(consumer) = state.and_then(|state| state.consumers.remove(tag)) else { return };
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue.consumers.retain(|id| *id != (connection, channel, tag.to_owned()));
        }
        self.outgoing.push(Outgoing::given(connection, consumer.way, Given::Cancelled));
    }

    pub(super) fn get(
        &mut self,
        channel: ChannelId,
        name: &str,
        now: Instant,
    ) -> Result<Option<(Incoming, u32)>, LinkError> {
        self.moved = true;
        let queue = self.reachable(channel.0, name)?;
        let Some(stored) = queue.pop() else { return Ok(None) };
        let left = u32::try_from(queue.ready()).unwrap_or(u32::MAX);
        let is_counted = queue.quorum && self.modern;
        Ok(self.give(channel, name, stored, None, (is_counted, now)).map(|incoming| (incoming, left)))
    }

    /// Notes that a channel has a message, and what it is told of it.
    fn give(
        &mut self,
        channel: ChannelId,
        queue: &str,
        stored: Stored,
        consumer: Option<String>,
        (is_counted, now): (bool, Instant),
    ) -> Option<Incoming> {
        let state = self.channels.get_mut(&channel)?;
        state.last_tag += 1;
        let message = stored.as_delivered(is_counted);
        let incoming = Incoming { tag: state.last_tag, redelivered: stored.acquired > 0, message };
        state.unacked.insert(state.last_tag, Unacked { queue: queue.to_owned(), stored, consumer, since: now });
        Some(incoming)
    }

    /// Gives what waits to those who have room, in turn.
    pub(super) fn deliver(&mut self, now: Instant) {
        for name in std::mem::take(&mut self.stirred) {
            while let Some((id, stored, is_counted)) = self.next_delivery(&name) {
                let (connection, channel, tag) = id;
                let exchange = (stored.exchange.clone(), stored.key.clone());
                let given = self.give((connection, channel), &name, stored, Some(tag.clone()), (is_counted, now));
                let Some(mut incoming) = given else { continue };
                incoming.message = wire::came_by(incoming.message, &exchange.0, &exchange.1);
                let state = self.channels.get_mut(&(connection, channel));
                if let Some(consumer) = state.and_then(|state| state.consumers.get_mut(&tag)) {
                    consumer.held += 1;
                    self.deliveries += 1;
                    let way = consumer.way.clone();
                    self.outgoing.push(Outgoing::given(connection, way, Given::Delivery(Box::new(incoming))));
                }
            }
        }
    }

    fn next_delivery(&mut self, name: &str) -> Option<(ConsumerId, Stored, bool)> {
        let (channels, modern) = (&self.channels, self.modern);
        let queue = self.queues.get_mut(name).filter(|_| !self.stalled.contains(name))?;
        let has_room = |(connection, channel, tag): &ConsumerId| {
            let consumer = channels.get(&(*connection, *channel)).and_then(|state| state.consumers.get(tag));
            consumer.is_some_and(|consumer| consumer.prefetch == 0 || consumer.held < consumer.prefetch)
        };
        let next = queue.consumers.iter().position(has_room)?;
        let stored = queue.pop()?;
        self.moved = true;
        queue.consumers.rotate_left(next + 1);
        let id = queue.consumers.back()?.clone();
        Some((id, stored, queue.quorum && modern))
    }

    // --- settling -------------------------------------------------------------

    pub(super) fn ack(&mut self, channel: ChannelId, tag: u64, multiple: bool) -> Result<(), LinkError> {
        self.take(channel, tag, multiple).map(drop)
    }

    pub(super) fn requeue(
        &mut self,
        channel: ChannelId,
        tag: u64,
        multiple: bool,
        now: Instant,
    ) -> Result<(), LinkError> {
        for unacked in self.take(channel, tag, multiple)? {
            self.come_back(unacked, Return::Nack, now);
        }
        Ok(())
    }

    fn take(&mut self, channel: ChannelId, tag: u64, multiple: bool) -> Result<Vec<Unacked>, LinkError> {
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(Vec::new()) };
        let tags: Vec<u64> = match multiple {
            true => state.unacked.range(..=tag).map(|(tag, _)| *tag).collect(),
            false => vec![tag],
        };
        let taken: Vec<_> = tags.into_iter().filter_map(|tag| state.unacked.remove(&tag)).collect();
        let before = state.taken_away.len();
        state.taken_away.retain(|other| if multiple { *other > tag } else { *other != tag });
        if taken.is_empty() && state.taken_away.len() == before {
            self.unknown_tags = true;
            return Err(refusal::unknown_tag(tag));
        }
        for unacked in &taken {
            if let Some(consumer) = unacked.consumer.as_ref().and_then(|tag| state.consumers.get_mut(tag)) {
                consumer.held = consumer.held.saturating_sub(1);
                self.stirred.insert(consumer.queue.clone());
            }
        }
        Ok(taken)
    }

    fn come_back(&mut self, unacked: Unacked, how: Return, now: Instant) {
        let Unacked { queue: name, stored, .. } = unacked;
        let Some(queue) = self.queues.get_mut(&name) else { return };
        self.moved = true;
        match queue.give_back(stored, how) {
            Back::Waits => drop(self.stirred.insert(name)),
            Back::Dead(stored) => self.forward(&name, *stored, "delivery_limit", now),
        }
    }

    // --- ends -----------------------------------------------------------------

    /// A channel is over: what it had goes back.
    pub(super) fn close(&mut self, channel: ChannelId, now: Instant) {
        let Some(state) = self.channels.remove(&channel) else { return };
        for consumer in state.consumers.values() {
            if let Some(queue) = self.queues.get_mut(&consumer.queue) {
                queue.consumers.retain(|(connection, number, _)| (*connection, *number) != channel);
            }
        }
        for unacked in state.unacked.into_values() {
            self.come_back(unacked, Return::Lost, now);
        }
    }

    /// A connection is over, with its channels and the queues that are its own.
    pub(super) fn disconnect(&mut self, connection: u64, now: Instant) {
        let channels: Vec<_> =
            self.channels.range((connection, 0)..=(connection, u64::MAX)).map(|(id, _)| *id).collect();
        channels.into_iter().for_each(|channel| self.close(channel, now));
        let own = self.queues.iter().filter(|(_, queue)| queue.exclusive == Some(connection));
        let own: Vec<_> = own.map(|(name, _)| name.clone()).collect();
        own.iter().for_each(|name| self.delete(name));
    }

    /// How many messages each queue has, delivered or not.
    pub(super) fn depths(&self) -> BTreeMap<String, usize> {
        let mut depths: BTreeMap<_, _> =
            self.queues.iter().map(|(name, queue)| (name.clone(), queue.ready())).collect();
        for unacked in self.channels.values().flat_map(|state| state.unacked.values()) {
            *depths.entry(unacked.queue.clone()).or_default() += 1;
        }
        depths
    }

    /// Who is answered at this address.
    fn caller(&self, name: &str) -> Option<(u64, Way)> {
        let found = self.channels.iter().find(|(id, state)| state.replies.is_some() && address(**id) == name);
        found.and_then(|((connection, _), state)| Some((*connection, state.replies.clone()?)))
    }
}

fn depth(queue: &Queue) -> Depth {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Depth { ready: count(queue.ready()), consumers: count(queue.consumers.len()) }
}

/// The address of a channel, as a process of Erlang and a key: see `calls::is_direct`.
fn address((connection, channel): ChannelId) -> String {
    format!("{DIRECT_REPLY_TO}.g1h{connection:09}.{channel:08}")
}

/// What comes back to a publisher.
pub(super) fn returned(to: &Address, message: &Message) -> Returned {
    let message_id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    Returned { exchange: to.exchange.clone(), key: to.key.clone(), message_id }
}
