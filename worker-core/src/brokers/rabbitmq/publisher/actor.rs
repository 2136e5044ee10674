//! The task of one channel that publishes.
//!
//! One task owns the confirm channel, because two that share it can swap their
//! confirms (`lapin` 4.12.3 numbers a publish and writes it in two steps: up to
//! 45 of 12,000 refused publishes were reported as taken). And what the server
//! returns as unroutable may come attached to another publish's confirm, so
//! that it is matched by id here: 30,000 of 30,000 right, against 21 of 4,286 wrong.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, ready},
    poll,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Command, PublishError};
use crate::{
    broker::Callers,
    brokers::rabbitmq::{
        connection::{Connection, SILENT, Up},
        declare::broker_error,
        link::{Address, Channel, Confirmation, LinkError, LinkErrorKind, Returned},
        mutant::{self, Mutant},
        wire::{self, Incoming},
    },
    telemetry::{CONNECTION_BLOCKED, PUBLISH_CONFIRM, PUBLISH_OUTSTANDING, TARGET},
    time::monotonic_now,
};

/// The most publishes without a confirm; above 100 a larger window gains little
/// (21,400 a second with 100, 25,500 with 1,000).
pub(super) const WINDOW: usize = 500;

/// How long at least a server may confirm nothing at all before its connection is given up, however impatient those are
/// who publish: a leader's election takes seconds.
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// The pause before a channel is opened again that could not be or was closed.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Replies that are taken at once: confirms and calls wait meanwhile.
const REPLIES_MAX: usize = 256;

const CLOSED: &str = "the broker is closed";

/// What answers calls, as it arrives.
type Replies = BoxStream<'static, Result<Incoming, LinkError>>;

pub(super) struct Actor {
    connection: Arc<Connection>,
    /// Who waits for replies to what is published here; none where it is no calls.
    callers: Option<Arc<Callers>>,
    commands: mpsc::Receiver<Box<Command>>,
    /// Not written yet, in order.
    waiting: VecDeque<Box<Command>>,
    /// Refused by the server, and when each is sent again.
    again: Vec<(Instant, Box<Command>)>,
    /// Written and not confirmed, by slot: in the order of writing.
    pending: BTreeMap<u64, Pending>,
    /// What came back before the confirm that it belongs to was seen.
    returned: HashMap<Returned, u32>,
    slots: u64,
    /// Whether a reply to nobody was named in a warning.
    warned: bool,
    /// Why nothing is written now.
    why: String,
    why_kind: LinkErrorKind,
    /// For how long a server that confirms nothing may just be slow.
    patience: Duration,
    closing: CancellationToken,
}

fn closed() -> LinkError {
    LinkError::new(LinkErrorKind::Gone, CLOSED)
}

/// Publishes of this channel that wait for their confirm, as metrics know them.
#[derive(Default)]
struct Outstanding {
    told: usize,
}

impl Outstanding {
    fn notice(&mut self, now: usize) {
        #[expect(clippy::cast_precision_loss, reason = "at most some hundreds")]
        let change = now as f64 - self.told as f64;
        if now != self.told {
            metrics::gauge!(PUBLISH_OUTSTANDING).increment(change);
            self.told = now;
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.notice(0);
    }
}

/// Whether the server takes nothing from this connection now, as it was told to people and metrics.
#[derive(Default)]
struct Block {
    told: bool,
}

impl Block {
    fn notice(&mut self, reason: Option<&str>) {
        match reason {
            Some(reason) if !self.told => {
                tracing::warn!(target: TARGET, reason, "RabbitMQ takes no messages until its alarm is over");
                metrics::gauge!(CONNECTION_BLOCKED).increment(1.0);
            }
            None if self.told => {
                tracing::info!(target: TARGET, "RabbitMQ takes messages again");
                metrics::gauge!(CONNECTION_BLOCKED).decrement(1.0);
            }
            _ => {}
        }
        self.told = reason.is_some();
    }
}

impl Drop for Block {
    /// A connection that is gone is not blocked.
    fn drop(&mut self) {
        if self.told {
            metrics::gauge!(CONNECTION_BLOCKED).decrement(1.0);
        }
    }
}

/// What was written. Where nobody waits for it any more, what comes of it is kept apart from that of the next publish
/// under the same id all the same.
struct Pending {
    command: Box<Command>,
    written: Instant,
}

impl Pending {
    /// How it comes back when no queue takes it.
    fn returned(&self) -> Returned {
        let Command { to: Address { exchange, key, .. }, message, .. } = &*self.command;
        let message_id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        Returned { exchange: exchange.clone(), key: key.clone(), message_id }
    }
}

type Confirms = FuturesUnordered<Confirm>;

/// The confirm of what was written in this slot.
struct Confirm {
    slot: u64,
    confirm: BoxFuture<'static, Result<Confirmation, LinkError>>,
}

impl Future for Confirm {
    type Output = (u64, Result<Confirmation, LinkError>);

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let slot = self.slot;
        self.confirm.as_mut().poll(task).map(|told| (slot, told))
    }
}

