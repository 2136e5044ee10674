//! The job as it travels: payload plus routing and counters.
//!
//! The body is the payload and nothing else, as plain JSON, so that a program
//! in another language can write and read it. Everything the framework adds
//! stands beside the body: in columns on SQLite, in message properties and
//! headers on AMQP. What the names and limits of both are stands here, and what
//! RabbitMQ needs besides in its `wire`; a change of what is below raises [`WIRE_VERSION`].
//!
//! | field | AMQP | SQLite column | limit |
//! |---|---|---|---|
//! | `id` | property `message_id` | `id` | 255 bytes |
//! | `name` | property `type` | `name` | 128 bytes |
//! | `body` | body | `body` | 1 MiB, [`PAYLOAD_BYTES_MAX`] |
//! | `headers` | headers | `headers` (JSON) | 64 headers, 16 KiB together |
//! | `priority` | property `priority` | `priority` | 0 to 31 |
//! | `enqueued_at` | property `timestamp`, and the milliseconds of an `id` of version 7, or header `x-enqueued-at` | `enqueued_ms` | |
//! | `expires_at` | header `x-expires-at` | `expires_ms` | |
//! | the exchange and key it came by | headers `x-origin-exchange`, `x-origin-key` | in `headers` | 255 bytes |
//! | `caller` | properties `reply_to`, `correlation_id`, header `x-call-retries` | `reply_to`, `correlation`, `call_retries` | 255 bytes each |
//! | `unknown_since` | header `x-unknown-since` | `unknown_since_ms` | |
//! | retries so far | header `x-retry-count` | `retries` | 1,000 |
//! | last error | header `x-last-error` | `last_error` | 2 KiB |
//! | starts that never ended | header `x-starts` | `starts` | 3 |

use std::{collections::BTreeMap, fmt, num::NonZeroU16, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::JobId,
    name::{ExchangeName, JobName, QueueName},
    retry::DELAY_MAX,
    time::Timestamp,
};

/// The version of the shape this module describes.
pub const WIRE_VERSION: u32 = 1;

/// The default limit of a payload in bytes: 1 MiB.
///
/// A broker keeps every waiting job; what is larger belongs in a file or an
/// object store, with its key in the payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The most headers of one job.
pub const HEADERS_MAX: usize = 64;

/// The most bytes of all headers of one job, written as JSON.
///
/// A header table near AMQP's `frame_max` (128 KiB) closes the connection it travels on.
pub const HEADERS_BYTES_MAX: usize = 16 << 10;

/// How deep a header's value may be nested.
pub const HEADER_DEPTH_MAX: usize = 8;

/// The most jobs in one bundle: with a thousand small jobs in a message the broker costs nothing any more.
pub const BUNDLE_MAX: u16 = 1_000;

/// The most bytes of one bundle: of larger jobs its message costs little, and a consumer has its prefetch of them in memory.
pub const BUNDLE_BYTES_MAX: usize = 256 << 10;

/// Headers that the framework or a broker writes; an application cannot.
const RESERVED: [&str; 22] = [
    // RabbitMQ sends a message to these queues, too.
    "BCC",
    "CC",
    "x-acquired-count",
    "x-attempts",
    "x-bundle",
    CALL_RETRIES,
    "x-death",
    "x-delivery-count",
    "x-died-at-us",
    "x-due-at",
    "x-enqueued-at",
    "x-expires-at",
    "x-failure-kind",
    "x-last-error",
    ORIGIN_EXCHANGE,
    ORIGIN_KEY,
    "x-queue",
    "x-retry-count",
    "x-retry-timestamp",
    "x-starts",
    "x-unknown-since",
    "x-wire-version",
];
/// By which exchange, and with which key, a job came into its queue: headers, so that they stay with
/// it through retries, dead-lettering and replay on every broker.
pub(crate) const ORIGIN_EXCHANGE: &str = "x-origin-exchange";
pub(crate) const ORIGIN_KEY: &str = "x-origin-key";
/// That a call is retried as its job is, which it is not unless its caller asks.
pub(crate) const CALL_RETRIES: &str = "x-call-retries";

