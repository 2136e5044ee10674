//! Exchanges: what sends one message to several queues, by AMQP's rules. Pure.
//!
//! An exchange keeps nothing. A message that is published to it is copied into
//! every queue whose binding matches, and from then on each copy is a job of
//! its own: it is retried, released and dead-lettered alone.
//!
//! Source of the rules: AMQP 0-9-1, section 3.1.3, and for headers RabbitMQ's
//! page "Exchanges".

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    envelope::Headers,
    name::{ExchangeName, QueueName},
};

/// The most bytes of a routing or binding key: AMQP's short string.
pub const KEY_BYTES_MAX: usize = 255;

/// How an exchange chooses queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ExchangeKind {
    /// Those bound with the message's key.
    Direct,
    /// All that are bound.
    Fanout,
    /// Those bound with a pattern that fits the key: words between dots, `*` for
    /// one word, `#` for none or more.
    Topic,
    /// Those bound with headers that the message has.
    Headers,
}

impl ExchangeKind {
    /// Its name in AMQP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An exchange. It is durable: it outlives the server's restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Exchange {
    /// Its name.
    pub name: ExchangeName,
    /// How it chooses.
    pub kind: ExchangeKind,
}

impl Exchange {
    /// An exchange of this name and kind.
    #[must_use]
    pub const fn new(name: ExchangeName, kind: ExchangeKind) -> Self {
        Self { name, kind }
    }
}

/// That a queue gets copies of some of what is published to an exchange.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Binding {
    /// Where it is published.
    pub exchange: ExchangeName,
    /// Who gets a copy.
    pub queue: QueueName,
    /// Of which.
    pub on: Criterion,
}

/// Which messages a binding takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Criterion {
    /// Those with this key (direct) or one that fits it (topic). A fanout exchange takes all, whatever it says.
    Key(String),
    /// Those that have all of these headers; a `null` asks only that there is one of that name.
    AllOf(Headers),
    /// Those that have one of these headers at least.
    AnyOf(Headers),
}

impl Binding {
    /// `queue` gets what is published to `exchange` with a key that is or fits `key`.
    pub fn by_key(exchange: ExchangeName, queue: QueueName, key: impl Into<String>) -> Self {
        Self { exchange, queue, on: Criterion::Key(key.into()) }
    }

    /// `queue` gets what is published to `exchange` with all of these headers.
    #[must_use]
    pub const fn by_all_headers(exchange: ExchangeName, queue: QueueName, headers: Headers) -> Self {
        Self { exchange, queue, on: Criterion::AllOf(headers) }
    }

    /// `queue` gets what is published to `exchange` with one of these headers at least.
    #[must_use]
    pub const fn by_any_header(exchange: ExchangeName, queue: QueueName, headers: Headers) -> Self {
        Self { exchange, queue, on: Criterion::AnyOf(headers) }
    }

    /// Whether a binding of an exchange of `kind` takes a message with this key and these headers.
    ///
    /// # Examples
    ///
    /// ```
    /// use worker_core::{envelope::Headers, exchange::{Binding, ExchangeKind}};
    ///
    /// let binding = Binding::by_key("events".parse()?, "audit".parse()?, "order.#");
    /// assert!(binding.takes(ExchangeKind::Topic, "order.created.eu", &Headers::default()));
    /// assert!(!binding.takes(ExchangeKind::Topic, "user.created", &Headers::default()));
    /// # Ok::<(), worker_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn takes(&self, kind: ExchangeKind, key: &str, headers: &Headers) -> bool {
        match (kind, &self.on) {
            (ExchangeKind::Fanout, _) => true,
            (ExchangeKind::Direct, Criterion::Key(wanted)) => wanted == key,
            (ExchangeKind::Topic, Criterion::Key(pattern)) => fits(pattern, key),
            (ExchangeKind::Headers, Criterion::AllOf(wanted)) => considered(wanted).all(|entry| has(headers, entry)),
            (ExchangeKind::Headers, Criterion::AnyOf(wanted)) => considered(wanted).any(|entry| has(headers, entry)),
            // A headers exchange looks at no key: bound with nothing else, it takes all.
            (ExchangeKind::Headers, Criterion::Key(_)) => true,
            // Bound with headers and no key, which is the empty one.
            (ExchangeKind::Direct, _) => key.is_empty(),
            (ExchangeKind::Topic, _) => fits("", key),
        }
    }

    /// What is wrong with it, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self { exchange, queue, on } = self;
        let problem = match on {
            Criterion::Key(key) => key_problem(key),
            Criterion::AllOf(headers) | Criterion::AnyOf(headers) => headers.problem(),
        };
        problem.map(|problem| format!("the binding of queue `{queue}` to exchange `{exchange}`: {problem}"))
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |headers: &Headers| headers.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        match self {
            Self::Key(key) => write!(f, "{}", key.escape_debug()),
            Self::AllOf(headers) => write!(f, "all of {}", list(headers).join(", ")),
            Self::AnyOf(headers) => write!(f, "any of {}", list(headers).join(", ")),
        }
    }
}

