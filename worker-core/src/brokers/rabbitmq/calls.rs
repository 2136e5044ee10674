//! Calls: a job that is published with the address of its caller, and the reply.
//!
//! A caller of ours is answered directly: it publishes on a channel that also
//! receives replies, and no queue is made for it (`amq.rabbitmq.reply-to`). A
//! caller in another language may do the same, or name a queue of its own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    brokers::rabbitmq::{
        course::Place,
        declare::broker_error,
        enqueue,
        link::{Address, DIRECT_REPLY_TO},
        publisher::PublishError,
        shared::{Shared, publish_error},
        wire::{self, Message},
    },
    envelope::{Caller, Envelope},
    error::{BrokerError, CallFailure, EnqueueFailure},
    id::JobId,
    name::QueueName,
    reply::Reply,
    telemetry::TARGET,
};

/// Where replies may go, beside callers that are answered directly.
pub(super) struct ReplyQueues {
    allowed: Vec<String>,
    /// Whether one that may not was named in a warning.
    warned: AtomicBool,
}

impl ReplyQueues {
    pub(super) fn new(allowed: &[String]) -> Self {
        Self { allowed: allowed.to_vec(), warned: AtomicBool::new(false) }
    }

    fn allow(&self, address: &str) -> bool {
        let allows = |allowed: &String| match allowed.strip_suffix('*') {
            Some(beginning) => address.starts_with(beginning),
            None => address == allowed,
        };
        is_direct(address) || self.allowed.iter().any(allows)
    }
}

/// Whether this is a channel, as the server writes it in place of [`DIRECT_REPLY_TO`], and no queue.
fn is_direct(address: &str) -> bool {
    address.strip_prefix(DIRECT_REPLY_TO).is_some_and(|token| token.starts_with('.'))
}

/// Enqueues a job, and waits for its reply.
pub(super) async fn call(shared: &Arc<Shared>, envelope: Envelope) -> Result<Reply, CallFailure> {
    let refused = |error| CallFailure::NotEnqueued(EnqueueFailure::Refused(error));
    shared.check().map_err(refused)?;
    let mut expected = shared.callers.expect().map_err(refused)?;
    let retries = envelope.caller.as_ref().is_some_and(|caller| caller.retries);
    let caller = Caller { address: DIRECT_REPLY_TO.into(), correlation: expected.correlation.clone(), retries };
    let envelope = Envelope { caller: Some(caller), ..envelope };
    let sending = async {
        match enqueue::begin(shared, &shared.calling, &envelope).await {
            Ok(confirmed) => confirmed.await,
            Err(failure) => Err(failure),
        }
    };
    tokio::select! {
        biased;
        // It may be there before the server confirms that it has the call.
        reply = expected.reply() => return reply.map_err(CallFailure::Lost),
        sent = sending => sent.map_err(CallFailure::NotEnqueued)?,
    }
    expected.reply().await.map_err(CallFailure::Lost)
}

/// Sees that the reply may go where the message says; otherwise it is a job that nobody waits for.
pub(super) fn admit(shared: &Shared, queue: &QueueName, envelope: &mut Envelope) {
    let Some(refused) = envelope.caller.take_if(|caller| !shared.reply_queues.allow(&caller.address)) else { return };
    if !shared.reply_queues.warned.swap(true, Ordering::Relaxed) {
        let reply_to = refused.address.escape_debug();
        tracing::warn!(
            target: TARGET, %queue, id = %envelope.id, %reply_to,
            "a message wants its reply in a queue that replies may not go to; it and those like it are run without a reply (allow the queue with WORKER_RABBITMQ_REPLY_QUEUES)"
        );
    }
}

/// Answers a call. Where its caller is known to be gone, `kept` goes among the dead of `queue`.
///
/// The server does not say whether one that is answered directly is there (a mandatory message is returned
/// whether it is or not, measured on 3.10): it is asked for where that matters.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    queue: &QueueName,
    id: &JobId,
    caller: Caller,
    reply: Reply,
    kept: Option<Message>,
) -> Result<(), BrokerError> {
    let is_direct = is_direct(&caller.address);
    let told = if is_direct && kept.is_some() && is_gone(shared, &caller.address).await? {
        false
    } else {
        let to = Address { exchange: String::new(), key: caller.address.clone(), mandatory: !is_direct };
        let message = wire::reply(&caller, &reply, id, &shared.app_id);
        match shared.publisher.publish_once(to, message, shared.publisher.timeout).await {
            Ok(()) => true,
            // A queue that is gone, or takes no more: its caller cannot be told.
            Err(PublishError::Unroutable | PublishError::Nacked) => false,
            Err(error) => return Err(publish_error(&caller.address, &error)),
        }
    };
    match kept.filter(|_| !told) {
        Some(dead) => shared.send(Place::DeadLetters, queue, dead).await,
        None => Ok(()),
    }
}

async fn is_gone(shared: &Shared, address: &str) -> Result<bool, BrokerError> {
    let found = shared.declarer.depth(address).await;
    found.map(|found| found.is_none()).map_err(|error| broker_error("a caller could not be looked for", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_to_channels_and_to_queues_that_are_allowed() {
        let queues = ReplyQueues::new(&["amq.gen-*".into(), "results".into()]);
        for allowed in ["amq.rabbitmq.reply-to.g1h2.x==", "amq.gen-JzTY20BRgKO", "results"] {
            assert!(queues.allow(allowed), "{allowed}");
        }
        for refused in ["orders", "results_2", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-tos.x", ""] {
            assert!(!queues.allow(refused), "{refused}");
        }
    }
}
