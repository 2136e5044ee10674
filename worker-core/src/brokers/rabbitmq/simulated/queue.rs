//! One queue of the simulated server: what waits in it, in which order, and what is counted. Pure.
//!
//! Each rule is one that was measured on a node; where the versions differ is the table of
//! [`version`](super::super::version).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use crate::brokers::rabbitmq::{headers::integer, wire::Message};

/// The priority of a message without one in a quorum queue from 4.3 on.
const QUORUM_PRIORITY: u8 = 4;

/// The highest priority that a quorum queue tells apart.
const QUORUM_PRIORITY_MAX: u8 = 31;

/// A message in a queue.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) message: Arc<Message>,
    /// By which exchange and key it came.
    pub(super) exchange: String,
    pub(super) key: String,
    /// Age among all that came to this queue.
    seq: u64,
    rank: u8,
    /// Returns that the server counts as failed deliveries.
    pub(super) count: u32,
    /// How often it was given out.
    pub(super) acquired: u32,
    expires: Option<Instant>,
}

impl Stored {
    /// What a client sees: with what the server has counted.
    pub(super) fn as_delivered(&self, is_counted: bool) -> Message {
        let mut message = Message::clone(&self.message);
        let delivered = (self.count > 0).then_some(("x-delivery-count", self.count));
        let acquired = (is_counted && self.acquired > 0).then_some(("x-acquired-count", self.acquired));
        if delivered.is_some() || acquired.is_some() {
            let mut table = message.properties.headers().clone().unwrap_or_default();
            for (name, count) in delivered.into_iter().chain(acquired) {
                table.insert(name.into(), AMQPValue::LongLongInt(count.into()));
            }
            message.properties = message.properties.with_headers(table);
        }
        message
    }
}

/// Where a message waits: the first comes first.
type Place = (u8, u8, u64);

/// Who consumes: connection, channel, tag.
pub(super) type ConsumerId = (u64, u64, String);

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) arguments: FieldTable,
    /// The connection that it belongs to and ends with.
    pub(super) exclusive: Option<u64>,
    ready: BTreeMap<Place, Stored>,
    /// In turn.
    pub(super) consumers: VecDeque<ConsumerId>,
    next: u64,
    returns: u64,
    /// From 4.3 on.
    modern: bool,
    pub(super) quorum: bool,
}

/// How a message comes back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// Given back by who had it.
    Nack,
    /// Left by a channel or connection that has ended.
    Lost,
}

/// What became of a message that came back.
#[derive(Debug)]
pub(super) enum Returned {
    Waits,
    /// It was delivered too often.
    Dead(Box<Stored>),
}

impl Queue {
    pub(super) fn new(arguments: FieldTable, exclusive: Option<u64>, modern: bool) -> Self {
        let kind = text(&arguments, "x-queue-type");
        Self {
            quorum: kind.as_deref() == Some("quorum"),
            arguments,
            exclusive,
            ready: BTreeMap::new(),
            consumers: VecDeque::new(),
            next: 0,
            returns: 0,
            modern,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.arguments.inner().get(name).and_then(integer).and_then(|number| u64::try_from(number).ok())
    }

    /// Where what leaves it otherwise than by an acknowledgement goes.
    pub(super) fn dead_letters_to(&self) -> Option<(String, Option<String>)> {
        let exchange = text(&self.arguments, "x-dead-letter-exchange")?;
        Some((exchange, text(&self.arguments, "x-dead-letter-routing-key")))
    }

    /// Whether a message that is forwarded stays until it has arrived.
    pub(super) fn forwards_at_least_once(&self) -> bool {
        self.quorum && text(&self.arguments, "x-dead-letter-strategy").as_deref() == Some("at-least-once")
    }

    /// Whether it refuses another message.
    pub(super) fn refuses(&self) -> bool {
        let full = self.number("x-max-length").is_some_and(|max| self.ready.len() as u64 >= max);
        full && text(&self.arguments, "x-overflow").as_deref() == Some("reject-publish")
    }

    /// Takes a message; what it drops for it, if anything.
    pub(super) fn push(&mut self, message: Arc<Message>, exchange: &str, key: &str, now: Instant) -> Option<Stored> {
        let priority = *message.properties.priority();
        let rank = match (self.quorum, self.number("x-max-priority")) {
            (true, _) if self.modern => priority.unwrap_or(QUORUM_PRIORITY).min(QUORUM_PRIORITY_MAX),
            (false, Some(max)) => priority.unwrap_or(0).min(u8::try_from(max).unwrap_or(u8::MAX)),
            _ => 0,
        };
        let own = message.properties.expiration().as_ref().and_then(|ms| ms.as_str().parse().ok());
        let ttl = [self.number("x-message-ttl"), own].into_iter().flatten().min();
        let expires = ttl.map(|ms| now + Duration::from_millis(ms));
        let (exchange, key) = (exchange.to_owned(), key.to_owned());
        let seq = self.next;
        self.next += 1;
        let stored = Stored { message, exchange, key, seq, rank, count: 0, acquired: 0, expires };
        self.ready.insert((1, u8::MAX - rank, seq), stored);
        let full = self.number("x-max-length").is_some_and(|max| self.ready.len() as u64 > max);
        full.then(|| self.ready.pop_first().map(|(_, stored)| stored)).flatten()
    }

    /// Takes the first that waits.
    pub(super) fn pop(&mut self) -> Option<Stored> {
        self.ready.pop_first().map(|(_, stored)| stored)
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes back what was given out.
    pub(super) fn give_back(&mut self, mut stored: Stored, how: Return) -> Returned {
        stored.acquired += 1;
        if self.quorum && (how == Return::Lost || !self.modern) {
            stored.count += 1;
        }
        if self.quorum && self.number("x-delivery-limit").is_some_and(|limit| u64::from(stored.count) > limit) {
            return Returned::Dead(Box::new(stored));
        }
        let place = if self.quorum && self.modern {
            self.returns += 1;
            (0, 0, self.returns)
        } else {
            (1, u8::MAX - stored.rank, stored.seq)
        };
        self.ready.insert(place, stored);
        Returned::Waits
    }

    /// When the first that waits has waited too long, if ever.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.ready.first_key_value().and_then(|(_, stored)| stored.expires)
    }

    /// Takes the first that waits, if it has waited too long. Those behind it have to wait for it.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        self.expires().filter(|expires| *expires <= now)?;
        self.pop()
    }

    /// Puts back what could not be forwarded, to be tried again at `again`.
    pub(super) fn hold(&mut self, mut stored: Stored, again: Instant) {
        stored.expires = Some(again);
        self.returns += 1;
        self.ready.insert((0, 0, self.returns), stored);
    }
}

/// A text among a queue's arguments.
pub(super) fn text(arguments: &FieldTable, name: &str) -> Option<String> {
    match arguments.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}
