//! The lines of a subscription on one connection: what is delivered, what is
//! on its way elsewhere, and what was acknowledged.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, ready},
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    bundles::{Bundles, Released},
    extra::Extras,
    suspects::Look,
};
use crate::{
    broker::{Delivery, SettleError},
    brokers::rabbitmq::{
        acks::{Ack, Unacked},
        calls,
        connection::Up,
        course::{Held, Line, Place},
        link::{Channel, LinkError},
        mutant::{self, Mutant},
        shared::Shared,
        wire::{Incoming, Message},
    },
    envelope::Caller,
    error::BrokerError,
    name::QueueName,
    reply::Reply,
    settlement::Settlement,
    time::monotonic_now,
};

pub(super) type Answer = oneshot::Sender<Result<(), SettleError>>;

/// What a copy that is on its way stands for.
pub(super) enum Errand {
    /// A settlement of the worker's.
    Settle { delivery: Delivery, held: Held, settlement: Settlement, answer: Answer },
    /// A message that goes elsewhere without the worker.
    Forward { line: Line, incoming: Box<Incoming>, place: Place, message: Message, pause: Duration },
    /// A delivery that is given back, or so many jobs of one.
    GiveBack { line: Line, tag: u64, jobs: usize },
    /// Jobs of one bundle that the worker released.
    Release(Vec<Released>),
    /// A bundle whose jobs go on one by one: those that are left to be sent, and after which pause.
    Scatter { line: Line, tag: u64, into: Line, left: Vec<Message>, pause: Duration },
}

pub(super) type Errands = FuturesUnordered<BoxFuture<'static, (Errand, Result<(), BrokerError>)>>;

/// Who waits for acknowledgements, once the server has seen them.
type Written = BoxFuture<'static, (Vec<Answer>, Result<(), LinkError>)>;

pub(super) type Messages = BoxStream<'static, Result<Incoming, LinkError>>;

/// All lines on one connection.
pub(super) struct Lines {
    pub(super) up: Arc<Up>,
    pub(super) main: LineState,
    /// What the main line brings.
    pub(super) messages: Messages,
    /// What more of the queue is held.
    pub(super) extras: Extras,
    pub(super) suspects: LineState,
    pub(super) look: Look,
    pub(super) errands: Errands,
    /// Jobs of bundles that the worker gave back, until those that came together are sent.
    pub(super) released: Vec<Released>,
    /// When what is finished is acknowledged, however little it is.
    pub(super) flush_at: Option<Instant>,
    /// Acknowledgements that were written, until the server has seen them, with who waits for them.
    pub(super) written: FuturesUnordered<Written>,
}

pub(super) struct LineState {
    pub(super) channel: Arc<dyn Channel>,
    pub(super) unacked: Unacked,
    pub(super) bundles: Bundles,
    /// Who waits for the acknowledgement of what.
    answers: Vec<(u64, Answer)>,
    /// Somebody waits for one that the server has had already.
    is_late: bool,
}

impl Lines {
    pub(super) fn new(up: Arc<Up>, main: LineState, messages: Messages, suspects: LineState, look: Look) -> Self {
        Self {
            up,
            main,
            messages,
            extras: Extras::default(),
            suspects,
            look,
            errands: Errands::new(),
            released: Vec::new(),
            flush_at: None,
            written: FuturesUnordered::new(),
        }
    }

    /// What is known of a line; none of one that has ended, of which all was settled.
    pub(super) fn state(&mut self, line: Line) -> Option<&mut LineState> {
        match line {
            Line::Main => Some(&mut self.main),
            Line::Extra(number) => self.extras.get_mut(number).map(|extra| &mut extra.state),
            Line::Suspects => Some(&mut self.suspects),
        }
    }

    /// The delivery, or one job of it, is done with: acknowledged once all of it is, and then told to whoever waits.
    pub(super) fn finish(&mut self, line: Line, tag: u64, answer: Answer) {
        self.finish_jobs(line, tag, 1, Some(answer));
    }

    /// So many jobs of a delivery are done with.
    pub(super) fn finish_jobs(&mut self, line: Line, tag: u64, jobs: usize, answer: Option<Answer>) {
        if let Some(state) = self.state(line) {
            state.finish_jobs(tag, jobs, answer);
        }
    }

