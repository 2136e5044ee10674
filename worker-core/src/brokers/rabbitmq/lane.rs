//! The task of one subscription: fetches, settles, moves suspects, gives back.
//!
//! It has two lines: the queue, with the worker's prefetch, and the queue's
//! suspects, which a process takes one at a time; and a third while more of the queue is held (`extra`). Everything that leaves a queue by another way than
//! success is copied first: the copy is published and confirmed, and only then
//! is the original acknowledged, so that a crash between the two makes two of
//! a job and never none. A message may have several jobs (`bundles`): it is
//! acknowledged when all of them are done with.

mod bundles;
mod extra;
mod lines;
mod stop;
mod suspects;

use std::{future::pending, num::NonZeroU16, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use self::{
    bundles::Released,
    lines::{Errand, LineState, Lines, Messages, next_message, tell},
    suspects::Look,
};

use crate::{
    broker::{SettleError, Subscription, Unsettled},
    brokers::rabbitmq::{
        calls,
        connection::Up,
        consume::{Command, Settle, Table},
        course::{self, Arrival, Line, Place, Step},
        declare::broker_error,
        lapin_link::CONSUMER_TIMEOUT,
        link::{Channel, LinkError, LinkErrorKind},
        mutant::{self, Mutant},
        shared::Shared,
        wire::{self, Copy, Incoming},
    },
    error::{BrokerError, BrokerErrorKind},
    name::QueueName,
    retry::DELAY_MAX,
    settlement::Settlement,
    telemetry::TARGET,
    time::monotonic_now,
};

/// The first and the longest pause before a queue is consumed again that could not be.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A queue that was consumed this long was so well: the pauses begin anew.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// How long a queue may be without consumer until that is reported, and how often from then on:
/// a worker takes a second of silence for soundness.
const REPORT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(500));

/// How long beginning to consume may go on when it has to end already.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Commands that are taken at once, so that their acknowledgements become few; one may settle all that is owned.
const COMMANDS_MAX: usize = 256;

/// Deliveries that are taken at once.
const MESSAGES_MAX: usize = 256;

/// A consumer's tag is its channel's matter; each line has its own.
const TAG: &str = "worker";

pub(super) struct Lane {
    shared: Arc<Shared>,
    subscription: Subscription,
    table: Arc<Table>,
    commands: mpsc::Receiver<Command>,
    stopped: bool,
    /// How many of the queue may be owned.
    prefetch: NonZeroU16,
    /// Who waits until that is so.
    resized: Vec<oneshot::Sender<Result<(), BrokerError>>>,
    /// When more is tried to be held again, where that failed.
    extra_again: Option<Instant>,
}