impl Actor {
    pub(super) fn new(
        connection: Arc<Connection>,
        commands: mpsc::Receiver<Box<Command>>,
        callers: Option<Arc<Callers>>,
        timeout: Duration,
        closing: CancellationToken,
    ) -> Self {
        Self {
            connection,
            callers,
            commands,
            waiting: VecDeque::new(),
            again: Vec::new(),
            pending: BTreeMap::new(),
            returned: HashMap::new(),
            slots: 0,
            warned: false,
            why: "there is no connection yet".into(),
            why_kind: LinkErrorKind::Gone,
            patience: timeout.max(SILENCE_MIN),
            closing,
        }
    }

    pub(super) async fn run(mut self) {
        while let Some((up, channel, mut replies)) = self.connect().await {
            let error = self.serve(&up, &*channel, &mut replies).await;
            // What has arrived is told, whatever the channel died of.
            while let Some(Some(Ok(reply))) = replies.next().now_or_never() {
                drop(self.answer(Ok(reply), &mut replies));
            }
            if let Some(callers) = &self.callers {
                callers.fail(&broker_error("the connection that the reply would have come by was lost", &error));
            }
            for answer in std::mem::take(&mut self.pending).into_values().filter_map(|pending| pending.command.answer) {
                drop(answer.send(Err(PublishError::Unknown(error.kind, error.text.clone()))));
            }
            self.returned.clear();
            self.waiting.extend(self.again.drain(..).map(|(_, command)| command));
            self.because(error);
            channel.close().await;
        }
        if let Some(callers) = &self.callers {
            callers.fail(&broker_error("no reply comes any more", &closed()));
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.waiting.push_back(command);
        }
        for command in std::mem::take(&mut self.waiting) {
            command.not_sent(LinkErrorKind::Gone, CLOSED);
        }
    }

    fn because(&mut self, error: LinkError) {
        (self.why, self.why_kind) = (error.text, error.kind);
    }

