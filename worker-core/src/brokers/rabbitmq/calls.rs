//! Calls: a job that is published with the address of its caller, and the reply.
//!
//! A caller of ours is answered directly: it publishes on a channel that also
//! receives replies, and no queue is made for it (`amq.rabbitmq.reply-to`). A
//! caller in another language may do the same, or name a queue of its own.

use std::{
    num::NonZeroU8,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    brokers::rabbitmq::{
        connection::{Connection, Tasks},
        course::Place,
        enqueue,
        link::{ANSWER_WAIT_MAX, Address, DIRECT_REPLY_TO, Declare, Dialer, LinkErrorKind, Purpose},
        options::RabbitOptions,
        publisher::{PublishError, Publisher},
        redial::Redial,
        shared::{Shared, publish_error},
        wire::{self, Message},
    },
    envelope::{Caller, Envelope},
    error::{BrokerError, CallFailure, EnqueueFailure},
    id::JobId,
    name::QueueName,
    reply::Reply,
    telemetry::TARGET,
    time::monotonic_now,
};

/// Answers calls: on connections of its own, because where a reply goes is the caller's word.
///
/// The address of a caller that is answered directly names a process of the server, and up to 4.2 the server does
/// not guard against one that it cannot read, or whose node is away: the connection on which such an address is
/// used ends with an internal error (read in the server's code, 3.10.8 to 4.3.5). So replies have a connection
/// apart from jobs. What is on its way when that ends is sent again on another, where there is nothing else at the
/// time: if that ends, too, it is this reply that ended it, and its caller cannot be told.
pub(super) struct Answering {
    together: Way,
    alone: Way,
    /// Held by who is alone.
    turn: tokio::sync::Mutex<()>,
    allowed: Vec<String>,
    /// Whether a queue that replies may not go to was named in a warning.
    warned: AtomicBool,
}

struct Way {
    connection: Arc<Connection>,
    publisher: Publisher,
}

impl Way {
    /// Nothing is dialled before it is needed.
    fn start(dialer: &Arc<dyn Dialer>, redial: &Arc<Redial>, tasks: &Tasks, timeout: Duration) -> Self {
        let connection = Connection::new(Purpose::Reply, Arc::clone(dialer), redial, tasks.clone());
        let publisher = Publisher::start(&connection, tasks, timeout, NonZeroU8::MIN);
        Self { connection, publisher }
    }