/// Why a lane left its connection.
enum Left {
    /// Both halves are gone, or the broker is being closed.
    Ended,
    Lost(LinkError),
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        subscription: Subscription,
        table: Arc<Table>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let prefetch = subscription.prefetch;
        Self { shared, subscription, table, commands, stopped: false, prefetch, resized: Vec::new(), extra_again: None }
    }

    const fn queue(&self) -> &QueueName {
        &self.subscription.queue
    }

    pub(super) async fn run(mut self) {
        let mut pause = PAUSE.0;
        // A short while without consuming is nobody's matter; a longer one is reported.
        let mut report_at: Option<Instant> = None;
        while !self.is_over() {
            let shared = Arc::clone(&self.shared);
            let connected = tokio::select! {
                biased;
                () = self.idle() => continue,
                up = shared.consume.up() => up,
                error = shared.consume.next_error(), if shared.consume.error().is_some() => {
                    if is_due(&mut report_at) {
                        self.table.fail(broker_error("there is no connection to RabbitMQ", &error));
                    }
                    sleep(PAUSE.0).await;
                    continue;
                }
            };
            let Some(up) = connected else { break };
            // To be closed meanwhile is no reason to drop what is delivered already; a server that
            // stands still is one.
            let opened = tokio::select! {
                biased;
                opened = self.open(&up) => opened,
                () = given_up(&shared) => break,
            };
            let error = match opened {
                Ok(lines) => {
                    self.table.begin_epoch();
                    self.extra_again = None;
                    report_at = None;
                    let began = monotonic_now();
                    match self.serve(lines).await {
                        Left::Ended => break,
                        Left::Lost(error) => {
                            if began.elapsed() >= GOOD_AFTER {
                                pause = PAUSE.0;
                            }
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            let is_long = is_due(&mut report_at);
            let told = broker_error(&format!("queue `{}` is not consumed", self.queue()), &error);
            // Transient, whatever it is: the lane goes on trying.
            let told = BrokerError::new(BrokerErrorKind::Transient, told.detail());
            let forgets = mutant::is(Mutant::EpochForgotten);
            let lost = if forgets { 0 } else { self.table.lose_all(is_long.then_some(told)) };
            if lost > 0 {
                tracing::warn!(target: TARGET, queue = %self.queue(), lost, %error, "deliveries were lost with their connection; they come back");
            }
            // Whatever became of the server meanwhile, and whoever has made the queue again.
            self.shared.declarer.unbound(self.queue().as_str());
            // Whoever waits for another prefetch has it with the next connection.
            self.resized.clear();
            self.repair(&error).await;
            tokio::select! {
                biased;
                () = self.idle() => {}
                () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
        self.table.close();
    }

    fn is_over(&self) -> bool {
        self.shared.lanes.closing.is_cancelled() || (self.commands.is_closed() && self.commands.is_empty())
    }

    /// Answers commands while there is no connection; resolves when the lane is over.
    async fn idle(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.shared.lanes.closing.cancelled() => return,
                command = self.commands.recv() => match command {
                    None => return,
                    Some(Command::Stop(answer)) => {
                        self.stopped = true;
                        self.table.stop();
                        drop(self.table.take_fetched());
                        drop(answer.send(Ok(())));
                    }
                    // It is so of the next connection.
                    Some(Command::Resize(prefetch, answer)) => {
                        self.prefetch = prefetch;
                        drop(answer.send(Ok(())));
                    }
                    // It was lost with its connection.
                    Some(Command::Settle(settles)) => {
                        settles.into_iter().for_each(|Settle { answer, .. }| drop(answer.send(Err(SettleError::Lost))));
                    }
                },
            }
        }
    }

    /// The queue is gone: it is declared again, as at the start.
    async fn repair(&self, error: &LinkError) {
        if error.kind != LinkErrorKind::NotFound {
            return;
        }
        tracing::warn!(target: TARGET, queue = %self.queue(), "the queue is gone; it is declared again where that is ours to do");
        let names = [self.queue().to_string(), super::topology::suspects(self.queue())];
        names.iter().for_each(|name| self.shared.declarer.forget(name));
        for place in [Place::Queue, Place::Suspects] {
            // Whatever it is, the lane goes on trying, and reports what lasts: it may have been deleted once more, between
            // being made and being bound (seen on 4.3.6).
            if let Err(error) = self.shared.declarer.place(place, self.queue()).await {
                tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), "it could not be declared; this is tried again");
            }
        }
    }

    async fn open(&self, up: &Arc<Up>) -> Result<Lines, LinkError> {
        // Where the queue was gone and could not be mended, or not wholly: not before all of it is there.
        if let Err(error) = self.shared.declarer.place(Place::Queue, self.queue()).await {
            return Err(LinkError::new(LinkErrorKind::Gone, error.detail()));
        }
        let (channel, messages) = match self.stopped {
            true => (up.link.channel().await?, stream::pending().boxed()),
            false => self.consume(up, self.subscription.prefetch.get()).await?,
        };
        let suspects = LineState::new(up.link.channel().await?);
        let look = Look::new(Arc::clone(&self.shared.suspects));
        Ok(Lines::new(Arc::clone(up), LineState::new(channel), messages, suspects, look))
    }

    /// Begins to consume the queue on a channel of its own.
    async fn consume(&self, up: &Up, prefetch: u16) -> Result<(Box<dyn Channel>, Messages), LinkError> {
        let mut channel = up.link.channel().await?;
        let queue = self.queue().as_str();
        let prefetch = if mutant::is(Mutant::PrefetchForgotten) { 0 } else { prefetch };
        // The worker knows the timeout of each job and keeps it; a server that took a delivery away earlier
        // would have the job run twice.
        let (server, declarer) = (&self.shared.server, &self.shared.declarer);
        let hold = (server.lets_consumers_hold() && !declarer.is_classic(queue)).then_some(DELAY_MAX);
        let messages = match channel.consume(queue, TAG, prefetch, hold).await {
            // A classic queue does not let its consumers say it, and closes the channel (measured on 4.3.6); who
            // may not look at a queue does not know what it is.
            Err(error) if hold.is_some() && error.text.contains(CONSUMER_TIMEOUT) => {
                channel = up.link.channel().await?;
                channel.consume(queue, TAG, prefetch, None).await?
            }
            consuming => consuming?,
        };
        Ok((channel, messages))
    }

    /// Works on one connection until it is lost or the lane is over.
    async fn serve(&mut self, mut lines: Lines) -> Left {
        let mut received = Vec::with_capacity(COMMANDS_MAX);
        let up = Arc::clone(&lines.up);
        let suspects = super::topology::suspects(self.queue());
        loop {
            let settled_at = lines.extras.settled_at();
            let worked = tokio::select! {
                biased;
                () = self.shared.lanes.closing.cancelled() => return self.end(lines, true).await,
                () = up.lost.cancelled() => Err(self.shared.consume.error().unwrap_or_else(gone)),
                // Before what may come without end.
                () = at(lines.flush_at) => Ok(()),
                count = self.commands.recv_many(&mut received, COMMANDS_MAX) => {
                    if count == 0 {
                        return self.end(lines, false).await;
                    }
                    self.obey(&mut lines, &mut received).await
                }
                Some((errand, sent)) = lines.errands.next(), if !lines.errands.is_empty() => {
                    self.returned(&mut lines, errand, sent);
                    while let Some(Some((errand, sent))) = lines.errands.next().now_or_never() {
                        self.returned(&mut lines, errand, sent);
                    }
                    Ok(())
                }
                Some((answers, seen)) = lines.written.next(), if !lines.written.is_empty() => tell(answers, seen),
                (line, message) = next_message(&mut lines.messages, &mut lines.extras), if !self.stopped => self.received_all(&mut lines, line, message),
                () = at(settled_at) => Ok(()),
                () = at(self.extra_again) => Ok(()),
                found = lines.look.look(&lines.suspects.channel, &suspects), if !self.stopped => match found {
                    Ok(found) => {
                        found.into_iter().for_each(|incoming| self.arrived(&mut lines, Line::Suspects, incoming));
                        Ok(())
                    }
                    Err(error) => self.mend_suspects(&mut lines, error).await,
                },
            };
            let worked = match worked {
                Ok(()) => self.tend(&mut lines).await,
                Err(error) => Err(error),
            };
            if let Err(error) = worked {
                lines.abandon().await;
                return Left::Lost(error);
            }
        }
    }

    /// What is to be done after whatever happened.
    async fn tend(&mut self, lines: &mut Lines) -> Result<(), LinkError> {
        self.table.tell();
        lines.flush_due(usize::from(self.subscription.prefetch.get())).await?;
        let shared = Arc::clone(&self.shared);
        let tended = tokio::select! {
            biased;
            tended = self.tend_extras(lines) => tended,
            () = given_up(&shared) => Err(gone()),
        };
        // What a retiring consumer has brought meanwhile.
        self.table.tell();
        tended
    }

    async fn obey(&mut self, lines: &mut Lines, received: &mut Vec<Command>) -> Result<(), LinkError> {
        for command in received.drain(..) {
            match command {
                Command::Settle(settles) => {
                    for settle in settles {
                        self.settle(lines, settle).await?;
                    }
                }
                Command::Resize(prefetch, answer) => {
                    // There is nothing to wait for where there will be more.
                    if prefetch > std::mem::replace(&mut self.prefetch, prefetch) {
                        drop(answer.send(Ok(())));
                    } else {
                        self.resized.push(answer);
                    }
                }
                Command::Stop(answer) => {
                    self.table.stop();
                    let stopped = self.stop(lines).await;
                    let told = stopped
                        .as_ref()
                        .map(drop)
                        .map_err(|error| broker_error("what was fetched is not given back yet", error));
                    drop(answer.send(told));
                    stopped?;
                }
            }
        }
        self.send_released(lines);
        Ok(())
    }

    async fn settle(
        &self,
        lines: &mut Lines,
        Settle { delivery, held, settlement, answer }: Settle,
    ) -> Result<(), LinkError> {
        let shared = &self.shared;
        let is_at_once = matches!(&settlement, Settlement::Release { after, note: None } if after.is_zero());
        if is_at_once && held.bundled().is_some() {
            lines.released.push(Released { delivery, held, answer });
            return Ok(());
        }
        if held.line == Line::Suspects && matches!(settlement, Settlement::Release { .. }) {
            lines.look.put_off();
        }
        let when = (shared.now(), shared.death());
        let (ladder, rungs) = (&shared.declarer.ladder, shared.declarer.rungs(self.queue()));
        let free = shared.nack_is_free(held.line, self.queue());
        let requeued = mutant::is(Mutant::RequeuedInsteadOfDead) && matches!(settlement, Settlement::DeadLetter { .. });
        let step = course::step(&held, &settlement, self.queue(), (ladder, &rungs), free, when);
        match if requeued { Step::Requeue } else { step } {
            Step::Ack => lines.finish(held.line, held.tag, answer),
            Step::Requeue => {
                lines.requeue(held.line, held.tag).await?;
                drop(answer.send(Ok(())));
            }
            Step::Answer { caller, reply, kept } => {
                let errand = Errand::Settle { delivery, held, settlement, answer };
                lines.answer(shared, self.queue(), caller, reply, kept, errand);
            }
            Step::Publish(place, message) => {
                if mutant::is(Mutant::AckBeforeConfirm)
                    && let Some(state) = lines.state(held.line)
                {
                    state.channel.ack(held.tag, false).await?;
                    state.unacked.returned(held.tag);
                }
                lines.send(shared, self.queue(), place, message, Errand::Settle { delivery, held, settlement, answer });
            }
        }
        Ok(())
    }

    /// A copy is where it belongs, or is not.
    fn returned(&self, lines: &mut Lines, errand: Errand, sent: Result<(), BrokerError>) {
        match (errand, sent) {
            (Errand::Settle { held, answer, .. }, Ok(())) => lines.finish(held.line, held.tag, answer),
            (Errand::Settle { delivery, held, settlement, answer }, Err(error)) => {
                // The delivery first: whoever gets it back may submit it at once.
                if self.table.take_back(delivery.receipt, held) {
                    drop(answer.send(Err(SettleError::Unsettled(Box::new(Unsettled { delivery, settlement, error })))));
                } else {
                    drop(answer.send(Err(SettleError::Lost)));
                }
            }
            (Errand::Forward { line, incoming, place, .. }, Ok(())) => {
                lines.finish_message(line, incoming.tag);
                if place == Place::Suspects {
                    lines.look.soon();
                }
            }
            (Errand::Forward { line, incoming, place, message, pause }, Err(error)) => {
                tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), ?pause, "a job could not be moved on; trying again");
                let (shared, queue) = (Arc::clone(&self.shared), self.queue().clone());
                let next = (pause * 2).min(PAUSE.1);
                lines.errands.push(Box::pin(async move {
                    sleep(pause).await;
                    let sent = shared.send(place, &queue, message.clone()).await;
                    (Errand::Forward { line, incoming, place, message, pause: next }, sent)
                }));
            }
            (Errand::GiveBack { line, tag, jobs }, Ok(())) => lines.finish_jobs(line, tag, jobs, None),
            // Left to the end of the channel, which gives it back too.
            (Errand::GiveBack { .. }, Err(error)) => {
                tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), "a job could not be given back unmarked");
            }
            (Errand::Release(released), sent) => self.was_released(lines, released, sent),
            (Errand::Scatter { line, tag, into, left, pause }, sent) => {
                self.scattered(lines, (line, tag, into), (left, pause), &sent);
            }
        }
    }

    /// What the queue's stream says, with what has come meanwhile.
    fn received_all(
        &self,
        lines: &mut Lines,
        line: Line,
        first: Option<Result<Incoming, LinkError>>,
    ) -> Result<(), LinkError> {
        self.received(lines, line, first)?;
        for _ in 1..MESSAGES_MAX {
            let Some((line, next)) = next_message(&mut lines.messages, &mut lines.extras).now_or_never() else { break };
            self.received(lines, line, next)?;
        }
        Ok(())
    }

    /// What the queue's stream says.
    fn received(
        &self,
        lines: &mut Lines,
        line: Line,
        message: Option<Result<Incoming, LinkError>>,
    ) -> Result<(), LinkError> {
        let Some(incoming) = message.transpose()? else {
            // Cancelled by the server: the queue is gone, or its node.
            return Err(LinkError::new(LinkErrorKind::NotFound, "the server cancelled the consumer"));
        };
        self.arrived(lines, line, incoming);
        Ok(())
    }

    /// The suspects' queue cannot be looked into: gone, say. What the other line has is not concerned.
    async fn mend_suspects(&self, lines: &mut Lines, error: LinkError) -> Result<(), LinkError> {
        tracing::warn!(target: TARGET, queue = %self.queue(), %error, "the suspects' queue cannot be looked into; it is declared again where that is ours to do");
        self.shared.declarer.forget(&super::topology::suspects(self.queue()));
        lines.suspects = LineState::new(lines.up.link.channel().await?);
        if let Err(error) = self.shared.declarer.place(Place::Suspects, self.queue()).await {
            tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), "the suspects' queue cannot be made; looking again later");
            lines.look.rest();
        }
        Ok(())
    }

    fn arrived(&self, lines: &mut Lines, line: Line, incoming: Incoming) {
        let (shared, queue) = (&self.shared, self.queue());
        lines.delivered(line, incoming.tag);
        // Once: a message that has none gets a new one each time it is asked.
        let id = incoming.message.id();
        let copy = || Copy::of(&incoming.message).id(&id);
        let (place, message) = match course::arrival(
            &incoming,
            line,
            self.table.alibi(&id),
            queue,
            &shared.server,
            shared.now(),
        ) {
            Arrival::Deliver(mut decoded) => {
                let Incoming { tag, message, .. } = incoming;
                calls::admit(shared, queue, &mut decoded.envelope);
                self.table.fetch(queue, line, tag, decoded, message);
                return;
            }
            Arrival::Unpack { jobs, retries } => {
                let Incoming { tag, message, .. } = incoming;
                if let Some(state) = lines.state(line) {
                    state.bundles.opened(tag, jobs.len());
                }
                self.table.fetch_bundle(line, tag, jobs, retries, message);
                return;
            }
            Arrival::Scatter { into, messages } => return self.scatter(lines, line, incoming.tag, into, messages),
            Arrival::Suspect { starts } => {
                tracing::warn!(target: TARGET, %queue, %id, starts, "a job came back from a worker that is gone; it runs apart from the others");
                (Place::Suspects, copy().integer(wire::STARTS, starts).message())
            }
            Arrival::Unmark => (line.place(), copy().message()),
            Arrival::Bury { failure, attempts, starts } => {
                tracing::warn!(target: TARGET, %queue, %id, kind = %failure.kind, "a job is dead-lettered without being run");
                let copy = if starts > 0 { copy().integer(wire::STARTS, starts) } else { copy() };
                (Place::DeadLetters, copy.dead(queue, &failure, attempts, shared.death()).message())
            }
        };
        let (incoming, copy) = (Box::new(incoming), message.clone());
        let errand = Errand::Forward { line, incoming, place, message: copy, pause: PAUSE.0 };
        lines.send(shared, queue, place, message, errand);
    }
}

/// Whether it is time to report that a queue is not consumed; the first time it is asked says since when.
fn is_due(report_at: &mut Option<Instant>) -> bool {
    let now = monotonic_now();
    let at = report_at.get_or_insert(now + REPORT.0);
    let due = *at <= now;
    if due {
        *at = now + REPORT.1;
    }
    due
}

/// Resolves when the broker has been closed for so long that no answer is waited for any more.
async fn given_up(shared: &Shared) {
    shared.lanes.closing.cancelled().await;
    sleep(OPEN_WAIT_MAX).await;
}

/// Resolves at `deadline`; never where there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn gone() -> LinkError {
    LinkError::new(LinkErrorKind::Gone, "the connection was lost")
}
