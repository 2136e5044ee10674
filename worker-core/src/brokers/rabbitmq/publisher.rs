//! Publishing: enqueues, retries, dead letters, moves, replies.
//!
//! A publish has one deadline, for its wait and its confirm together. What was
//! not written by then was not sent; what was written and not confirmed may
//! have been taken. Each channel has a task of its own (`actor`); what goes to
//! one queue goes by one channel, in order.

mod actor;

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    num::NonZeroU8,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
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
    channels: Arc<[mpsc::Sender<Command>]>,
    /// One per channel to exchanges, opened when something is published to one: the server ends a channel on which
    /// an exchange is named that is gone, or that we may not publish to, and all that is on it is in doubt.
    exchanges: Arc<[mpsc::Sender<Command>]>,
    /// How long each message has.
    pub(super) timeout: Duration,
}

struct Command {
    to: Address,
    message: Arc<Message>,
    deadline: Instant,
    answer: Answer,
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
        let told = self.hand_over(to, Arc::new(message), monotonic_now() + within).await.await;
        count(&told);
        told
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
    pub(super) async fn begin(&self, to: Address, message: Message) -> BoxFuture<'static, Result<(), PublishError>> {
        let deadline = monotonic_now() + self.timeout;
        let message = Arc::new(message);
        let first = self.hand_over(to.clone(), Arc::clone(&message), deadline).await;
        let may_repeat = to.exchange.is_empty();
        let publisher = self.clone();
        async move {
            let (mut told, mut pause) = (first.await, AGAIN.0);
            while told == Err(PublishError::Nacked) && may_repeat && monotonic_now() + pause < deadline {
                sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
                told = match publisher.hand_over(to.clone(), Arc::clone(&message), deadline).await.await {
                    // The one that was refused may have been taken all the same.
                    Err(PublishError::NotSent(..)) => Err(PublishError::Nacked),
                    told => told,
                };
            }
            count(&told);
            told
        }
        .boxed()
    }

    /// The channel for what goes there: always the same, so that the order is kept.
    fn channel(&self, to: &Address) -> &mpsc::Sender<Command> {
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
        message: Arc<Message>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), PublishError>> {
        let (answer, answered) = oneshot::channel();
        let sent = timeout_at(deadline, self.channel(&to).send(Command { to, message, deadline, answer })).await;
        if !matches!(sent, Ok(Ok(()))) {
            let why = if sent.is_ok() { "the broker is closed" } else { "too many messages wait to be sent" };
            return async move { Err(PublishError::NotSent(LinkErrorKind::Gone, why.into())) }.boxed();
        }
        let lost = || Err(PublishError::Unknown(LinkErrorKind::Gone, "the broker was closed meanwhile".into()));
        async move { answered.await.unwrap_or_else(|_| lost()) }.boxed()
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
