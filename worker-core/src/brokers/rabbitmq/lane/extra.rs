//! More of a queue than its consumer may hold: another consumer, on a channel of its own.
//!
//! RabbitMQ fixes a consumer's prefetch when it begins, and quorum queues know none that is shared by a channel. So more is
//! another consumer beside the first, and less is its end. It retires: it makes no room until it is full or nothing arrives
//! for a while, is cancelled, and its channel is closed when the last of what it brought is settled. A delivery that crosses
//! the cancel all the same, which `lapin` tells nobody of, goes back to its queue with that.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::{
    Lane, TAG,
    lines::{LineState, Lines, Messages},
    stop,
};
use crate::{
    brokers::rabbitmq::{
        connection::Up,
        course::Line,
        link::{Channel, LinkError, LinkErrorKind},
        mutant::{self, Mutant},
        wire::Incoming,
    },
    telemetry::TARGET,
    time::monotonic_now,
};

/// How long one that retires makes no room at most: jobs that come now and then would go on for ever.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// How long what the server sent before its answer to the cancel may take to be here.
const REST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long until another consumer is tried for again that could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// Those of a queue that retire and are not closed yet, because a job of theirs takes long: above it, no other begins.
const RETIRING_MAX: usize = 4;

/// Channels of a connection that are left to others: porters, and queues that are consumed anew.
const CHANNELS_LEFT: usize = 40;

/// The other consumers of a queue.
#[derive(Default)]
pub(super) struct Extras {
    living: Option<Extra>,
    retiring: Vec<Extra>,
    last: u32,
}

/// Another consumer of a queue.
pub(super) struct Extra {
    number: u32,
    pub(super) state: LineState,
    /// None once all that it was sent is here.
    messages: Option<Messages>,
    pub(super) prefetch: u16,
    phase: Phase,
    /// Counts it among those of this process.
    _counted: Arc<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Consuming,
    /// Makes no room, until nothing has arrived for a while.
    Settling {
        quiet: Duration,
        until: Instant,
        at_most: Instant,
    },
    /// Cancelled: what it brought is settled, and no more comes.
    Ending,
}

impl Extra {
    const fn line(&self) -> Line {
        Line::Extra(self.number)
    }

    const fn is_consuming(&self) -> bool {
        !matches!(self.phase, Phase::Ending)
    }

    /// Whether acknowledgements are written.
    pub(super) const fn makes_room(&self) -> bool {
        !matches!(self.phase, Phase::Settling { .. })
    }

    /// Whether the server may send no more.
    fn is_full(&self) -> bool {
        self.state.unacked.count() >= usize::from(self.prefetch)
    }

    /// When it is cancelled, if nothing arrives.
    const fn settled_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Settling { until, .. } => Some(until),
            Phase::Consuming | Phase::Ending => None,
        }
    }

    /// Takes no more. What was on its way still comes.
    async fn cancel(&mut self) -> Result<(), LinkError> {
        self.phase = Phase::Ending;
        self.state.channel.cancel(TAG).await
    }
}

impl Extras {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Extra> {
        self.living.iter().chain(&self.retiring)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Extra> {
        self.living.iter_mut().chain(&mut self.retiring)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Extra> {
        self.iter_mut().find(|extra| extra.number == number)
    }

    /// The lines that acknowledgements are written on.
    pub(super) fn lines(&self) -> Vec<Line> {
        self.iter().map(Extra::line).collect()
    }

    /// When one that retires is cancelled, if nothing arrives.
    pub(super) fn settled_at(&self) -> Option<Instant> {
        self.retiring.iter().filter_map(Extra::settled_at).min()
    }

    /// Whether the server may send no more by any of them.
    pub(super) fn are_full(&self) -> bool {
        self.iter().all(|extra| !extra.is_consuming() || extra.is_full())
    }

    /// Something arrived: more may be on its way.
    pub(super) fn arrived(&mut self, number: u32) {
        if let Some(Extra { phase: Phase::Settling { quiet, until, at_most }, .. }) = self.get_mut(number) {
            *until = (monotonic_now() + *quiet).min(*at_most);
        }
    }

    /// The next message that any of them brings.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Line, Option<Result<Incoming, LinkError>>)> {
        for extra in self.iter_mut() {
            let Some(messages) = &mut extra.messages else { continue };
            if let Poll::Ready(message) = messages.poll_next_unpin(cx) {
                return Poll::Ready((extra.line(), message));
            }
        }
        Poll::Pending
    }

    /// Cancels all that consume; what they bring still comes.
    pub(super) async fn cancel(&mut self) -> Result<(), LinkError> {
        for extra in self.iter_mut().filter(|extra| extra.is_consuming()) {
            extra.cancel().await?;
        }
        Ok(())
    }

