//! Bundles on a line: when all of one is settled, and what goes on of it by itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    Lane, PAUSE,
    lines::{Answer, Errand, Lines},
};
use crate::{
    broker::{Delivery, SettleError, Unsettled},
    brokers::rabbitmq::{
        bundle,
        course::{Held, Line},
        mutant::{self, Mutant},
        wire::Message,
    },
    envelope::Envelope,
    error::BrokerError,
    settlement::Settlement,
    telemetry::TARGET,
};

/// The bundles of one channel of which not all is settled.
#[derive(Default)]
pub(super) struct Bundles(HashMap<u64, Open>);

struct Open {
    jobs: usize,
    open: usize,
    /// Who waits until all of it is settled: nothing of it is before.
    answers: Vec<Answer>,
}

impl Bundles {
    pub(super) fn opened(&mut self, tag: u64, jobs: usize) {
        self.0.insert(tag, Open { jobs, open: jobs, answers: Vec::new() });
    }

    /// So many jobs of `tag` are done with. Where that was all, or no bundle, those who wait for the acknowledgement.
    pub(super) fn done(&mut self, tag: u64, jobs: usize, answer: Option<Answer>) -> Option<Vec<Answer>> {
        let Some(bundle) = self.0.get_mut(&tag) else { return Some(answer.into_iter().collect()) };
        bundle.open = if mutant::is(Mutant::BundleAckedEarly) { 0 } else { bundle.open.saturating_sub(jobs) };
        bundle.answers.extend(answer);
        if bundle.open > 0 {
            return None;
        }
        self.0.remove(&tag).map(|bundle| bundle.answers)
    }

    /// Whether these jobs are all that there ever were in it.
    pub(super) fn is_untouched(&self, tag: u64, jobs: usize) -> bool {
        self.0.get(&tag).is_some_and(|bundle| bundle.jobs == jobs)
    }

    pub(super) fn returned(&mut self, tag: u64) {
        self.0.remove(&tag);
    }
}

/// A job of a bundle that is given back, with who waits for that.
pub(super) struct Released {
    pub(super) delivery: Delivery,
    pub(super) held: Held,
    pub(super) answer: Answer,
}

impl Lane {
    /// Gives back what was released of bundles: of each what came together, in one message.
    pub(super) fn send_released(&self, lines: &mut Lines) {
        let mut released = std::mem::take(&mut lines.released);
        let message = |released: &Released| (released.held.line, released.held.tag);
        released.sort_by_key(|released| (message(released), released.delivery.receipt.part));
        while let Some(first) = released.first().map(message) {
            let others = released.split_off(released.partition_point(|released| message(released) == first));
            let together = std::mem::replace(&mut released, others);
            let messages = rest(together.iter().map(|released| &released.held));
            let (shared, queue) = (Arc::clone(&self.shared), self.queue().clone());
            lines.begin(Box::pin(async move {
                let sends = messages.into_iter().map(|message| shared.send(Line::Main.place(), &queue, message));
                let sent = join_all(sends).await.into_iter().collect();
                (Errand::Release(together), sent)
            }));
        }
    }

    /// What was released is in its queue, or is not.
    pub(super) fn was_released(&self, lines: &mut Lines, released: Vec<Released>, sent: Result<(), BrokerError>) {
        for Released { delivery, held, answer } in released {
            let Err(error) = &sent else {
                lines.finish(held.line, held.tag, answer);
                continue;
            };
            let (error, settlement) = (error.copy(), Settlement::Release { after: Duration::ZERO, note: None });
            let told = if self.table.take_back(delivery.receipt, held) {
                SettleError::Unsettled(Box::new(Unsettled { delivery, settlement, error }))
            } else {
                SettleError::Lost
            };
            drop(answer.send(Err(told)));
        }
    }

    /// Sends each job of a bundle that came back on by itself; the bundle is acknowledged when all are there.
    pub(super) fn scatter(&self, lines: &mut Lines, line: Line, tag: u64, into: Line, messages: Vec<Message>) {
        tracing::warn!(
            target: TARGET, queue = %self.queue(), jobs = messages.len(), suspects = into == Line::Suspects,
            "a bundle of jobs came back unsettled; from now on they travel one by one"
        );
        self.scatter_after(lines, (line, tag, into), messages, None);
    }

    fn scatter_after(
        &self,
        lines: &mut Lines,
        (line, tag, into): (Line, u64, Line),
        messages: Vec<Message>,
        pause: Option<Duration>,
    ) {
        let (shared, queue) = (Arc::clone(&self.shared), self.queue().clone());
        lines.errands.push(Box::pin(async move {
            sleep(pause.unwrap_or_default()).await;
            let sent =
                join_all(messages.iter().map(|message| shared.send(into.place(), &queue, message.clone()))).await;
            let mut told = Ok(());
            let mut left = Vec::new();
            for (message, sent) in messages.into_iter().zip(sent) {
                if let Err(error) = sent {
                    left.push(message);
                    told = Err(error);
                }
            }
            let next = pause.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
            (Errand::Scatter { line, tag, into, left, pause: next }, told)
        }));
    }

    /// Those of a bundle's jobs that are left did not arrive; they are sent again.
    pub(super) fn scattered(
        &self,
        lines: &mut Lines,
        (line, tag, into): (Line, u64, Line),
        (left, pause): (Vec<Message>, Duration),
        sent: &Result<(), BrokerError>,
    ) {
        match sent {
            Ok(()) => {
                lines.finish_message(line, tag);
                if into == Line::Suspects {
                    lines.look.soon();
                }
            }
            Err(error) => {
                tracing::warn!(target: TARGET, queue = %self.queue(), error = error.detail(), ?pause, "jobs of a bundle could not be moved on; trying again");
                self.scatter_after(lines, (line, tag, into), left, Some(pause));
            }
        }
    }
}

/// What carries these jobs of one bundle, and no others.
pub(super) fn rest<'a>(held: impl Iterator<Item = &'a Held>) -> Vec<Message> {
    let (bundles, jobs): (Vec<_>, Vec<&Envelope>) = held.filter_map(Held::bundled).unzip();
    bundles.first().map(|bundle| bundle::rest(bundle, &jobs)).unwrap_or_default()
}
