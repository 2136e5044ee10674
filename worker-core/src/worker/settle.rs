//! From a settlement to the broker's word that it is true.
//!
//! A settlement that the broker cannot make true now comes back with its
//! delivery and is submitted again, with pauses, for as long as the delivery is
//! ours: letting go of it would be losing what we know. The number of
//! settlements waiting here is bounded by the prefetch.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use crate::{
    broker::{SettleError, Settler, Ticket, Unsettled},
    error::BrokerErrorKind,
    telemetry::TARGET,
    worker::report::{Ending, JobReport},
};

/// The first and the longest pause before a settlement is submitted again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// An execution that ended, with its settlement on its way to the broker.
///
/// As a future it waits for the broker's word, submitting again as often as it takes. Written by hand, since each job
/// has one: an `async` block would be one more allocation.
pub(super) struct Settling<T> {
    step: Step,
    settler: Arc<dyn Settler>,
    pause: Duration,
    /// Until it is given out.
    settled: Option<Settled<T>>,
}

enum Step {
    Waits(Ticket),
    /// What is submitted again then.
    Pauses(BoxFuture<'static, Unsettled>),
}

/// An execution whose settlement is true, or whose job was lost.
pub(super) struct Settled<T> {
    pub(super) report: JobReport,
    pub(super) cause: Cause,
    pub(super) span: tracing::Span,
    /// What whoever counts it wants to know it by.
    pub(super) series: T,
}

/// Why the job left this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The handler ended, or the job could not be given to one.
    Ended,
    /// It was never started here.
    Unstarted,
    /// The same: a suspect that comes again when it can be started.
    PutOff,
    /// It was cancelled at the end of the grace period.
    Interrupted,
    /// The same, but its thread still runs.
    Abandoned,
}

impl<T> Settling<T> {
    /// What `settled` will be true of, once the ticket says so.
    pub(super) const fn new(ticket: Ticket, settler: Arc<dyn Settler>, settled: Settled<T>) -> Self {
        Self { step: Step::Waits(ticket), settler, pause: PAUSE.0, settled: Some(settled) }
    }

    /// What the broker said, and whether that was the last word.
    fn hears(&mut self, answer: Result<(), SettleError>) -> bool {
        match answer {
            Ok(()) => return true,
            Err(SettleError::Lost) => {
                if let Some(Settled { report, .. }) = &mut self.settled {
                    report.ending = Ending::Lost;
                }
                return true;
            }
            Err(SettleError::Unsettled(unsettled)) => {
                let (error, pause) = (unsettled.error.detail(), self.pause);
                let span = self.settled.as_ref().map_or_else(tracing::Span::none, |settled| settled.span.clone());
                span.in_scope(|| {
                    if unsettled.error.kind() == BrokerErrorKind::Transient {
                        tracing::warn!(target: TARGET, error, ?pause, "the broker could not be told; trying again");
                    } else {
                        tracing::error!(target: TARGET, error, ?pause, "the broker cannot be told; trying again");
                    }
                });
                self.step = Step::Pauses(Box::pin(async move {
                    sleep(pause).await;
                    *unsettled
                }));
            }
        }
        self.pause = (self.pause * 2).min(PAUSE.1);
        false
    }
}

impl<T: Unpin> Future for Settling<T> {
    type Output = Settled<T>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Settled<T>> {
        loop {
            match &mut self.step {
                Step::Waits(ticket) => {
                    let answer = ready!(Pin::new(ticket).poll(task));
                    if self.hears(answer) {
                        // Whoever polls once more waits for ever, as with any future that is fused.
                        return self.settled.take().map_or(Poll::Pending, Poll::Ready);
                    }
                }
                Step::Pauses(pause) => {
                    let Unsettled { delivery, settlement, .. } = ready!(pause.as_mut().poll(task));
                    self.step = Step::Waits(self.settler.submit(delivery, settlement));
                }
            }
        }
    }
}
