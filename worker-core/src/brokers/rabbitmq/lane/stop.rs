//! The end of a subscription: what was not started goes back unmarked.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    COMMANDS_MAX, Lane, Left, TAG, bundles,
    lines::{Errand, LineState, Lines, next_message},
};
use crate::{
    brokers::rabbitmq::{
        course::{self, Held, Line, Step},
        link::{LinkError, LinkErrorKind},
        mutant::{self, Mutant},
    },
    telemetry::TARGET,
    time::monotonic_now,
};

/// How long giving back may take at a stop; what is not back by then comes back with the connection's end.
const GIVE_BACK_WAIT_MAX: Duration = Duration::from_secs(4);

/// How long, at least and at most, nothing must arrive until nothing is on its way: several times
/// what a delivery takes. A server that declares queues meanwhile, as for another worker that starts, pauses for more
/// than 50 ms.
const QUIET: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(500));

/// How long a stop waits at most for that: jobs that come now and then would go on for ever, and what runs could not be
/// acknowledged meanwhile.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// How long, for a server that answered a question asked at `asked` just now: a busy one takes longer for everything.
pub(super) fn quiet_after(asked: Instant) -> Duration {
    (asked.elapsed() * 5).clamp(QUIET.0, QUIET.1)
}

impl Lane {
    /// Takes no more, and gives back what was fetched and not returned.
    pub(super) async fn stop(&mut self, lines: &mut Lines) -> Result<(), LinkError> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        let deadline = monotonic_now() + GIVE_BACK_WAIT_MAX;
        // A server that stands still must not hold up the end.
        let silent = |_| Err(LinkError::new(LinkErrorKind::Gone, "no answer to the end of consuming"));
        timeout_at(deadline, self.settle_down(lines)).await.unwrap_or_else(silent)?;
        timeout_at(deadline, lines.main.channel.cancel(TAG)).await.unwrap_or_else(silent)?;
        timeout_at(deadline, lines.extras.cancel()).await.unwrap_or_else(silent)?;
        for (line, incoming) in lines.extras.rest().await {
            self.arrived(lines, line, incoming);
        }
        // What was on its way still comes, and then the stream ends.
        while let Ok(Some(Ok(incoming))) = timeout_at(deadline, lines.messages.next()).await {
            self.arrived(lines, Line::Main, incoming);
        }
        lines.messages = stream::pending().boxed();
        // A suspect that was asked for comes, too.
        if let Ok(Ok(Some(incoming))) = timeout_at(deadline, lines.look.last()).await {
            self.arrived(lines, Line::Suspects, incoming);
        }
        let mut unstarted = self.table.take_fetched();
        unstarted.sort_by_key(|held| (held.line, held.tag));
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
        let barriers: Vec<_> = lines.extras.iter().map(|extra| extra.state.channel.barrier()).collect();
        for barrier in barriers {
            barrier.await?;
        }
        let quiet = quiet_after(asked);
        let at_most = monotonic_now() + SETTLE_MAX;
        while !lines.is_full(prefetch) && monotonic_now() < at_most {
            let Ok((line, message)) = timeout(quiet, next_message(&mut lines.messages, &mut lines.extras)).await else {
                return Ok(());
            };
            self.received(lines, line, message)?;
        }
        Ok(())
    }

    /// Gives deliveries back, all at once, and waits until they are.
    async fn give_back(&self, lines: &mut Lines, held: Vec<Held>, deadline: Instant) -> Result<(), LinkError> {
        let mut open = 0;
        // The jobs of one message together.
        for held in held.chunk_by(|one, next| (one.line, one.tag) == (next.line, next.tag)) {
            let [first, ..] = held else { continue };
            let (line, tag) = (first.line, first.tag);
            if mutant::is(Mutant::DroppedOnShutdown) {
                lines.finish_jobs(line, tag, held.len(), None);
                continue;
            }
            let is_untouched = |state: &mut LineState| state.bundles.is_untouched(tag, held.len());
            let is_whole = first.bundled().is_none() || lines.state(line).is_some_and(is_untouched);
            if is_whole && self.shared.nack_is_free(line, self.queue()) {
                lines.requeue(line, tag).await?;
                continue;
            }
            let messages = match course::give_back(first, false) {
                Step::Publish(_, message) if first.bundled().is_none() => vec![message],
                _ => bundles::rest(held.iter()),
            };
            // All of them, or what is left is given back with the end of the channel, once more.
            let each = held.len() / messages.len().max(1);
            for message in messages {
                let errand = Errand::GiveBack { line, tag, jobs: each };
                // Begun in their order, so that they keep it among themselves.
                lines.send(&self.shared, self.queue(), line.place(), message, errand);
                open += 1;
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
    pub(super) async fn end(&mut self, mut lines: Lines, closing: bool) -> Left {
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
        // Tags are counted by channel, and each line has its own.
        owned.sort_by_key(|held| (held.line, held.tag));
        self.give_back(lines, owned, deadline).await?;
        lines.seen(deadline).await
    }
}