const RESERVED_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// A job as it travels.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Envelope {
    /// Unchanged from the first enqueue to the end.
    pub id: JobId,
    /// Where it goes.
    pub route: Route,
    /// Which job type; none when a foreign producer gave no name.
    pub name: Option<JobName>,
    /// The payload, JSON; never logged.
    pub body: Body,
    /// The application's headers.
    pub headers: Headers,
    /// Higher is delivered first.
    pub priority: Priority,
    /// When it may be delivered; on a delivery, always [`Due::Now`].
    pub due: Due,
    /// When it was enqueued first.
    pub enqueued_at: Timestamp,
    /// From when on it must not be started any more.
    pub expires_at: Option<Timestamp>,
    /// Since when no worker has known its name.
    pub unknown_since: Option<Timestamp>,
    /// Who waits for what it returns, where somebody does: then it is a *call*.
    pub caller: Option<Caller>,
    /// How many jobs may be in one message with it, where the broker has messages: leave, and no part of the job. None on
    /// a delivery.
    pub bundle: Option<NonZeroU16>,
}

/// Who waits for the reply of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Where the reply goes: what a broker knows the caller by, at most 255 bytes.
    pub address: String,
    /// Which of the caller's calls it answers, at most 255 bytes.
    pub correlation: String,
    /// Whether the job is retried as one that nobody waits for. Otherwise its first failure is the reply.
    pub retries: bool,
}

impl Envelope {
    /// A job of the given payload for `queue`, everything else at its default.
    #[must_use]
    pub fn new(id: JobId, queue: QueueName, name: Option<JobName>, body: impl Into<Bytes>, now: Timestamp) -> Self {
        Self {
            id,
            route: Route::Queue(queue),
            name,
            body: Body(body.into()),
            headers: Headers::default(),
            priority: Priority::DEFAULT,
            due: Due::Now,
            enqueued_at: now,
            expires_at: None,
            unknown_since: None,
            caller: None,
            bundle: None,
        }
    }
}

impl Envelope {
    /// By which exchange it came into its queue, and with which key; `None` where it was sent to the queue itself.
    #[must_use]
    pub fn origin(&self) -> Option<(&str, &str)> {
        let text = |name| self.headers.get(name).and_then(serde_json::Value::as_str);
        Some((text(ORIGIN_EXCHANGE)?, text(ORIGIN_KEY).unwrap_or_default()))
    }

    /// The copy that an exchange puts into `queue`.
    #[must_use]
    pub fn copy_for(&self, queue: &QueueName) -> Self {
        let mut copy = Self { route: Route::Queue(queue.clone()), ..self.clone() };
        if let Route::Exchange { name, key, .. } = &self.route {
            copy.headers.insert(ORIGIN_EXCHANGE, name.as_str());
            copy.headers.insert(ORIGIN_KEY, key.as_str());
        }
        copy
    }
}

/// Where an envelope goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// Into one queue.
    Queue(QueueName),
    /// To the queues that an [exchange](crate::exchange) chooses, a copy each.
    Exchange {
        /// The exchange's name.
        name: ExchangeName,
        /// What the exchange chooses by.
        key: String,
        /// Whether it is a failure when no queue is chosen.
        mandatory: bool,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => write!(f, "queue `{queue}`"),
            Self::Exchange { name, key, .. } => write!(f, "exchange `{name}` with key `{}`", key.escape_debug()),
        }
    }
}

/// When a job may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Due {
    /// As soon as a worker is free.
    #[default]
    Now,
    /// When this time has passed on the broker's clock.
    In(Duration),
    /// At this date.
    At(Timestamp),
}

impl Due {
    /// The date this is, seen at `now`; `None` for at once.
    #[must_use]
    pub fn date(self, now: Timestamp) -> Option<Timestamp> {
        let date = match self {
            Self::Now => return None,
            Self::In(delay) => now + delay,
            Self::At(date) => date,
        };
        (date > now).then_some(date)
    }
}

