//! Who waits in this process for which reply. For implementors of brokers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    error::{BrokerError, BrokerErrorKind},
    id::JobId,
    reply::Reply,
};

/// Calls that wait at once in one process: some 300 bytes each, beside their jobs.
pub const CALLS_MAX: usize = 100_000;

type Answer = Result<Reply, BrokerError>;

/// The calls of one process that wait for their replies.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<String, oneshot::Sender<Answer>>>);

impl Callers {
    /// One more call, under a correlation that no other has.
    pub(crate) fn expect(self: &Arc<Self>) -> Result<Expected, BrokerError> {
        // As unguessable as an id of a job: whoever can write to the caller's address cannot answer for others.
        let correlation = JobId::new().to_string();
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.len() >= CALLS_MAX {
            let message = format!("{CALLS_MAX} calls wait for their replies already; call again when some have one");
            return Err(BrokerError::new(BrokerErrorKind::Transient, message));
        }
        waiting.insert(correlation.clone(), sender);
        Ok(Expected { callers: Arc::clone(self), correlation, answer })
    }

    /// Gives a reply to whoever waits for it; whether somebody does.
    pub(crate) fn tell(&self, correlation: &str, reply: Reply) -> bool {
        let waiting = self.lock().remove(correlation);
        waiting.is_some_and(|waiting| waiting.send(Ok(reply)).is_ok())
    }

    /// Nobody who waits now gets a reply any more.
    pub(crate) fn fail(&self, error: &BrokerError) {
        let waiting = std::mem::take(&mut *self.lock());
        for (_, waiting) in waiting {
            drop(waiting.send(Err(error.copy())));
        }
    }

    /// Whether nobody waits.
    #[cfg(any(test, feature = "sqlite"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits. Dropping it forgets it: a reply that comes then is dropped, too.
#[derive(Debug)]
pub(crate) struct Expected {
    callers: Arc<Callers>,
    pub(crate) correlation: String,
    answer: oneshot::Receiver<Answer>,
}

impl Expected {
    /// The reply.
    pub(crate) async fn reply(&mut self) -> Answer {
        let gone = |_| Err(BrokerError::new(BrokerErrorKind::Permanent, "the broker is closed"));
        (&mut self.answer).await.unwrap_or_else(gone)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.callers.lock().remove(&self.correlation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Body;

    #[tokio::test]
    async fn a_reply_goes_to_its_caller_and_to_none_that_has_gone() {
        let callers = Arc::new(Callers::default());
        let (mut first, second) = (callers.expect().unwrap(), callers.expect().unwrap());
        let reply = || Reply::Returned(Body(b"7"[..].into()));
        let gone = second.correlation.clone();
        drop(second);
        assert!(!callers.tell(&gone, reply()) && !callers.tell("nobody's", reply()));
        assert!(callers.tell(&first.correlation, reply()));
        assert_eq!(first.reply().await.unwrap(), reply());
        assert!(callers.is_empty());
    }

    #[tokio::test]
    async fn those_who_wait_are_told_when_no_reply_can_come() {
        let callers = Arc::new(Callers::default());
        let mut expected = callers.expect().unwrap();
        callers.fail(&BrokerError::new(BrokerErrorKind::Transient, "cut off"));
        assert_eq!(expected.reply().await.unwrap_err().to_string(), "cut off");
    }

    #[test]
    fn more_calls_than_may_wait_are_refused_by_number() {
        let callers = Arc::new(Callers::default());
        let waiting: Vec<_> = (0..CALLS_MAX).map(|_| callers.expect().unwrap()).collect();
        assert!(callers.expect().unwrap_err().to_string().contains("100000 calls wait"));
        drop(waiting);
        assert!(callers.expect().is_ok());
    }
}
