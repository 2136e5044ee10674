//! What a call is answered with. Pure.
//!
//! A *call* is a job whose enqueuer waits for what its handler returns: its
//! envelope names a [`Caller`](crate::envelope::Caller). What ends the job ends
//! the call: the reply travels with the settlement that takes the job out of
//! its queue, so that no call is answered twice without a fault and none that
//! was answered is left behind.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Body, PAYLOAD_BYTES_MAX},
    outcome::{Failure, FailureKind},
};

/// The largest value that a call is answered with, in bytes: 1 MiB, as the default of a payload.
pub const REPLY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// How a call ended, for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// What the handler returned, as JSON; never logged.
    Returned(Body),
    /// Why it failed for good.
    Failed(Failure),
}

/// A failure as the body of a message: for callers in other languages.
#[derive(Serialize, Deserialize)]
struct Told {
    error: Error,
}

#[derive(Serialize, Deserialize)]
struct Error {
    kind: String,
    message: String,
}

impl Reply {
    /// The body of the message that carries it: the value itself, or `{"error": {"kind": …, "message": …}}`.
    #[must_use]
    pub fn body(&self) -> Body {
        match self {
            Self::Returned(body) => body.clone(),
            Self::Failed(Failure { kind, message, .. }) => {
                let told = Told { error: Error { kind: kind.to_string(), message: message.clone() } };
                Body(serde_json::to_vec(&told).unwrap_or_default().into())
            }
        }
    }

    /// The failure of this kind that `body` tells of; its whole text where it is in another form.
    #[must_use]
    pub fn failed(kind: FailureKind, body: &[u8]) -> Self {
        let message = match serde_json::from_slice::<Told>(body) {
            Ok(told) => told.error.message,
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        };
        Self::Failed(Failure::new(kind, message))
    }

    /// What must be kept when nobody can be told: a failure, but for that of a call nobody waited for any more.
    #[must_use]
    pub fn unheard(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) if failure.kind != FailureKind::Expired => Some(failure),
            _ => None,
        }
    }
}

/// `value` as the body of a reply.
///
/// # Errors
///
/// It cannot be written as JSON, or is larger than [`REPLY_BYTES_MAX`].
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Body, String> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| format!("what it returned cannot be written as JSON: {error}"))?;
    if bytes.len() > REPLY_BYTES_MAX {
        return Err(format!(
            "what it returned has {} bytes; the limit of a reply is {REPLY_BYTES_MAX}: store it elsewhere and return its key",
            bytes.len()
        ));
    }
    Ok(Body(Bytes::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_read_as_it_is_written() {
        let failure = Failure::new(FailureKind::Panic, "no \"luck\"");
        let reply = Reply::Failed(failure);
        assert_eq!(&*reply.body().0, br#"{"error":{"kind":"panic","message":"no \"luck\""}}"#);
        assert_eq!(Reply::failed(FailureKind::Panic, &reply.body().0), reply);
        assert_eq!(
            Reply::failed(FailureKind::Error, b"plain"),
            Reply::Failed(Failure::new(FailureKind::Error, "plain"))
        );
    }

    #[test]
    fn what_cannot_be_a_reply_is_said_with_its_size_and_the_limit() {
        let why = encode(&"x".repeat(REPLY_BYTES_MAX)).unwrap_err();
        assert!(why.contains("1048578 bytes; the limit of a reply is 1048576"), "{why}");
        assert!(encode(&std::collections::BTreeMap::from([([1], 2)])).unwrap_err().contains("as JSON"));
    }

    #[test]
    fn only_a_failure_that_somebody_waited_for_must_be_kept() {
        assert_eq!(Reply::Returned(Body::default()).unheard(), None);
        let failed = |kind| Reply::Failed(Failure::new(kind, "no"));
        assert!(failed(FailureKind::Error).unheard().is_some());
        assert_eq!(failed(FailureKind::Expired).unheard(), None);
    }
}
