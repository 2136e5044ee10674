//! The task of one subscription: fetches, settles, moves suspects, gives back.
//!
//! It has two lines: the queue, with the worker's prefetch, and the queue's
//! suspects, one at a time. Everything that leaves a queue by another way than
//! success is copied first: the copy is published and confirmed, and only then
//! is the original acknowledged, so that a crash between the two makes two of
//! a job and never none.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    broker::{Delivery, SettleError, Subscription, Unsettled},
    brokers::rabbitmq::{
        acks::Unacked,
        connection::Up,
        consume::{Command, Table},
        course::{self, Arrival, Held, Line, Place, Step},
        declare::broker_error,
        link::{Channel, LinkError, LinkErrorKind},
        shared::Shared,
        wire::{self, Copy, Incoming, Message},
    },
    error::{BrokerError, BrokerErrorKind},
    name::QueueName,
    settlement::Settlement,
    telemetry::TARGET,
    time::monotonic_now,
};

/// The first and the longest pause before a queue is consumed again that could not be.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long a queue may be without consumer until that is reported, and how often from then on:
/// a worker takes a second of silence for soundness.
const REPORT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(500));

/// How long giving back may take at a stop; what is not back by then comes back with the connection's end.
const GIVE_BACK_WAIT_MAX: Duration = Duration::from_secs(4);

/// How long beginning to consume may go on when it has to end already.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long, at least and at most, nothing must arrive until nothing is on its way: several times
/// what a delivery takes.
const QUIET: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Commands that are taken at once, so that their acknowledgements become few.
const COMMANDS_MAX: usize = 256;

type Answer = oneshot::Sender<Result<(), SettleError>>;

pub(super) struct Lane {
    shared: Arc<Shared>,
    subscription: Subscription,
    table: Arc<Table>,
    commands: mpsc::Receiver<Command>,
    stopped: bool,
}

/// What a copy that is on its way stands for.
enum Errand {
    /// A settlement of the worker's.
    Settle { delivery: Delivery, held: Held, settlement: Settlement, answer: Answer },
    /// A message that goes elsewhere without the worker.
    Forward { line: Line, incoming: Incoming, place: Place, message: Message, pause: Duration },
    /// A delivery that is given back.
    GiveBack { line: Line, tag: u64 },
}

type Errands = FuturesUnordered<BoxFuture<'static, (Errand, Result<(), BrokerError>)>>;

/// Who waits for acknowledgements, once the server has seen them.
type Written = BoxFuture<'static, (Vec<Answer>, Result<(), LinkError>)>;

/// Both lines on one connection.
struct Lines {
    up: Arc<Up>,
    main: LineState,
    suspects: LineState,
    errands: Errands,
    /// Acknowledgements that were written, until the server has seen them, with who waits for them.
    written: FuturesUnordered<Written>,
}

struct LineState {
    channel: Box<dyn Channel>,
    messages: BoxStream<'static, Result<Incoming, LinkError>>,
    unacked: Unacked,
    /// Who waits for the acknowledgements that the next flush writes.
    answers: Vec<Answer>,
}

/// Why a lane left its connection.
enum Left {
    /// Both halves are gone, or the broker is being closed.
    Ended,
    Lost(LinkError),
}

