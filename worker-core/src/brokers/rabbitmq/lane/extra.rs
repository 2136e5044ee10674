//! More of a queue than its consumer may hold: a second consumer, on a channel of its own.
//!
//! RabbitMQ fixes a consumer's prefetch when it begins, and quorum queues know none that is shared by a channel. So more is
//! a second consumer beside the first, and less is its end: it makes no room until nothing is on its way to it, is cancelled,
//! and its channel is closed when the last of what it brought is settled. A delivery that crosses the cancel all the same
//! comes back with that, and no later than the longest of its jobs takes.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
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
        declare::broker_error,
        link::LinkError,
        mutant::{self, Mutant},
    },
    time::monotonic_now,
};

/// How long what the server sent before its answer to the cancel may take to be here.
const REST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long until a second consumer is tried for again that could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// The second consumer of a queue.
pub(super) struct Extra {
    pub(super) state: LineState,
    pub(super) messages: Messages,
    pub(super) prefetch: u16,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Consuming,
    /// Makes no room, until nothing arrived for a while.
    Settling {
        quiet: Duration,
        until: Instant,
    },
    /// Cancelled: what it brought is settled, and no more comes.
    Ending,
}

impl Extra {
    pub(super) const fn is_consuming(&self) -> bool {
        !matches!(self.phase, Phase::Ending)
    }

    /// Whether acknowledgements are written.
    pub(super) const fn makes_room(&self) -> bool {
        !matches!(self.phase, Phase::Settling { .. })
    }

    /// Whether the server may send no more.
    pub(super) fn is_full(&self) -> bool {
        self.state.unacked.count() >= usize::from(self.prefetch)
    }

    /// When it is settled, if nothing arrives.
    pub(super) const fn settled_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Settling { until, .. } => Some(until),
            Phase::Consuming | Phase::Ending => None,
        }
    }

    /// Something arrived: more may be on its way.
    pub(super) fn arrived(&mut self) {
        if let Phase::Settling { quiet, until } = &mut self.phase {
            *until = monotonic_now() + *quiet;
        }
    }

    /// Takes no more. What was on its way still comes.
    pub(super) async fn cancel(&mut self) -> Result<(), LinkError> {
        self.phase = Phase::Ending;
        self.state.channel.cancel(TAG).await
    }

    /// Nothing comes by it any more.
    pub(super) fn end(&mut self) {
        self.messages = stream::pending().boxed();
    }
}

impl Lane {
    /// How many the second consumer is to hold.
    fn extra_wanted(&self) -> u16 {
        if self.stopped { 0 } else { self.prefetch.get().saturating_sub(self.subscription.prefetch.get()) }
    }

    /// Whether the number that is held is the one that was asked for, up to what ends by itself.
    pub(super) fn is_resized(&self, lines: &Lines) -> bool {
        let has = lines.extra.as_ref().filter(|extra| extra.is_consuming()).map_or(0, |extra| extra.prefetch);
        has == self.extra_wanted() || has == 0 && lines.extra.is_some()
    }

    /// Brings the second consumer further towards what was asked for.
    pub(super) async fn tend_extra(&mut self, lines: &mut Lines) -> Result<(), LinkError> {
        let wanted = self.extra_wanted();
        match &mut lines.extra {
            None if wanted == 0 || self.extra_again.is_some_and(|again| monotonic_now() < again) => {}
            None => lines.extra = self.open_extra(&Arc::clone(&lines.up), wanted).await,
            Some(extra) => match extra.phase {
                Phase::Consuming if extra.prefetch == wanted => {}
                Phase::Consuming => {
                    let asked = monotonic_now();
                    extra.state.channel.barrier().await?;
                    let quiet = stop::quiet_after(asked);
                    extra.phase = Phase::Settling { quiet, until: monotonic_now() + quiet };
                }
                Phase::Settling { until, .. } if extra.is_full() || until <= monotonic_now() => {
                    self.cancel_extra(lines).await?;
                }
                Phase::Ending if extra.state.unacked.count() == 0 || mutant::is(Mutant::ExtraClosedEarly) => {
                    lines.close_extra();
                }
                Phase::Settling { .. } | Phase::Ending => {}
            },
        }
        if !self.resized.is_empty() && self.is_resized(lines) {
            self.resized.drain(..).for_each(|answer| drop(answer.send(Ok(()))));
        }
        Ok(())
    }

    /// Ends the second consumer, and gives back what it brought that the worker has not fetched.
    async fn cancel_extra(&self, lines: &mut Lines) -> Result<(), LinkError> {
        let Some(extra) = &mut lines.extra else { return Ok(()) };
        extra.cancel().await?;
        while let Ok(Some(incoming)) = timeout(REST_WAIT_MAX, lines.next_extra()).await {
            self.arrived(lines, Line::Extra, incoming?);
        }
        lines.extra.iter_mut().for_each(Extra::end);
        let unfetched = self.table.take_fetched_by(Line::Extra);
        self.begin_to_give_back(lines, unfetched).await.map(drop)
    }

    /// The second consumer; without it the queue is consumed all the same, and whoever asked is told.
    async fn open_extra(&mut self, up: &Up, prefetch: u16) -> Option<Extra> {
        match self.consume(up, prefetch).await {
            Ok((channel, messages)) => {
                self.extra_again = None;
                Some(Extra { state: LineState::new(channel), messages, prefetch, phase: Phase::Consuming })
            }
            Err(error) => {
                self.extra_again = Some(monotonic_now() + PAUSE);
                let told =
                    || broker_error("no more can be held of the queue than at first; this is tried again", &error);
                self.resized.drain(..).for_each(|answer| drop(answer.send(Err(told()))));
                None
            }
        }
    }
}
