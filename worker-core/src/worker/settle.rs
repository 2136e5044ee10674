//! From a settlement to the broker's word that it is true.
//!
//! A settlement that the broker cannot make true now comes back with its
//! delivery and is submitted again, with pauses, for as long as the delivery is
//! ours: letting go of it would be losing what we know. The number of
//! settlements waiting here is bounded by the prefetch.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    broker::{SettleError, Settler, Ticket},
    error::BrokerErrorKind,
    telemetry::TARGET,
    worker::report::{Ending, JobReport},
};

/// The first and the longest pause before a settlement is submitted again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// An execution that ended, with its settlement on its way to the broker.
pub(super) struct Settling {
    pub(super) ticket: Ticket,
    pub(super) settler: Arc<dyn Settler>,
    pub(super) report: JobReport,
    pub(super) cause: Cause,
    pub(super) span: tracing::Span,
}

/// An execution whose settlement is true, or whose job was lost.
pub(super) struct Settled {
    pub(super) report: JobReport,
    pub(super) cause: Cause,
    pub(super) span: tracing::Span,
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

impl Settling {
    /// Waits for the broker's word, submitting again as often as it takes.
    pub(super) async fn settled(self) -> Settled {
        let Self { mut ticket, settler, mut report, cause, span } = self;
        let mut pause = PAUSE.0;
        loop {
            match ticket.await {
                Ok(()) => return Settled { report, cause, span },
                Err(SettleError::Lost) => {
                    report.ending = Ending::Lost;
                    return Settled { report, cause, span };
                }
                Err(SettleError::Unsettled(unsettled)) => {
                    let unsettled = *unsettled;
                    span.in_scope(|| {
                        let error = unsettled.error.detail();
                        if unsettled.error.kind() == BrokerErrorKind::Transient {
                            tracing::warn!(target: TARGET, error, ?pause, "the broker could not be told; trying again");
                        } else {
                            tracing::error!(target: TARGET, error, ?pause, "the broker cannot be told; trying again");
                        }
                    });
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                    ticket = settler.submit(unsettled.delivery, unsettled.settlement);
                }
            }
        }
    }
}