    /// A delivery came by this line.
    pub(super) fn delivered(&mut self, line: Line, tag: u64) {
        if let Some(state) = self.state(line) {
            state.unacked.delivered(tag);
        }
        if let Line::Extra(number) = line {
            self.extras.arrived(number);
        }
    }

    /// A message that went elsewhere is done with.
    pub(super) fn finish_message(&mut self, line: Line, tag: u64) {
        if let Some(state) = self.state(line) {
            state.unacked.finished(tag, monotonic_now());
        }
    }

    /// Gives a delivery back to the server as it is.
    pub(super) async fn requeue(&mut self, line: Line, tag: u64) -> Result<(), LinkError> {
        if let Some(state) = self.state(line) {
            state.channel.requeue(tag, false).await?;
            state.returned(tag);
        }
        Ok(())
    }

    /// Whether nothing more can come by the queue's own line, which may hold so many, nor by another.
    pub(super) fn is_full(&self, prefetch: usize) -> bool {
        self.main.unacked.count() >= prefetch && self.extras.are_full()
    }

    /// Sends a copy on its way; what comes of it is the errand's next news.
    pub(super) fn send(
        &mut self,
        shared: &Arc<Shared>,
        queue: &QueueName,
        place: Place,
        message: Message,
        errand: Errand,
    ) {
        let (shared, queue) = (Arc::clone(shared), queue.clone());
        let sending: BoxFuture<'static, _> = Box::pin(async move {
            let sent = match errand {
                Errand::GiveBack { .. } => shared.give_back(place, &queue, message).await,
                _ => shared.send(place, &queue, message).await,
            };
            (errand, sent)
        });
        self.begin(sending);
    }

    /// Begins an errand. It is polled once now: copies are sent in the order in which they were asked for.
    pub(super) fn begin(&mut self, mut errand: BoxFuture<'static, (Errand, Result<(), BrokerError>)>) {
        match (&mut errand).now_or_never() {
            Some(done) => self.errands.push(Box::pin(ready(done))),
            None => self.errands.push(errand),
        }
    }

    /// Answers a call; what comes of it is the errand's next news.
    pub(super) fn answer(
        &mut self,
        shared: &Arc<Shared>,
        queue: &QueueName,
        caller: Caller,
        reply: Reply,
        kept: Option<Message>,
        errand: Errand,
    ) {
        let (shared, queue) = (Arc::clone(shared), queue.clone());
        self.errands.push(Box::pin(async move {
            let answered = match &errand {
                Errand::Settle { held, .. } => calls::answer(&shared, &queue, &held.id, caller, reply, kept).await,
                _ => Ok(()),
            };
            (errand, answered)
        }));
    }

    /// Writes the acknowledgements that are due, and sees when the next are.
    pub(super) async fn flush_due(&mut self, prefetch: usize) -> Result<(), LinkError> {
        let now = monotonic_now();
        let main = self.main.unacked.take_due(prefetch, now);
        self.write(Line::Main, main).await?;
        self.flush_at = self.main.unacked.due_at();
        for line in self.extras.lines() {
            let Line::Extra(number) = line else { continue };
            let Some(extra) = self.extras.get_mut(number).filter(|extra| extra.makes_room()) else { continue };
            let acks = extra.state.unacked.take_due(extra.prefetch.into(), now);
            let due_at = extra.state.unacked.due_at();
            self.write(line, acks).await?;
            self.flush_at = self.flush_at.into_iter().chain(due_at).min();
        }
        self.flush_suspects().await
    }

    /// Writes the acknowledgements of all that is finished.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        let main = self.main.unacked.take();
        self.write(Line::Main, main).await?;
        for line in self.extras.lines() {
            let acks = self.state(line).map(|state| state.unacked.take());
            self.write(line, acks.unwrap_or_default()).await?;
        }
        self.flush_at = None;
        self.flush_suspects().await
    }

    /// There is one at a time: it has no other to go with.
    async fn flush_suspects(&mut self) -> Result<(), LinkError> {
        let suspects = self.suspects.unacked.take();
        self.write(Line::Suspects, suspects).await?;
        self.look_again();
        Ok(())
    }

    async fn write(&mut self, line: Line, acks: Vec<Ack>) -> Result<(), LinkError> {
        let Some(state) = self.state(line) else { return Ok(()) };
        if acks.is_empty() && !state.is_late {
            return Ok(());
        }
        for ack in acks {
            state.channel.ack(ack.tag, ack.multiple).await?;
            if mutant::is(Mutant::AckedTwice) {
                state.channel.ack(ack.tag, ack.multiple).await?;
            }
        }
        let answers = state.take_answers();
        if !answers.is_empty() {
            // AMQP does not answer an acknowledgement. What a connection loses between our
            // write and the server's read would be delivered again, and called settled.
            let barrier = state.channel.barrier();
            self.written.push(Box::pin(async move { (answers, barrier.await) }));
        }
        Ok(())
    }

    /// Where no suspect is in hand any more, whether there is another may be asked.
    fn look_again(&mut self) {
        if self.suspects.unacked.count() == 0 {
            self.look.settled();
        }
    }

    /// Waits until the server has seen what was written.
    pub(super) async fn seen(&mut self, deadline: Instant) -> Result<(), LinkError> {
        self.flush().await?;
        while let Ok(Some((answers, seen))) = timeout_at(deadline, self.written.next()).await {
            tell(answers, seen)?;
        }
        Ok(())
    }

    /// Lets go of the channels: what is not acknowledged goes back to the server's queue.
    pub(super) async fn abandon(mut self) {
        let extras = self.extras.iter_mut().map(|extra| &mut extra.state);
        let states = [&mut self.main, &mut self.suspects].into_iter().chain(extras);
        let unwritten = states.flat_map(|state| state.answers.drain(..));
        unwritten.for_each(|(_, answer)| drop(answer.send(Err(SettleError::Lost))));
        // Whatever comes of these copies, their originals are delivered again.
        for (errand, _) in std::iter::from_fn(|| self.errands.next().now_or_never().flatten()) {
            if let Errand::Settle { answer, .. } = errand {
                drop(answer.send(Err(SettleError::Lost)));
            }
        }
        self.main.channel.close().await;
        let extras: Vec<_> = self.extras.iter().map(|extra| Arc::clone(&extra.state.channel)).collect();
        for channel in extras {
            channel.close().await;
        }
        self.suspects.channel.close().await;
    }
}