/// A payload: bytes whose content is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Body(pub Bytes);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// How soon a job is delivered among those that wait: 0 to 31, higher first.
///
/// The default is 4, the default of RabbitMQ's quorum queues, so that there is
/// room below for work that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The lowest priority.
    pub const MIN: Self = Self(0);
    /// The priority of a job that asks for none.
    pub const DEFAULT: Self = Self(4);
    /// The highest priority.
    pub const MAX: Self = Self(31);

    /// The priority `level`, or `None` above 31.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if level <= Self::MAX.0 { Some(Self(level)) } else { None }
    }

    /// 0 to 31.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An application's headers: names to JSON values, kept through retries and dead-lettering.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, serde_json::Value>);

impl Headers {
    /// Sets `name` to `value`.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&serde_json::Value> {
        self.0.get(name)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Says what is wrong with these headers as an application's, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.0.len() > HEADERS_MAX {
            return Some(format!("it has {} headers; the limit is {HEADERS_MAX}", self.0.len()));
        }
        for (name, value) in &self.0 {
            let shown = name.escape_debug();
            if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return Some(format!(
                    "header name `{shown}` is not 1 to 128 printable ASCII characters without spaces"
                ));
            }
            if RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                return Some(format!("header `{shown}` is written by the framework; choose another name"));
            }
            if depth(value) > HEADER_DEPTH_MAX {
                return Some(format!("header `{shown}` is nested deeper than {HEADER_DEPTH_MAX} levels"));
            }
        }
        let bytes = serde_json::to_vec(&self.0).map_or(0, |json| json.len());
        (bytes > HEADERS_BYTES_MAX).then(|| format!("its headers have {bytes} bytes; the limit is {HEADERS_BYTES_MAX}"))
    }
}

/// How many arrays and objects a value is nested in, itself counted.
pub(crate) fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Checks a delay or the distance to a date.
pub(crate) fn delay_problem(delay: Duration) -> Option<String> {
    (delay > DELAY_MAX).then(|| format!("it would wait {} days; the limit is 366", delay.as_secs() / 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_date_is_now_and_a_delay_is_never_early() {
        let now = Timestamp::from_unix_ms(1_000);
        assert_eq!(Due::At(Timestamp::from_unix_ms(999)).date(now), None);
        assert_eq!(Due::In(Duration::ZERO).date(now), None);
        assert_eq!(Due::In(Duration::from_micros(1)).date(now), Some(Timestamp::from_unix_ms(1_001)));
    }

    #[test]
    fn a_payload_is_never_printed() {
        let envelope =
            Envelope::new(JobId::new(), "q".parse().unwrap(), None, &b"{\"card\":\"4111\"}"[..], Timestamp::default());
        assert!(!format!("{envelope:?}").contains("4111"));
    }

    #[test]
    fn headers_beyond_a_limit_or_of_the_framework_are_refused_by_name() {
        let one = |name: &str, value: serde_json::Value| {
            let mut headers = Headers::default();
            headers.insert(name, value);
            headers.problem()
        };
        assert_eq!(one("tenant", "a".into()), None);
        assert!(one("x-retry-count", 1.into()).unwrap().contains("`x-retry-count` is written by the framework"));
        assert!(one("x-first-death-queue", "q".into()).is_some());
        assert!(one("a b", 1.into()).unwrap().contains("`a b`"));
        assert!(one("big", "x".repeat(HEADERS_BYTES_MAX).into()).unwrap().contains("the limit is 16384"));
        let deep = (0..=HEADER_DEPTH_MAX).fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner]));
        assert!(one("deep", deep).unwrap().contains("nested deeper than 8"));
        let mut many = Headers::default();
        (0..=HEADERS_MAX).for_each(|n| many.insert(format!("h{n}"), n));
        assert!(many.problem().unwrap().contains("65 headers"));
    }
}