    /// Sends a reply; whether it may have found its caller.
    async fn send(&self, to: &Address, message: &Message) -> Result<bool, PublishError> {
        match self.publisher.publish_once(to.clone(), message.clone(), self.publisher.timeout).await {
            Ok(()) => Ok(true),
            // A queue that is gone, or takes no more: its caller cannot be told.
            Err(PublishError::Unroutable | PublishError::Nacked) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What is known of a caller that is answered directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
    Unknown,
}

impl Answering {
    pub(super) fn start(
        dialer: &Arc<dyn Dialer>,
        redial: &Arc<Redial>,
        tasks: &Tasks,
        options: &RabbitOptions,
    ) -> Self {
        let way = || Way::start(dialer, redial, tasks, options.confirm_timeout);
        let (allowed, warned) = (options.reply_queues.clone(), AtomicBool::new(false));
        Self { together: way(), alone: way(), turn: tokio::sync::Mutex::default(), allowed, warned }
    }

    /// Resolves when everything was sent and nothing more is taken.
    pub(super) async fn ended(&self) {
        tokio::join!(self.together.publisher.ended(), self.alone.publisher.ended());
    }

    pub(super) fn hang_up(&self) {
        self.together.connection.hang_up();
        self.alone.connection.hang_up();
    }

    /// Sends a reply; whether it may have found its caller.
    ///
    /// # Errors
    ///
    /// It was not sent, for a reason that may pass.
    async fn send(&self, caller: &Caller, message: &Message) -> Result<bool, PublishError> {
        // The server returns a mandatory message to one that is answered directly whether it is there or not
        // (measured on 3.10).
        let mandatory = !is_direct(&caller.address);
        let to = Address { exchange: String::new(), key: caller.address.clone(), mandatory };
        match self.together.send(&to, message).await {
            // Perhaps because of another's address. A caller that gets a reply twice drops the second.
            Err(PublishError::Unknown(..)) => {}
            sent => return sent,
        }
        let _turn = self.turn.lock().await;
        match self.alone.send(&to, message).await {
            Err(PublishError::Unknown(..)) => Ok(false),
            sent => sent,
        }
    }

    /// Whether a caller that is answered directly is there.
    async fn look_for(&self, address: &str) -> Presence {
        let _turn = self.turn.lock().await;
        let asked = async {
            let up = self.alone.connection.up_until(monotonic_now() + ANSWER_WAIT_MAX).await?;
            let channel = up.link.channel().await?;
            let found = channel.declare(address, Declare::Passive).await;
            if found.is_ok() {
                channel.close().await;
            }
            found
        };
        match asked.await {
            Ok(_) => Presence::There,
            Err(error) if error.kind == LinkErrorKind::NotFound => Presence::Gone,
            Err(_) => Presence::Unknown,
        }
    }
}

/// Whether replies may go there.
fn allows(allowed: &[String], address: &str) -> bool {
    let allows = |allowed: &String| match allowed.strip_suffix('*') {
        Some(beginning) => address.starts_with(beginning),
        None => address == allowed,
    };
    is_direct(address) || allowed.iter().any(allows)
}

/// Whether this is a channel, as the server writes it in place of [`DIRECT_REPLY_TO`], and no queue: a process in
/// Erlang's external format and a key, both in base 64.
///
/// A process begins with the bytes 131 and 88 or 103, and an atom (erlang.org/doc/apps/erts/erl_ext_dist).
fn is_direct(address: &str) -> bool {
    let token = address.strip_prefix(DIRECT_REPLY_TO).and_then(|token| token.strip_prefix('.'));
    let Some((process, key)) = token.and_then(|token| token.split_once('.')) else { return false };
    let is_base_64 = |text: &str| {
        let digits = text.trim_end_matches('=');
        !digits.is_empty()
            && text.len().is_multiple_of(4)
            && text.len() - digits.len() <= 2
            && digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    };
    is_base_64(process) && is_base_64(key) && (process.starts_with("g1h") || process.starts_with("g2d"))
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
    let Answering { allowed, warned, .. } = &shared.answering;
    let Some(refused) = envelope.caller.take_if(|caller| !allows(allowed, &caller.address)) else { return };
    if !warned.swap(true, Ordering::Relaxed) {
        let reply_to = refused.address.escape_debug();
        tracing::warn!(
            target: TARGET, %queue, id = %envelope.id, %reply_to,
            "a message wants its reply where replies may not go; it and those like it are run without a reply (allow a queue with WORKER_RABBITMQ_REPLY_QUEUES)"
        );
    }
}

/// Answers a call. Where its caller is known to be gone, `kept` goes among the dead of `queue`.
///
/// Whether one that is answered directly is there is asked for only where that matters.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    queue: &QueueName,
    id: &JobId,
    caller: Caller,
    reply: Reply,
    kept: Option<Message>,
) -> Result<(), BrokerError> {
    let answering = &shared.answering;
    let gone = kept.is_some()
        && is_direct(&caller.address)
        // Not to be looked for is as good a reason to keep the failure: its reply would fare no better.
        && answering.look_for(&caller.address).await != Presence::There;
    let told = if gone {
        false
    } else {
        let message = wire::reply(&caller, &reply, id, &shared.app_id);
        answering.send(&caller, &message).await.map_err(|error| publish_error(&caller.address, &error))?
    };
    match kept.filter(|_| !told) {
        Some(dead) => {
            tracing::warn!(target: TARGET, %queue, %id, "the caller of a call that failed cannot be told; the job is dead-lettered");
            shared.send(Place::DeadLetters, queue, dead).await
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_to_channels_and_to_queues_that_are_allowed() {
        let allowed = ["amq.gen-*".to_owned(), "results".to_owned()];
        let direct = "amq.rabbitmq.reply-to.g1h2AA1yZXBseUA5MjQ4ODg0AAADDgAAAABrBhK7.IdzE4JuEP/h0/KF3+gkDTQ==";
        for address in [direct, "amq.gen-JzTY20BRgKO", "results"] {
            assert!(allows(&allowed, address), "{address}");
        }
        for address in ["orders", "results_2", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-tos.x", ""] {
            assert!(!allows(&allowed, address), "{address}");
        }
    }

    #[test]
    fn what_no_server_has_written_is_no_direct_address() {
        let tokens = ["", ".", "x", "x.y", "g1h2.", ".g1h2", "g1h2.abc", "g1h2.ab=c", "g1h2.====", "aGVs.aGVs"];
        for token in tokens.into_iter().chain(["g1h2.aGVs.aGVs"]) {
            assert!(!is_direct(&format!("{DIRECT_REPLY_TO}.{token}")), "{token}");
        }
        assert!(is_direct(&format!("{DIRECT_REPLY_TO}.g2dk.aGU=")));
    }
}
