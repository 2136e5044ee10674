//! Names of jobs and queues: text that was checked once.
//!
//! Names travel into logs, file names, SQL, header values and terminals, so
//! their alphabet is small and nothing behind this module needs to escape them.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes in a name. AMQP allows 255 for a queue; the rest is room for
/// suffixes such as `_dlq` and `_retry_5000`.
pub const NAME_BYTES_MAX: usize = 128;

/// The dead-letter queue of queue `q` is called `q_dlq`, unless its jobs
/// [name another](crate::queue::QueueOptions::dead_letter_queue).
pub const DEAD_LETTER_SUFFIX: &str = "_dlq";

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}` {problem}; use 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . _ : -", .text.escape_debug())]
pub struct InvalidName {
    what: &'static str,
    text: String,
    problem: &'static str,
}

/// Says what is wrong with `text` as a name, if anything.
///
/// # Examples
///
/// ```
/// assert!("send_welcome".parse::<worker_core::JobName>().is_ok());
/// ```
const fn problem(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Some("is empty");
    }
    if bytes.len() > NAME_BYTES_MAX {
        return Some("is too long");
    }
    let mut i = 0;
    while i < bytes.len() {
        let ok = bytes[i].is_ascii_alphanumeric() || matches!(bytes[i], b'.' | b'_' | b':' | b'-');
        if !ok {
            return Some(if bytes[i] == b' ' {
                "contains a space"
            } else {
                "contains a character that is not allowed"
            });
        }
        i += 1;
    }
    None
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                match problem(text) {
                    None => Ok(Self(text.into())),
                    Some(problem) => Err(InvalidName { what: $what, text: text.into(), problem }),
                }
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a job type, `send_welcome` say. It travels with every job.
    ///
    /// 1 to [`NAME_BYTES_MAX`] of the characters `a-z A-Z 0-9 . _ : -`.
    JobName, "job name"
}

name! {
    /// The name of an exchange, `events` say.
    ///
    /// 1 to [`NAME_BYTES_MAX`] of the characters `a-z A-Z 0-9 . _ : -`. Those that begin with
    /// `amq.` are RabbitMQ's own: they can be used, and exist already.
    ExchangeName, "exchange name"
}

name! {
    /// The name of a queue.
    ///
    /// 1 to [`NAME_BYTES_MAX`] of the characters `a-z A-Z 0-9 . _ : -`.
    QueueName, "queue name"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_small_alphabet_are_accepted() {
        for text in ["emails", "a.b_c:d-9", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(text.parse::<QueueName>().unwrap(), text);
        }
    }

    #[test]
    fn a_refusal_names_the_text_the_problem_and_the_alphabet() {
        let error = "mail ".parse::<QueueName>().unwrap_err().to_string();
        assert_eq!(error, "queue name `mail ` contains a space; use 1 to 128 of the characters a-z A-Z 0-9 . _ : -");
        let error = "a\u{1b}[31m".parse::<JobName>().unwrap_err().to_string();
        assert!(error.contains(r"\u{1b}"), "escapes must not reach the terminal: {error}");
        assert!("".parse::<JobName>().is_err());
        assert!("x".repeat(129).parse::<JobName>().is_err());
    }
}