    /// A channel in confirm mode; `None` when the broker is closed. What waits meanwhile may run out of time.
    async fn connect(&mut self) -> Option<(Arc<Up>, Box<dyn Channel>, Replies)> {
        // The connection is dialled when there is something to send.
        if self.waiting.is_empty() {
            let command = tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                command = self.commands.recv() => command?,
            };
            self.waiting.push_back(command);
        }
        loop {
            let (connection, answers) = (Arc::clone(&self.connection), self.callers.is_some());
            let opening = async move {
                let Some(up) = connection.up().await else { return Ok(None) };
                let opened = async {
                    let channel = up.link.channel().await?;
                    channel.confirm_select().await?;
                    // Before the first call: the server refuses one from a channel that cannot be answered.
                    let replies = if answers { channel.replies().await? } else { stream::pending().boxed() };
                    Ok::<_, LinkError>((channel, replies))
                };
                match opened.await {
                    Ok((channel, replies)) => Ok(Some((up, channel, replies))),
                    Err(error) => {
                        if error.is_unanswered && up.link.blocked().is_none() {
                            up.give_up();
                        }
                        sleep(REOPEN_PAUSE).await;
                        Err(error)
                    }
                }
            };
            let mut opening = pin!(opening);
            let opened = loop {
                let first_deadline = self.waiting.front().map(|command| command.deadline);
                tokio::select! {
                    biased;
                    opened = &mut opening => break opened,
                    () = self.closing.cancelled() => return None,
                    () = at(first_deadline) => {
                        if let Some(error) = self.connection.error() {
                            self.because(error);
                        }
                        self.expire_waiting();
                    }
                    Some(command) = self.commands.recv(), if self.waiting.len() < WINDOW => self.waiting.push_back(command),
                }
            };
            match opened {
                Ok(found) => return found,
                Err(error) => self.because(error),
            }
        }
    }

    /// Publishes until the channel is of no more use; why.
    async fn serve(&mut self, up: &Up, channel: &dyn Channel, replies: &mut Replies) -> LinkError {
        let mut confirms = Confirms::new();
        let mut gone = pin!(up.link.gone());
        let mut broken = None;
        let (mut block, mut outstanding) = (Block::default(), Outstanding::default());
        loop {
            let blocked = up.link.blocked();
            if blocked.is_some() || block.told {
                up.hear(); // That it confirms nothing has its reason.
            }
            block.notice(blocked.as_deref());
            outstanding.notice(self.pending.len());
            if broken.is_none() && up.is_given_up() {
                // Another channel of it has found that out. What waits is written on the next; what was confirmed is
                // told, and the rest will not be.
                broken = Some(silent());
                let mut confirmed = Vec::new();
                while let Some(Some(next)) = confirms.next().now_or_never() {
                    confirmed.push(next);
                }
                drop(self.resolve(up, confirmed));
                confirms.clear();
            }
            self.send_again();
            if broken.is_none() {
                self.write(up, channel, &mut confirms).await;
            } else if confirms.is_empty() || self.awaited().next().is_none() {
                // Nobody waits for it any more, whether it resolves or not.
                return broken.unwrap_or_else(|| LinkError::new(LinkErrorKind::Gone, "the channel was closed"));
            }
            let has_sent = self.waiting.is_empty() && self.again.is_empty() && self.commands.is_empty();
            if self.closing.is_cancelled() && confirms.is_empty() && has_sent {
                return closed();
            }
            let blocked = up.link.blocked();
            let deadline = self.deadline(up);
            tokio::select! {
                biased;
                Some(first) = confirms.next(), if !confirms.is_empty() => {
                    let mut batch = vec![first];
                    // In the order of their waking: a return is attached to its own confirm or an earlier one.
                    while let Some(Some(next)) = confirms.next().now_or_never() {
                        batch.push(next);
                    }
                    if let Some(error) = self.resolve(up, batch) {
                        broken.get_or_insert(error);
                    }
                }
                Some(reply) = replies.next(), if broken.is_none() => {
                    if let Err(error) = self.answer(reply, replies) {
                        broken.get_or_insert(error);
                    }
                }
                error = &mut gone, if broken.is_none() => broken = Some(error),
                () = up.given_up(), if broken.is_none() => {}
                () = at(deadline) => {
                    if let Some(reason) = &blocked {
                        self.because(LinkError::blocked(reason));
                    }
                    self.expire_waiting();
                    if self.expire_pending(confirms.len(), up, blocked.as_deref()) {
                        broken = Some(silent());
                        confirms.clear();
                    }
                }
                () = up.link.blocked_changed() => {}
                Some(command) = self.commands.recv(), if self.waiting.len() < WINDOW => {
                    self.waiting.push_back(command);
                    while self.waiting.len() < WINDOW && let Ok(command) = self.commands.try_recv() {
                        self.waiting.push_back(command);
                    }
                }
                () = self.closing.cancelled(), if !self.closing.is_cancelled() => {}
            }
        }
    }

    /// Gives a reply, and those that came with it, to their callers.
    fn answer(&mut self, first: Result<Incoming, LinkError>, replies: &mut Replies) -> Result<(), LinkError> {
        let mut next = Some(first);
        for count in 0..REPLIES_MAX {
            let Some(reply) = next else { break };
            let message = reply?.message;
            match wire::read_reply(&message) {
                // Whoever called may wait no longer: late replies are dropped.
                Some((correlation, reply)) => {
                    if let Some(callers) = &self.callers {
                        callers.tell(&correlation, reply);
                    }
                }
                None if std::mem::replace(&mut self.warned, true) => {}
                None => {
                    tracing::warn!(target: TARGET, "a reply does not say which call it answers: it has no `correlation_id`; it and those like it are dropped");
                }
            }
            next = None;
            if count + 1 < REPLIES_MAX {
                next = replies.next().now_or_never().flatten();
            }
        }
        Ok(())
    }

    /// Writes what waits, as far as the window and the server allow.
    async fn write(&mut self, up: &Up, channel: &dyn Channel, confirms: &mut Confirms) {
        while confirms.len() < WINDOW && up.link.blocked().is_none() {
            let Some(mut command) = self.waiting.pop_front() else { return };
            if command.answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
                continue; // Whoever asked has given up, and nothing was sent.
            }
            self.slots += 1;
            let slot = self.slots;
            let mut confirm = channel.publish(&command.to, &command.message);
            if mutant::is(Mutant::ConfirmIgnored)
                && let Some(answer) = command.answer.take()
            {
                drop(answer.send(Ok(())));
            }
            self.pending.insert(slot, Pending { command, written: monotonic_now() });
            // The first poll writes it, before the next one's does.
            if let Poll::Ready(told) = poll!(&mut confirm) {
                confirm = ready(told).boxed();
            }
            confirms.push(Confirm { slot, confirm });
        }
    }

    /// Tells the callers; an error where the channel is broken.
    fn resolve(&mut self, up: &Up, batch: Vec<(u64, Result<Confirmation, LinkError>)>) -> Option<LinkError> {
        for returned in batch.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.returned.clone()) {
            *self.returned.entry(returned).or_default() += 1;
        }
        if batch.iter().any(|(_, answer)| answer.is_ok()) {
            up.hear();
        }
        let mut broken = None;
        let (now, confirmed) = (monotonic_now(), metrics::histogram!(PUBLISH_CONFIRM));
        for (slot, answer) in batch {
            let Some(mut pending) = self.pending.remove(&slot) else { continue };
            let told = match answer {
                Ok(_) if self.take_return(&pending) => Err(PublishError::Unroutable),
                Ok(confirmation) if confirmation.taken || mutant::is(Mutant::NackIgnored) => Ok(()),
                Ok(_) => match pending.command.again_at(now) {
                    Some(at) => {
                        self.again.push((at, pending.command));
                        continue;
                    }
                    None => Err(PublishError::Nacked),
                },
                Err(error) => {
                    let told = PublishError::Unknown(error.kind, error.text.clone());
                    broken = Some(error);
                    Err(told)
                }
            };
            if told.is_ok() {
                confirmed.record(now - pending.written);
            }
            if let Some(answer) = pending.command.answer {
                drop(answer.send(told));
            }
        }
        broken
    }

    fn take_return(&mut self, pending: &Pending) -> bool {
        if self.returned.is_empty() {
            return false;
        }
        let returned = pending.returned();
        let Some(count) = self.returned.get_mut(&returned) else { return false };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&returned);
        }
        true
    }

    /// Those that were refused go behind what waits, when their pause is over; while the broker closes none does.
    fn send_again(&mut self) {
        if self.closing.is_cancelled() {
            self.again.drain(..).for_each(|(_, command)| command.not_sent(LinkErrorKind::Gone, CLOSED));
        } else if !self.again.is_empty() {
            let now = monotonic_now();
            self.waiting.extend(self.again.extract_if(.., |(at, _)| *at <= now).map(|(_, command)| command));
        }
    }

    /// Those that somebody waits for.
    fn awaited(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values().filter(|pending| pending.command.answer.is_some())
    }

    fn deadline(&self, up: &Up) -> Option<Instant> {
        let waiting = self.waiting.front().map(|command| command.deadline);
        let waiting = waiting.into_iter().chain(self.again.iter().map(|(at, _)| *at)).min();
        if mutant::is(Mutant::NoConfirmTimeout) {
            return waiting;
        }
        let pending = self.awaited().next().map(|pending| pending.command.deadline);
        waiting.into_iter().chain(pending).chain(self.silent_at(up)).min()
    }

    /// When the connection is of no more use unless something is confirmed before; `None` where nothing is open.
    fn silent_at(&self, up: &Up) -> Option<Instant> {
        let oldest = self.pending.values().next()?;
        Some(oldest.written.max(up.heard()) + self.patience)
    }

    fn expire_waiting(&mut self) {
        let now = monotonic_now();
        while self.waiting.front().is_some_and(|command| command.deadline <= now)
            && let Some(command) = self.waiting.pop_front()
        {
            command.not_sent(self.why_kind, &self.why);
        }
    }

    /// Tells those whose confirm is overdue; whether the channel is of no more use: its window is full of nothing but
    /// such, or nothing was confirmed on the whole connection for long. So it was on a node of 3.10 that had lost its
    /// cluster: its heartbeats went on, and the confirms did not come after it was back either.
    fn expire_pending(&mut self, in_flight: usize, up: &Up, blocked: Option<&str>) -> bool {
        let now = monotonic_now();
        if mutant::is(Mutant::NoConfirmTimeout) {
            return false;
        }
        let is_silent = blocked.is_none() && self.silent_at(up).is_some_and(|silent_at| silent_at <= now);
        if is_silent {
            up.give_up();
        }
        let text = blocked.map_or_else(
            || "the server has not confirmed it in time".to_owned(),
            |reason| format!("{}, and has not confirmed what it was sent before", LinkError::blocked(reason)),
        );
        let awaited = self.pending.values_mut().map(|pending| &mut pending.command);
        let awaited = awaited.filter(|command| command.answer.is_some());
        for command in awaited.take_while(|command| command.deadline <= now) {
            if let Some(answer) = command.answer.take() {
                drop(answer.send(Err(PublishError::Unknown(LinkErrorKind::Gone, text.clone()))));
            }
        }
        is_silent || (in_flight >= WINDOW && self.awaited().next().is_none())
    }
}

fn silent() -> LinkError {
    LinkError::new(LinkErrorKind::Gone, SILENT)
}

/// Resolves at `deadline`; never where there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