/// What is wrong with a routing or binding key, if anything.
pub(crate) fn key_problem(key: &str) -> Option<String> {
    (key.len() > KEY_BYTES_MAX).then(|| format!("the key has {} bytes; the limit is {KEY_BYTES_MAX}", key.len()))
}

/// Whether `key` fits `pattern`, word by word.
///
/// In time proportional to the product of their words: a pattern of many `#` costs nothing more.
fn fits(pattern: &str, key: &str) -> bool {
    // reached[n]: the pattern so far fits the first n words of the key.
    let words = words(key);
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in self::words(pattern) {
        match part {
            "#" => {
                let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                reached[first..].fill(true);
            }
            part => {
                for n in (0..words.len()).rev() {
                    reached[n + 1] = reached[n] && (part == "*" || part == words[n]);
                }
                reached[0] = false;
            }
        }
    }
    reached[words.len()]
}

/// An empty key has no word, not an empty one (measured on 3.10 and 4.3).
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// RabbitMQ leaves out of the comparison what begins with `x-`.
fn considered(wanted: &Headers) -> impl Iterator<Item = (&str, &Value)> {
    wanted.iter().filter(|(name, _)| !name.starts_with("x-"))
}

fn has(headers: &Headers, (name, wanted): (&str, &Value)) -> bool {
    headers.get(name).is_some_and(|value| wanted.is_null() || value == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the words of the specification, without regard to time.
    fn fits_as_written(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => {
                fits_as_written(rest, key) || (!key.is_empty() && fits_as_written(pattern, &key[1..]))
            }
            (["*", rest @ ..], [_, words @ ..]) => fits_as_written(rest, words),
            ([part, rest @ ..], [word, words @ ..]) => part == word && fits_as_written(rest, words),
            _ => false,
        }
    }

    #[test]
    fn a_topic_is_compared_word_by_word() {
        for (pattern, fitting, others) in [
            ("order.*", &["order.created", "order."][..], &["order", "order.created.eu", "orders.created"][..]),
            ("order.#", &["order", "order.created", "order.created.eu"], &["user.order", "orders"]),
            ("*.created", &["order.created", ".created"], &["created", "order.item.created"]),
            ("#", &["", "a", "a.b.c"], &[]),
            ("*", &["a"], &["", "a.b", "."]),
            ("#.error.#", &["error", "app.error", "error.db", "a.b.error.c.d"], &["errors", "a.b"]),
            ("*.*.rabbit", &["quick.orange.rabbit"], &["lazy.rabbit", "rabbit"]),
            ("", &[""], &["a"]),
            ("#.#.#.#.#.#.#.#.#.#.#.#.x", &["a.b.c.d.x", "x"], &["a.b.c.d.y"]),
        ] {
            for key in fitting {
                assert!(fits(pattern, key), "`{key}` fits `{pattern}`");
            }
            for key in others {
                assert!(!fits(pattern, key), "`{key}` does not fit `{pattern}`");
            }
        }
    }

    proptest! {
        #[test]
        fn the_quick_comparison_is_the_one_of_the_specification(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "#", ""]), 1..7),
            key in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 1..7),
        ) {
            let (pattern, key) = (pattern.join("."), key.join("."));
            prop_assert_eq!(fits(&pattern, &key), fits_as_written(&words(&pattern), &words(&key)));
        }
    }

    #[test]
    fn headers_are_compared_all_or_any_and_null_asks_for_presence() {
        let headers = |pairs: &[(&str, Value)]| {
            let mut headers = Headers::default();
            pairs.iter().for_each(|(name, value)| headers.insert(*name, value.clone()));
            headers
        };
        let (exchange, queue) = ("x".parse::<ExchangeName>().unwrap(), "q".parse::<QueueName>().unwrap());
        let wanted = headers(&[("format", "pdf".into()), ("pages", 3.into())]);
        let all = Binding::by_all_headers(exchange.clone(), queue.clone(), wanted.clone());
        let any = Binding::by_any_header(exchange.clone(), queue.clone(), wanted);
        let takes =
            |binding: &Binding, given: &[(&str, Value)]| binding.takes(ExchangeKind::Headers, "", &headers(given));
        for (given, all_do, any_does) in [
            (&[("format", "pdf".into()), ("pages", 3.into()), ("more", 1.into())][..], true, true),
            (&[("format", "pdf".into())][..], false, true),
            (&[("format", "zip".into()), ("pages", 4.into())][..], false, false),
            (&[][..], false, false),
        ] {
            assert_eq!((takes(&all, given), takes(&any, given)), (all_do, any_does), "{given:?}");
        }
        let present = Binding::by_all_headers(exchange.clone(), queue.clone(), headers(&[("format", Value::Null)]));
        assert!(takes(&present, &[("format", "zip".into())]) && !takes(&present, &[]));
        let nothing = Binding::by_all_headers(exchange.clone(), queue.clone(), Headers::default());
        assert!(takes(&nothing, &[]), "all of none");
        assert!(!takes(&Binding::by_any_header(exchange, queue, Headers::default()), &[]), "one of none");
    }
}
