//! Runs one delivery's handler and says what happened.
//!
//! This is the only place where user code runs, so it is the only place that
//! must survive anything user code does: return an error, panic, hang, or
//! receive bytes it cannot decode. Each becomes an [`Outcome`]; none becomes an
//! early return with a delivery left unsettled.
//!
//! The module imports no broker on purpose: settling is decided elsewhere.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::timeout;

use crate::{
    envelope::Body,
    handler::{Context, Invoked},
    outcome::{Failure, FailureKind, Outcome},
    registry::Entry,
    telemetry::TARGET,
};

/// Runs the job's handler on `body`.
///
/// A job on the blocking pool that runs too long keeps this future, and with
/// it its slot, until its thread returns: a thread cannot be stopped, and
/// settling earlier would let the job run twice at once.
pub(crate) async fn execute(job: Arc<Entry>, body: Body, cx: Context) -> Outcome {
    let (invoke, limit) = (job.registration.invoke, job.registration.options.timeout);
    // The call itself is inside, since decoding is user code too.
    let run = async move { invoke(body, cx).await };
    let mut run = pin!(AssertUnwindSafe(run).catch_unwind());
    match timeout(limit, &mut run).await {
        Ok(Ok(invoked)) => outcome(invoked),
        Ok(Err(panic)) => panicked(&*panic),
        Err(_) => {
            if job.registration.blocking {
                tracing::warn!(target: TARGET, timeout = ?limit, "job ran too long; its slot stays taken until its thread returns");
                drop(run.await);
            }
            timed_out(limit)
        }
    }
}

fn outcome(invoked: Invoked) -> Outcome {
    match invoked {
        Invoked::Ran(Ok(value)) => Outcome::Completed(value),
        Invoked::Ran(Err(error)) => error.into_outcome(),
        Invoked::Undecodable(why) => Outcome::Rejected(Failure::new(
            FailureKind::Undecodable,
            format!("the payload does not fit the job: {why}"),
        )),
    }
}

fn timed_out(limit: Duration) -> Outcome {
    let message = format!("it ran longer than its timeout of {}", humantime::format_duration(limit));
    Outcome::Failed { failure: Failure::new(FailureKind::TimedOut, message), retry_after: None }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let failure = Failure::new(FailureKind::Panic, text.unwrap_or("the handler panicked without a text"));
    Outcome::Failed { failure, retry_after: None }
}