    /// What was on its way when they were cancelled.
    pub(super) async fn rest(&mut self) -> Vec<(Line, Incoming)> {
        let mut rest = Vec::new();
        for extra in self.iter_mut().filter(|extra| !extra.is_consuming()) {
            let Some(mut messages) = extra.messages.take() else { continue };
            while let Ok(Some(Ok(incoming))) = timeout(REST_WAIT_MAX, messages.next()).await {
                rest.push((extra.line(), incoming));
            }
        }
        rest
    }
}

impl Lane {
    /// How many another consumer is to hold.
    fn extra_wanted(&self) -> u16 {
        if self.stopped { 0 } else { self.prefetch.get().saturating_sub(self.subscription.prefetch.get()) }
    }

    /// Brings the other consumers further towards what was asked for.
    pub(super) async fn tend_extras(&mut self, lines: &mut Lines) -> Result<(), LinkError> {
        let wanted = self.extra_wanted();
        if let Some(mut extra) = lines.extras.living.take_if(|extra| extra.prefetch != wanted) {
            if extra.is_consuming() {
                let asked = monotonic_now();
                extra.state.channel.barrier().await?;
                let (quiet, now) = (stop::quiet_after(asked), monotonic_now());
                extra.phase = Phase::Settling { quiet, until: now + quiet, at_most: now + SETTLE_MAX };
            }
            lines.extras.retiring.push(extra);
        }
        self.extra_again.take_if(|again| *again <= monotonic_now());
        if wanted > 0 && lines.extras.living.is_none() {
            self.open_extra(lines, wanted).await;
        }
        if !lines.extras.retiring.is_empty() {
            self.retire_further(lines).await?;
        }
        // Where it shrinks: not before what would come by it does not.
        if !self.resized.is_empty() && lines.extras.settled_at().is_none() {
            self.resized.drain(..).for_each(|answer| drop(answer.send(Ok(()))));
        }
        Ok(())
    }

    async fn retire_further(&self, lines: &mut Lines) -> Result<(), LinkError> {
        let now = monotonic_now();
        let is_settled = |extra: &Extra| extra.settled_at().is_some_and(|until| until <= now || extra.is_full());
        let mut is_any = false;
        for extra in lines.extras.retiring.iter_mut().filter(|extra| is_settled(extra)) {
            extra.cancel().await?;
            is_any = true;
        }
        if is_any {
            for (line, incoming) in lines.extras.rest().await {
                self.arrived(lines, line, incoming);
            }
            // Acknowledgements that were withheld.
            lines.flush_at = Some(now);
        }
        let is_over = |extra: &mut Extra| {
            !extra.is_consuming() && (extra.state.unacked.count() == 0 || mutant::is(Mutant::ExtraClosedEarly))
        };
        for Extra { state, .. } in lines.extras.retiring.extract_if(.., is_over) {
            lines.written.push(Box::pin(async move {
                // What becomes of its acknowledgements is told to who waits for them, and not here.
                drop(state.channel.barrier().await);
                state.channel.close().await;
                (Vec::new(), Ok(()))
            }));
        }
        Ok(())
    }

    /// Begins another consumer. Without it the queue is consumed all the same, and it is tried again.
    async fn open_extra(&mut self, lines: &mut Lines, prefetch: u16) {
        if self.extra_again.is_some() || lines.extras.retiring.len() >= RETIRING_MAX {
            return;
        }
        match self.try_extra(&Arc::clone(&lines.up), prefetch).await {
            Ok((channel, messages)) => {
                lines.extras.last += 1;
                let (number, state) = (lines.extras.last, LineState::new(channel));
                let (phase, counted) = (Phase::Consuming, Arc::clone(&self.shared.extras));
                let messages = Some(messages);
                lines.extras.living = Some(Extra { number, state, messages, prefetch, phase, _counted: counted });
            }
            Err(error) => {
                tracing::warn!(target: TARGET, queue = %self.queue(), prefetch, %error, retry_in = ?PAUSE, "no more is held of the queue than at first");
                self.extra_again = Some(monotonic_now() + PAUSE);
            }
        }
    }

    async fn try_extra(&self, up: &Up, prefetch: u16) -> Result<(Box<dyn Channel>, Messages), LinkError> {
        // To ask for one more than there are would cost the connection, and all that was delivered on it.
        let used = 2 * self.shared.lanes.tracker.len() + Arc::strong_count(&self.shared.extras);
        if used + CHANNELS_LEFT > usize::from(up.link.channels_max()) {
            return Err(LinkError::new(
                LinkErrorKind::Refused,
                "the connection's channels are needed for other queues",
            ));
        }
        self.consume(up, prefetch).await
    }
}