impl Lane {
    pub(super) const fn new(
        shared: Arc<Shared>,
        subscription: Subscription,
        table: Arc<Table>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self { shared, subscription, table, commands, stopped: false }
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
            let given_up = async {
                shared.lanes.closing.cancelled().await;
                sleep(OPEN_WAIT_MAX).await;
            };
            let opened = tokio::select! {
                opened = self.open(&up) => opened,
                () = given_up => break,
            };
            let error = match opened {
                Ok(lines) => {
                    self.table.begin_epoch();
                    report_at = None;
                    let began = monotonic_now();
                    match self.serve(lines).await {
                        Left::Ended => break,
                        Left::Lost(error) => {
                            if began.elapsed() >= PAUSE.1 {
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
            let lost = self.table.lose_all(is_long.then_some(told));
            if lost > 0 {
                tracing::warn!(target: TARGET, queue = %self.queue(), lost, %error, "deliveries were lost with their connection; they come back");
            }
            self.repair(&error).await;
            tokio::select! {
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
                () = self.shared.lanes.closing.cancelled() => return,
                command = self.commands.recv() => match command {
                    None => return,
                    Some(Command::Stop(answer)) => {
                        self.stopped = true;
                        self.table.stop();
                        drop(self.table.take_fetched());
                        drop(answer.send(Ok(())));
                    }
                    // It was lost with its connection.
                    Some(Command::Settle { answer, .. }) => drop(answer.send(Err(SettleError::Lost))),
                },
            }
        }
    }

    /// The queue is gone: it is declared again, as at the start.
    async fn repair(&self, error: &LinkError) {
        if error.kind != LinkErrorKind::NotFound {
            return;
        }
        tracing::warn!(target: TARGET, queue = %self.queue(), "the queue is gone; declaring it again");
        let names = [self.queue().to_string(), super::topology::suspects(self.queue())];
        names.iter().for_each(|name| self.shared.declarer.forget(name));
        for place in [Place::Queue, Place::Suspects] {
            if let Err(error) = self.shared.declarer.place(place, self.queue()).await {
                self.table.fail(error);
            }
        }
    }

    async fn open(&self, up: &Arc<Up>) -> Result<Lines, LinkError> {
        let main = self.line(up, self.queue().as_str(), self.subscription.prefetch.get()).await?;
        let suspects = self.line(up, &super::topology::suspects(self.queue()), 1).await?;
        Ok(Lines { up: Arc::clone(up), main, suspects, errands: Errands::new(), written: FuturesUnordered::new() })
    }

    async fn line(&self, up: &Up, queue: &str, prefetch: u16) -> Result<LineState, LinkError> {
        let channel = up.link.channel().await?;
        let messages = if self.stopped {
            futures_util::stream::pending().boxed()
        } else {
            channel.consume(queue, TAG, prefetch).await?
        };
        Ok(LineState { channel, messages, unacked: Unacked::default(), answers: Vec::new() })
    }

    /// Works on one connection until it is lost or the lane is over.
    async fn serve(&mut self, mut lines: Lines) -> Left {
        let mut received = Vec::with_capacity(COMMANDS_MAX);
        let up = Arc::clone(&lines.up);
        loop {
            let worked = tokio::select! {
                biased;
                () = self.shared.lanes.closing.cancelled() => return self.end(lines, true).await,
                () = up.lost.cancelled() => Err(self.shared.consume.error().unwrap_or_else(gone)),
                count = self.commands.recv_many(&mut received, COMMANDS_MAX) => {
                    if count == 0 {
                        return self.end(lines, false).await;
                    }
                    self.obey(&mut lines, &mut received).await
                }
                Some((errand, sent)) = lines.errands.next(), if !lines.errands.is_empty() => {
                    self.returned(&mut lines, errand, sent);
                    while let Some(Some((errand, sent))) = futures_util::FutureExt::now_or_never(lines.errands.next()) {
                        self.returned(&mut lines, errand, sent);
                    }
                    Ok(())
                }
                Some((answers, seen)) = lines.written.next(), if !lines.written.is_empty() => tell(answers, seen),
                message = lines.main.messages.next(), if !self.stopped => self.arrived(&mut lines, Line::Main, message),
                message = lines.suspects.messages.next(), if !self.stopped => self.arrived(&mut lines, Line::Suspects, message),
            };
            let worked = match worked {
                Ok(()) => lines.flush().await,
                Err(error) => Err(error),
            };
            if let Err(error) = worked {
                lines.abandon().await;
                return Left::Lost(error);
            }
        }
    }

    async fn obey(&mut self, lines: &mut Lines, received: &mut Vec<Command>) -> Result<(), LinkError> {
        for command in received.drain(..) {
            match command {
                Command::Settle { delivery, held, settlement, answer } => {
                    self.settle(lines, delivery, held, settlement, answer).await?;
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
        Ok(())
    }

    async fn settle(
        &self,
        lines: &mut Lines,
        delivery: Delivery,
        held: Held,
        settlement: Settlement,
        answer: Answer,
    ) -> Result<(), LinkError> {
        let shared = &self.shared;
        let when = (shared.now(), shared.death());
        let step = course::step(&held, &settlement, self.queue(), &shared.declarer.ladder, &shared.server, when);
        match step {
            Step::Ack => {
                lines.state(held.line).finish(held.tag, answer);
            }
            Step::Requeue => {
                let state = lines.state(held.line);
                state.channel.requeue(held.tag, false).await?;
                state.unacked.returned(held.tag);
                drop(answer.send(Ok(())));
            }
            Step::Publish(place, message) => {
                lines.send(shared, self.queue(), place, message, Errand::Settle { delivery, held, settlement, answer });
            }
        }
        Ok(())
    }

    /// A copy is where it belongs, or is not.
    fn returned(&self, lines: &mut Lines, errand: Errand, sent: Result<(), BrokerError>) {
        match (errand, sent) {
            (Errand::Settle { held, answer, .. }, Ok(())) => {
                lines.state(held.line).finish(held.tag, answer);
            }
            (Errand::Settle { delivery, held, settlement, answer }, Err(error)) => {
                // The delivery first: whoever gets it back may submit it at once.
                if self.table.take_back(delivery.receipt, held) {
                    drop(answer.send(Err(SettleError::Unsettled(Box::new(Unsettled { delivery, settlement, error })))));
                } else {
                    drop(answer.send(Err(SettleError::Lost)));
                }
            }
            (Errand::Forward { line, incoming, .. }, Ok(())) => lines.state(line).unacked.finished(incoming.tag),
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
            (Errand::GiveBack { line, tag }, Ok(())) => lines.state(line).unacked.finished(tag),
            // Left to the end of the channel, which gives it back too.
            (Errand::GiveBack { .. }, Err(error)) => {
                tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), "a job could not be given back unmarked");
            }
        }
    }

    fn arrived(
        &self,
        lines: &mut Lines,
        line: Line,
        message: Option<Result<Incoming, LinkError>>,
    ) -> Result<(), LinkError> {
        let Some(incoming) = message.transpose()? else {
            // Cancelled by the server: the queue is gone, or its node.
            return Err(LinkError::new(LinkErrorKind::NotFound, "the server cancelled the consumer"));
        };
        let (shared, queue) = (&self.shared, self.queue());
        lines.state(line).unacked.delivered(incoming.tag);
        let copy = || Copy::of(&incoming.message).id(&incoming.message.id());
        let (place, message) = match course::arrival(&incoming, line, queue, &shared.server, shared.now()) {
            Arrival::Deliver(decoded) => {
                let Incoming { tag, message, .. } = incoming;
                self.table.fetch(queue, line, tag, *decoded, message);
                return Ok(());
            }
            Arrival::Suspect { starts } => {
                tracing::warn!(target: TARGET, %queue, id = %incoming.message.id(), starts, "a job came back from a worker that is gone; it runs apart from the others");
                (Place::Suspects, copy().integer(wire::STARTS, starts).message())
            }
            Arrival::Bury { failure, attempts, starts } => {
                tracing::warn!(target: TARGET, %queue, id = %incoming.message.id(), kind = %failure.kind, "a job is dead-lettered without being run");
                let copy = if starts > 0 { copy().integer(wire::STARTS, starts) } else { copy() };
                (Place::DeadLetters, copy.dead(queue, &failure, attempts, shared.death()).message())
            }
        };
        let errand = Errand::Forward { line, incoming, place, message: message.clone(), pause: PAUSE.0 };
        lines.send(shared, queue, place, message, errand);
        Ok(())
    }

    /// Takes no more, and gives back what was fetched and not returned.
    async fn stop(&mut self, lines: &mut Lines) -> Result<(), LinkError> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        let deadline = monotonic_now() + GIVE_BACK_WAIT_MAX;
        // A server that stands still must not hold up the end.
        let silent = |_| Err(LinkError::new(LinkErrorKind::Gone, "no answer to the end of consuming"));
        timeout_at(deadline, self.settle_down(lines)).await.unwrap_or_else(silent)?;
        for line in [Line::Main, Line::Suspects] {
            timeout_at(deadline, lines.state(line).channel.cancel(TAG)).await.unwrap_or_else(silent)?;
            // What was on its way still comes, and then the stream ends.
            while let Ok(Some(Ok(incoming))) = timeout_at(deadline, lines.state(line).messages.next()).await {
                self.arrived(lines, line, Some(Ok(incoming)))?;
            }
            lines.state(line).messages = futures_util::stream::pending().boxed();
        }
        let mut unstarted = self.table.take_fetched();
        unstarted.sort_unstable_by_key(|held| held.tag);
        self.give_back(lines, unstarted, deadline).await
    }

    /// Waits, without making room for more, until nothing is on its way to us.
    ///
    /// A delivery that crosses our cancel is delivered to no one: it comes back
    /// with the end of the channel, marked as one whose worker died. (The server
    /// sends it after its answer to the cancel, and `lapin` does not know the
    /// consumer any more.)
    async fn settle_down(&self, lines: &mut Lines) -> Result<(), LinkError> {
        let prefetch = usize::from(self.subscription.prefetch.get());
        let asked = monotonic_now();
        lines.main.channel.barrier().await?;
        // A busy server takes longer for everything.
        let quiet = (asked.elapsed() * 5).clamp(QUIET.0, QUIET.1);
        while lines.main.unacked.open() < prefetch || lines.suspects.unacked.open() < 1 {
            let (line, message) = tokio::select! {
                message = lines.main.messages.next() => (Line::Main, message),
                message = lines.suspects.messages.next() => (Line::Suspects, message),
                () = sleep(quiet) => return Ok(()),
            };
            self.arrived(lines, line, message)?;
        }
        Ok(())
    }

    /// Gives deliveries back, all at once, and waits until they are.
    async fn give_back(&self, lines: &mut Lines, held: Vec<Held>, deadline: Instant) -> Result<(), LinkError> {
        let mut open = 0;
        for held in held {
            match course::give_back(&held, &self.shared.server) {
                Step::Publish(place, message) => {
                    let errand = Errand::GiveBack { line: held.line, tag: held.tag };
                    // Begun in their order, so that they keep it among themselves.
                    lines.send(&self.shared, self.queue(), place, message, errand);
                    open += 1;
                }
                _ => {
                    let state = lines.state(held.line);
                    state.channel.requeue(held.tag, false).await?;
                    state.unacked.returned(held.tag);
                }
            }
        }
        while open > 0 && !lines.errands.is_empty() {
            let Ok(Some((errand, sent))) = timeout_at(deadline, lines.errands.next()).await else { break };
            open -= usize::from(matches!(errand, Errand::GiveBack { .. }));
            self.returned(lines, errand, sent);
        }
        lines.flush().await
    }

    /// Finishes what was submitted, gives back everything, and lets go.
    async fn end(&mut self, mut lines: Lines, closing: bool) -> Left {
        if let Err(error) = self.finish(&mut lines, closing).await {
            tracing::warn!(target: TARGET, queue = %self.queue(), %error, "not everything was given back; the server does so now");
        }
        lines.abandon().await;
        Left::Ended
    }

    async fn finish(&mut self, lines: &mut Lines, closing: bool) -> Result<(), LinkError> {
        let deadline = monotonic_now() + GIVE_BACK_WAIT_MAX;
        if closing {
            self.commands.close();
            let mut received = Vec::new();
            while self.commands.recv_many(&mut received, COMMANDS_MAX).await > 0 {
                self.obey(lines, &mut received).await?;
            }
        }
        self.stop(lines).await?;
        while !lines.errands.is_empty() {
            let Ok(Some((errand, sent))) = timeout_at(deadline, lines.errands.next()).await else { break };
            self.returned(lines, errand, sent);
        }
        lines.flush().await?;
        let mut owned = self.table.take_all();
        owned.sort_unstable_by_key(|held| held.tag);
        self.give_back(lines, owned, deadline).await?;
        lines.seen(deadline).await
    }
}

/// A consumer's tag is its channel's matter; each line has its own.
const TAG: &str = "worker";

impl Lines {
    const fn state(&mut self, line: Line) -> &mut LineState {
        match line {
            Line::Main => &mut self.main,
            Line::Suspects => &mut self.suspects,
        }
    }

    fn send(&mut self, shared: &Arc<Shared>, queue: &QueueName, place: Place, message: Message, errand: Errand) {
        let (shared, queue) = (Arc::clone(shared), queue.clone());
        let mut sending: BoxFuture<'static, _> = Box::pin(async move {
            let sent = shared.send(place, &queue, message).await;
            (errand, sent)
        });
        // Polled once now: copies are sent in the order in which they were asked for.
        match futures_util::FutureExt::now_or_never(&mut sending) {
            Some(done) => self.errands.push(Box::pin(std::future::ready(done))),
            None => self.errands.push(sending),
        }
    }

    /// Writes the acknowledgements that are due.
    async fn flush(&mut self) -> Result<(), LinkError> {
        for line in [Line::Main, Line::Suspects] {
            let state = self.state(line);
            for ack in state.unacked.take() {
                state.channel.ack(ack.tag, ack.multiple).await?;
            }
            if !state.answers.is_empty() {
                // AMQP does not answer an acknowledgement. What a connection loses between our
                // write and the server's read would be delivered again, and called settled.
                let (answers, barrier) = (std::mem::take(&mut state.answers), state.channel.barrier());
                self.written.push(Box::pin(async move { (answers, barrier.await) }));
            }
        }
        Ok(())
    }

    /// Waits until the server has seen what was written.
    async fn seen(&mut self, deadline: Instant) -> Result<(), LinkError> {
        self.flush().await?;
        while let Ok(Some((answers, seen))) = timeout_at(deadline, self.written.next()).await {
            tell(answers, seen)?;
        }
        Ok(())
    }

    /// Lets go of the channels: what is not acknowledged goes back to the server's queue.
    async fn abandon(mut self) {
        let unwritten = [&mut self.main, &mut self.suspects].into_iter().flat_map(|state| state.answers.drain(..));
        unwritten.for_each(|answer| drop(answer.send(Err(SettleError::Lost))));
        // Whatever comes of these copies, their originals are delivered again.
        for (errand, _) in std::iter::from_fn(|| futures_util::FutureExt::now_or_never(self.errands.next()).flatten()) {
            if let Errand::Settle { answer, .. } = errand {
                drop(answer.send(Err(SettleError::Lost)));
            }
        }
        self.main.channel.close().await;
        self.suspects.channel.close().await;
    }
}

impl LineState {
    /// The delivery is done with: acknowledged with the next flush, and told to whoever waits.
    fn finish(&mut self, tag: u64, answer: Answer) {
        self.unacked.finished(tag);
        self.answers.push(answer);
    }
}

/// Tells who waited for acknowledgements what became of them.
fn tell(answers: Vec<Answer>, seen: Result<(), LinkError>) -> Result<(), LinkError> {
    for answer in answers {
        drop(answer.send(if seen.is_ok() { Ok(()) } else { Err(SettleError::Lost) }));
    }
    seen
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

fn gone() -> LinkError {
    LinkError::new(LinkErrorKind::Gone, "the connection was lost")
}
