//! The identity of a job.
//!
//! A job keeps its id through retries, dead-lettering and replay, and an
//! enqueue whose outcome is unknown is tried again under the same id: it is
//! what a handler uses to be idempotent. Ids made here are UUIDs of version 7
//! (RFC 9562), so that they sort by the time they were made. Foreign producers
//! may use any short text, so an id is text with one common shape.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    str::FromStr,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{ContextV7, Uuid};

use crate::time::Timestamp;

/// The most bytes in a job id: AMQP's limit for `message_id` (a short string).
pub const JOB_ID_BYTES_MAX: usize = 255;

/// Keeps ids that are made within a millisecond in their order.
static CONTEXT: Mutex<AssertUnwindSafe<ContextV7>> = Mutex::new(AssertUnwindSafe(ContextV7::new()));

/// The identity of a job, unchanged from the first enqueue to its end.
///
/// Either a UUID of version 7, made by [`JobId::new`], or 1 to
/// [`JOB_ID_BYTES_MAX`] bytes of printable ASCII without spaces, chosen by the
/// caller.
///
/// An id is not a deduplication key: two jobs enqueued with one id are two jobs.
///
/// # Examples
///
/// ```
/// use worker_core::JobId;
///
/// let id: JobId = "order-1001".parse()?;
/// assert_eq!(id.to_string(), "order-1001");
/// assert!("two words".parse::<JobId>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    // The common case is copied, not allocated.
    Uuid(Uuid),
    Text(Arc<str>),
}

impl JobId {
    /// Makes a new id.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default value that differs each time misleads")]
    pub fn new() -> Self {
        Self(Repr::Uuid(Uuid::now_v7()))
    }

    /// Makes a new id of this time, or of a little later where the clock was set back.
    pub(crate) fn at(now: Timestamp) -> Self {
        let (seconds, ms) = (now.unix_ms() / 1_000, now.unix_ms() % 1_000);
        let nanos = u32::try_from(ms * 1_000_000).unwrap_or(0);
        Self(Repr::Uuid(Uuid::new_v7(uuid::Timestamp::from_unix(&CONTEXT, seconds, nanos))))
    }

    /// When it was made, where it says so: to the millisecond, as version 7 has it (RFC 9562, section 5.7).
    #[cfg(any(test, feature = "rabbitmq"))]
    pub(crate) fn made_at(&self) -> Option<Timestamp> {
        let Repr::Uuid(uuid) = &self.0 else { return None };
        let (seconds, nanos) = uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7)?.to_unix();
        Some(Timestamp::from_unix_ms(seconds * 1_000 + u64::from(nanos / 1_000_000)))
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if text.is_empty() || text.len() > JOB_ID_BYTES_MAX {
            return Err(InvalidJobId::Length(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(InvalidJobId::Character(bad));
        }
        // Only the canonical spelling becomes a UUID, or the id would be printed
        // differently from what its owner wrote.
        if text.len() == 36
            && let Ok(uuid) = Uuid::try_parse(text)
            && uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text
        {
            return Ok(Self(Repr::Uuid(uuid)));
        }
        Ok(Self(Repr::Text(text.into())))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(uuid) => fmt::Display::fmt(uuid, f),
            Repr::Text(text) => fmt::Display::fmt(&**text, f),
        }
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is no job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJobId {
    /// Empty or too long.
    #[error("a job id has 1 to {JOB_ID_BYTES_MAX} bytes, this one has {0}")]
    Length(usize),
    /// A space, a control character or a character outside ASCII.
    #[error("a job id is printable ASCII without spaces, this one contains {0:?}")]
    Character(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_it_was_made() {
        // The example of RFC 9562, appendix A.6.
        let example: JobId = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        assert_eq!(example.made_at(), Some(Timestamp::from_unix_ms(1_645_557_742_000)));
        let (first, second) = (JobId::at(Timestamp::default()), JobId::at(Timestamp::default()));
        assert!(first < second && first.made_at() <= second.made_at(), "in their order, whatever the clock says");
        assert_eq!("order-1".parse::<JobId>().unwrap().made_at(), None);
        let random: JobId = "d9428888-122b-41e1-b85c-61f3e3a0b4f5".parse().unwrap();
        assert_eq!(random.made_at(), None, "it is of version 4");
    }

    #[test]
    fn ids_are_unique_and_sort_by_age() {
        let ids: Vec<_> = (0..1000).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 1000);
    }

    #[test]
    fn an_id_is_printed_as_it_was_written() {
        for text in ["order-1001", "018F6D2A-0000-7000-8000-000000000000", "018f6d2a-0000-7000-8000-000000000000"] {
            assert_eq!(text.parse::<JobId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_text_that_could_forge_a_log_line_is_refused() {
        assert_eq!("a\nb".parse::<JobId>(), Err(InvalidJobId::Character('\n')));
        assert_eq!("".parse::<JobId>(), Err(InvalidJobId::Length(0)));
        assert_eq!("x".repeat(256).parse::<JobId>(), Err(InvalidJobId::Length(256)));
    }
}
