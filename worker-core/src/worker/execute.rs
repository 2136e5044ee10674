//! Runs one delivery's handler and says what happened.
//!
//! This is the only place where user code runs, so it is the only place that
//! must survive anything user code does: return an error, panic, hang, or
//! receive bytes it cannot decode. Each becomes an [`Outcome`]; none becomes an
//! early return with a delivery left unsettled.
//!
//! The module imports no broker on purpose: settling is decided elsewhere.

use std::{
    any::Any,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};

use crate::{
    envelope::Body,
    handler::{BoxFuture, Context, Invoked},
    outcome::{Failure, FailureKind, Outcome},
    registry::Entry,
    telemetry::TARGET,
    time::monotonic_now,
};

/// An execution that came to its end.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    /// Whether it ever waited for anything.
    pub(crate) has_waited: bool,
    pub(crate) elapsed: Duration,
}

/// What came of calling a handler.
pub(crate) enum Begun {
    /// It ended without waiting for anything.
    Ended(Outcome),
    /// It waits, and is to be gone on with.
    Waits(BoxFuture<Invoked>),
}

/// Runs the job's handler on `body`.
///
/// A job on the blocking pool that runs too long keeps this future, and with
/// it its slot, until its thread returns: a thread cannot be stopped, and
/// settling earlier would let the job run twice at once.
pub(crate) async fn execute(job: Arc<Entry>, body: Body, cx: Context) -> Ran {
    let began = monotonic_now();
    match begin(&job, body, cx).await {
        Begun::Ended(outcome) => Ran { outcome, has_waited: false, elapsed: began.elapsed() },
        Begun::Waits(call) => go_on(&job, call, began, Polled::Here).await,
    }
}

/// Calls the job's handler, and lets it run until it first waits. What waits may be gone on with in another task.
///
/// Resolves at once: it is a future only to know the task.
pub(crate) fn begin(job: &Entry, body: Body, cx: Context) -> impl Future<Output = Begun> {
    let invoke = job.registration.invoke;
    let mut call = Some((body, cx));
    poll_fn(move |task| {
        // A future that has resolved is not polled again.
        let Some((body, cx)) = call.take() else { return Poll::Pending };
        // The call itself is inside, since decoding is user code too; and so is the end of what it leaves behind.
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let mut call = invoke(body, cx);
            match call.as_mut().poll(task) {
                Poll::Ready(invoked) => Begun::Ended(outcome(invoked)),
                Poll::Pending => Begun::Waits(call),
            }
        }));
        Poll::Ready(begun.unwrap_or_else(|panic| Begun::Ended(panicked(panic))))
    })
}

/// Who has polled what is gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    /// This task, right now: it is woken when there is more to do. Polled again at once, a handler that yields to others
    /// would not have done so.
    Here,
    /// Another task, which is not to be woken for it any more.
    Elsewhere,
}

/// Runs what began then to its end, or until it is over its timeout.
pub(crate) async fn go_on(job: &Entry, call: BoxFuture<Invoked>, began: Instant, polled: Polled) -> Ran {
    let outcome = within(job, call, began, polled).await;
    Ran { outcome, has_waited: true, elapsed: began.elapsed() }
}

async fn within(job: &Entry, call: BoxFuture<Invoked>, began: Instant, polled: Polled) -> Outcome {
    let limit = job.registration.options.timeout;
    let run = async move { outcome(call.await) };
    let mut run = pin!(AssertUnwindSafe(run).catch_unwind());
    let mut over = pin!(sleep(limit.saturating_sub(began.elapsed())));
    let mut is_polled = polled == Polled::Here;
    let ended = poll_fn(|task| {
        if !mem::take(&mut is_polled)
            && let Poll::Ready(ended) = run.as_mut().poll(task)
        {
            return Poll::Ready(Some(ended));
        }
        over.as_mut().poll(task).map(|()| None)
    });
    match ended.await {
        Some(Ok(outcome)) => outcome,
        Some(Err(panic)) => panicked(panic),
        None => {
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

fn panicked(panic: Box<dyn Any + Send>) -> Outcome {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let failure = Failure::new(FailureKind::Panic, text.unwrap_or("the handler panicked without a text"));
    // What a handler panics with is its own, and may panic once more when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
    Outcome::Failed { failure, retry_after: None }
}
