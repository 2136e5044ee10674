//! Publishing: enqueues, retries, dead letters, moves, replies.
//!
//! A publish has one deadline, for its wait and its confirm together. What was
//! not written by then was not sent; what was written and not confirmed may
//! have been taken. Each channel has a task of its own (`actor`); what goes to
//! one queue goes by one channel, in order.

mod actor;

use std::{
    collections::hash_map::DefaultHasher,
    future::Future,
    hash::{Hash as _, Hasher as _},
    num::NonZeroU8,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    broker::Callers,
    brokers::rabbitmq::{
        connection::{Connection, Tasks},
        link::{Address, LinkErrorKind},
        publisher::actor::{Actor, WINDOW},
        wire::Message,
    },
    telemetry::PUBLISH_FAILURES,
    time::monotonic_now,
};

/// The first and the longest pause before what the server refused is sent again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why a message was not published, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublishError {
    /// It was not sent. The kind says whether that may change.
    NotSent(LinkErrorKind, String),
    /// No queue took it.
    Unroutable,
    /// The server refused it: the queue is full, or its node is away.
    Nacked,
    /// It may or may not have been taken. The kind says what the channel ended by.
    Unknown(LinkErrorKind, String),
}

/// Publishes with confirm, mandatory and persistent.
#[derive(Clone)]
pub(super) struct Publisher {
    /// One per channel to queues.
    channels: Arc<[mpsc::Sender<Box<Command>>]>,
    /// One per channel to exchanges, opened when something is published to one: the server ends a channel on which
    /// an exchange is named that is gone, or that we may not publish to, and all that is on it is in doubt.
    exchanges: Arc<[mpsc::Sender<Box<Command>>]>,
    /// How long each message has.
    pub(super) timeout: Duration,
}

/// A message to be published.
struct Command {
    to: Address,
    message: Message,
    deadline: Instant,
    /// How long it waits before it is sent again, where it is when the server refuses it.
    again: Option<Duration>,
    /// It was refused before, and may have been taken all the same.
    refused: bool,
    /// Who waits for it; nobody any more where it is overdue.
    answer: Option<Answer>,
}

type Answer = oneshot::Sender<Result<(), PublishError>>;

impl Publisher {
    /// Publishes over `connection`, on so many channels to queues and as many to exchanges; each message has
    /// `timeout`.
    pub(super) fn start(connection: &Arc<Connection>, tasks: &Tasks, timeout: Duration, channels: NonZeroU8) -> Self {
        let start = |_| {
            let (sender, commands) = mpsc::channel(WINDOW);
            tasks.spawn(Actor::new(Arc::clone(connection), commands, None, timeout, tasks.closing.clone()).run());
            sender
        };
        let all = || (0..channels.get()).map(start).collect();
        Self { channels: all(), exchanges: all(), timeout }
    }

    /// One channel for calls: the replies to what is published on it go to `callers`.
    ///
    /// RabbitMQ sends a reply to the channel that the call came by (`amq.rabbitmq.reply-to`,
    /// rabbitmq.com/docs/direct-reply-to).
    pub(super) fn calling(
        connection: &Arc<Connection>,
        tasks: &Tasks,
        timeout: Duration,
        callers: Arc<Callers>,
    ) -> Self {
        let (sender, commands) = mpsc::channel(WINDOW);
        tasks.spawn(Actor::new(Arc::clone(connection), commands, Some(callers), timeout, tasks.closing.clone()).run());
        Self { channels: [sender].into(), exchanges: [].into(), timeout }
    }

    /// Publishes to `to`, and waits for the server's word.
    ///
    /// Messages are sent in the order in which these futures are first polled; one that was refused
    /// is sent again behind those that came after it.
    pub(super) async fn publish(&self, to: Address, message: Message) -> Result<(), PublishError> {
        self.begin(to, message).await.await
    }

    /// The same within this time, and not again when it is refused.
    pub(super) async fn publish_once(
        &self,
        to: Address,
        message: Message,
        within: Duration,
    ) -> Result<(), PublishError> {
        self.hand_over(to, message, within, None).await.await
    }

    /// Resolves when everything was answered and nothing more is taken.
    pub(super) async fn ended(&self) {
        for channel in self.channels.iter().chain(&*self.exchanges) {
            channel.closed().await;
        }
    }

    /// Hands a message over; what is returned waits for the server's word.
    ///
    /// What the server refuses is sent again, for as long as there is time: a queue that has
    /// just been declared refuses while its leader is busy, and a full one may be emptied. Not so
    /// through an exchange: of several queues one may have refused it, and the others have it.
    pub(super) async fn begin(
        &self,
        to: Address,
        message: Message,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let again = to.exchange.is_empty().then_some(AGAIN.0);
        self.hand_over(to, message, self.timeout, again).await
    }

    /// The channel for what goes there: always the same, so that the order is kept.
    fn channel(&self, to: &Address) -> &mpsc::Sender<Box<Command>> {
        // A call is published to a queue, and has no other channels.
        let channels =
            if to.exchange.is_empty() || self.exchanges.is_empty() { &self.channels } else { &self.exchanges };
        if let [only] = &**channels {
            return only;
        }
        let mut hasher = DefaultHasher::new();
        (&to.exchange, &to.key).hash(&mut hasher);
        let count = channels.len() as u64;
        &channels[usize::try_from(hasher.finish() % count).unwrap_or(0)]
    }

    async fn hand_over(
        &self,
        to: Address,
        message: Message,
        within: Duration,
        again: Option<Duration>,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let deadline = monotonic_now() + within;
        let channel = self.channel(&to);
        // Boxed: it is moved from queue to queue.
        let command = Box::new(Command { to, message, deadline, again, refused: false, answer: Some(answer) });
        let sent = timeout_at(deadline, channel.send(command)).await;
        async move {
            let told = match sent {
                Ok(Ok(())) => answered.await.unwrap_or_else(|_| {
                    Err(PublishError::Unknown(LinkErrorKind::Gone, "the broker was closed meanwhile".into()))
                }),
                Ok(Err(_)) => Err(PublishError::NotSent(LinkErrorKind::Gone, "the broker is closed".into())),
                Err(_) => Err(PublishError::NotSent(LinkErrorKind::Gone, "too many messages wait to be sent".into())),
            };
            count(&told);
            told
        }
    }
}

impl Command {
    /// Tells whoever waits that it was not sent; where it was refused before, it may have been taken.
    fn not_sent(self, kind: LinkErrorKind, why: &str) {
        let told = if self.refused { PublishError::Nacked } else { PublishError::NotSent(kind, why.into()) };
        if let Some(answer) = self.answer {
            drop(answer.send(Err(told)));
        }
    }

    /// The server has refused it: when it is sent again, where there is time for that.
    fn again_at(&mut self, now: Instant) -> Option<Instant> {
        let pause = self.again.filter(|pause| now + *pause < self.deadline)?;
        if self.answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
            return None;
        }
        (self.again, self.refused) = (Some((pause * 2).min(AGAIN.1)), true);
        Some(now + pause)
    }
}

/// Counts a publish that failed for good.
fn count(told: &Result<(), PublishError>) {
    if let Err(error) = told {
        let reason = match error {
            PublishError::NotSent(..) => "not_sent",
            PublishError::Unroutable => "unroutable",
            PublishError::Nacked => "refused",
            PublishError::Unknown(..) => "unknown",
        };
        metrics::counter!(PUBLISH_FAILURES, "reason" => reason).increment(1);
    }
}

#[cfg(test)]
mod tests;