impl LineState {
    pub(super) fn new(channel: Box<dyn Channel>) -> Self {
        let (unacked, bundles) = (Unacked::default(), Bundles::default());
        Self { channel: channel.into(), unacked, bundles, answers: Vec::new(), is_late: false }
    }

    /// So many jobs of a delivery are done with: acknowledged once all of it is, and then told to whoever waits.
    fn finish_jobs(&mut self, tag: u64, jobs: usize, answer: Option<Answer>) {
        if let Some(answers) = self.bundles.done(tag, jobs, answer) {
            self.is_late |= !self.unacked.finished(tag, monotonic_now());
            self.answers.extend(answers.into_iter().map(|answer| (tag, answer)));
        }
    }

    /// Who waits for what was written.
    fn take_answers(&mut self) -> Vec<Answer> {
        self.is_late = false;
        let unacked = &self.unacked;
        self.answers.extract_if(.., |(tag, _)| !unacked.is_untold(*tag)).map(|(_, answer)| answer).collect()
    }

    /// The delivery is the server's again.
    pub(super) fn returned(&mut self, tag: u64) {
        self.bundles.returned(tag);
        self.unacked.returned(tag);
    }
}

/// The next message of a queue by these lines, and by which it came.
///
/// # Cancel safety
///
/// Cancel safe.
pub(super) async fn next_message(
    main: &mut Messages,
    extras: &mut Extras,
) -> (Line, Option<Result<Incoming, LinkError>>) {
    poll_fn(|cx| match main.poll_next_unpin(cx) {
        Poll::Ready(message) => Poll::Ready((Line::Main, message)),
        Poll::Pending => extras.poll_next(cx),
    })
    .await
}

/// Tells who waited for acknowledgements what became of them.
pub(super) fn tell(answers: Vec<Answer>, seen: Result<(), LinkError>) -> Result<(), LinkError> {
    for answer in answers {
        drop(answer.send(if seen.is_ok() { Ok(()) } else { Err(SettleError::Lost) }));
    }
    seen
}
