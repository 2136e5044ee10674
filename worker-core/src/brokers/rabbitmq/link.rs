//! The seam between what we do and what carries it: connections and channels.
//!
//! Above it stand the supervisor, the publisher, the lanes and the inspector;
//! below it `lapin`; a simulated server would stand there too. It has just what those need, in
//! AMQP's words, and it never retries: an error says what may be tried.
//!
//! What an implementation must keep: `publish` writes in the order in which its
//! futures are first polled; what was delivered before a channel's end comes
//! before the end; nothing but the confirm of a publish, which has its own
//! deadline, waits longer than [`ANSWER_WAIT_MAX`] for an answer.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures_util::{future::BoxFuture, stream::BoxStream};
use lapin::types::FieldTable;

use crate::{
    brokers::rabbitmq::{
        mutant::{self, Mutant},
        wire::{Incoming, Message},
    },
    exchange::ExchangeKind,
};

/// How long a server may take to answer one request. Heartbeats find a dead
/// connection in twice their interval; this finds a server that lives and hangs.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// What a connection is for. Publishing and consuming are apart, so that an alarm, which stops everything on a
/// connection that publishes, does not stop acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Publish,
    /// Calls, and the replies to them: apart, so that those who wait for a reply do not lose it with a connection that
    /// is given up because of what others publish.
    Call,
    Consume,
    /// Questions, and reading dead letters. What is not there closes the channel on which it was looked for, and
    /// `lapin` never uses that channel's number again: after 2,047 such answers the connection has to be made anew.
    Ask,
    /// Replies alone: an address that the server cannot make sense of ends the connection.
    Reply,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Call => "call",
            Self::Consume => "consume",
            Self::Ask => "ask",
            Self::Reply => "reply",
        })
    }
}

/// Makes connections.
#[async_trait]
pub(super) trait Dialer: Send + Sync {
    async fn dial(&self, purpose: Purpose) -> Result<Box<dyn Link>, LinkError>;
}

/// One connection.
#[async_trait]
pub(super) trait Link: Send + Sync {
    async fn channel(&self) -> Result<Box<dyn Channel>, LinkError>;

    /// The most channels at once.
    fn channels_max(&self) -> u16;

    /// Why the server takes no messages now, if it does not.
    fn blocked(&self) -> Option<String>;

    /// Resolves when `blocked` has changed.
    async fn blocked_changed(&self);

    /// Resolves when the connection is gone, with why.
    async fn gone(&self) -> LinkError;

    async fn close(&self);
}

/// What became of a published message, as the server says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// Taken, as opposed to refused.
    pub(super) taken: bool,
    /// A message that came back, of this or of another publish of the channel.
    pub(super) returned: Option<Returned>,
}

/// A message that no queue took.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Returned {
    pub(super) exchange: String,
    pub(super) key: String,
    pub(super) message_id: String,
}

/// Where a message is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Empty for the default one, which takes a queue's name for a key.
    pub(super) exchange: String,
    pub(super) key: String,
    /// Whether it comes back when no queue takes it.
    pub(super) mandatory: bool,
}

impl Address {
    /// Straight into a queue.
    pub(super) fn queue(name: impl Into<String>) -> Self {
        let mandatory = !mutant::is(Mutant::NotMandatory);
        Self { exchange: String::new(), key: name.into(), mandatory }
    }
}

/// The address of whoever calls over a channel: the server writes the channel's own in its place.
pub(super) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What is in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) ready: u32,
    pub(super) consumers: u32,
}

/// How a queue is declared.
#[derive(Debug, Clone)]
pub(super) enum Declare {
    /// It must exist.
    Passive,
    /// Durable, with these arguments.
    Durable(FieldTable),
    /// Compared with these arguments, never made: a refusal names the first that differs, or says that they are
    /// no arguments, because there is no such queue.
    Compared(FieldTable),
    /// For this connection only, gone with it.
    Exclusive,
}

/// How an exchange is declared.
#[derive(Debug, Clone, Copy)]
pub(super) enum DeclareExchange {
    /// It must exist.
    Passive,
    /// Durable, of this kind.
    Durable(ExchangeKind),
    /// Not at all: the refusal tells how one that is there differs from this kind, or that there is none.
    Compared(ExchangeKind),
}

/// One channel.
#[async_trait]
pub(super) trait Channel: Send + Sync {
    async fn confirm_select(&self) -> Result<(), LinkError>;

    async fn declare(&self, queue: &str, how: Declare) -> Result<Depth, LinkError>;

    async fn delete(&self, queue: &str) -> Result<(), LinkError>;

    async fn declare_exchange(&self, exchange: &str, how: DeclareExchange) -> Result<(), LinkError>;

    async fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> Result<(), LinkError>;

    fn publish(&self, to: &Address, message: &Message) -> BoxFuture<'static, Result<Confirmation, LinkError>>;

    /// Consumes with this prefetch, and holds a delivery at most so long where that is said; the stream ends when
    /// the server or we cancel.
    async fn consume(
        &self,
        queue: &str,
        tag: &str,
        prefetch: u16,
        hold: Option<Duration>,
    ) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError>;

    /// Receives the replies to what is published on this channel as a call.
    async fn replies(&self) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError>;

    async fn cancel(&self, tag: &str) -> Result<(), LinkError>;

    /// Takes one message, and says how many more are ready.
    async fn get(&self, queue: &str) -> Result<Option<(Incoming, u32)>, LinkError>;

    /// Acknowledges `tag`, and with `multiple` all before it too.
    async fn ack(&self, tag: u64, multiple: bool) -> Result<(), LinkError>;

    /// Gives `tag` back to its queue, and with `multiple` all before it too.
    async fn requeue(&self, tag: u64, multiple: bool) -> Result<(), LinkError>;

    /// Resolves when the server has seen everything that was sent on this channel before.
    fn barrier(&self) -> BoxFuture<'static, Result<(), LinkError>>;

    async fn close(&self);
}

/// What a failure on a connection or channel means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkErrorKind {
    /// The thing asked for does not exist (404).
    NotFound,
    /// The user may not do it, or is not let in at all (403).
    Refused,
    /// It exists and is different (406), or the server does not do it.
    Mismatch,
    /// It is in use by another connection (405).
    Locked,
    /// The vhost, the protocol or the certificate is wrong: no other try will do.
    Hopeless,
    /// The channel or connection is gone, or there was no answer.
    Gone,
}

/// Why something on a connection failed. Its text has no credentials.
#[derive(Debug, Clone)]
pub(super) struct LinkError {
    pub(super) kind: LinkErrorKind,
    pub(super) text: String,
    /// Whether the server has not answered at all, though the connection lives as far as is known.
    pub(super) is_unanswered: bool,
}

impl LinkError {
    pub(super) fn new(kind: LinkErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), is_unanswered: false }
    }

    /// An alarm, by its name.
    pub(super) fn blocked(reason: &str) -> Self {
        Self::new(LinkErrorKind::Gone, format!("the server takes no messages now: {reason}"))
    }

    pub(super) fn no_answer(to: &str) -> Self {
        let within = humantime::format_duration(ANSWER_WAIT_MAX);
        let text = format!("no answer to {to} within {within}");
        Self { is_unanswered: true, ..Self::new(LinkErrorKind::Gone, text) }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for LinkError {}
