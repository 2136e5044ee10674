//! Whether a delivery can be given to a handler at all. Pure.

use std::{sync::Arc, time::Duration};

use crate::{
    broker::Delivery,
    outcome::{Failure, FailureKind, Outcome},
    registry::{Entry, Registry},
    retry::RetryPolicy,
    time::Timestamp,
};

/// What to do with a delivery whose turn has come.
pub(crate) enum Admission<'a> {
    /// Run this handler.
    Run(&'a Arc<Entry>),
    /// Start nothing: this is the outcome, under the policy of the job's type.
    Refuse(Outcome, RetryPolicy),
}

/// Sees that the job is known here, where `entry` is what the registry has for it, that it has not expired and is not
/// too large.
pub(crate) fn admit<'a>(
    delivery: &Delivery,
    entry: Option<&'a Arc<Entry>>,
    registry: &Registry,
    now: Timestamp,
    unknown_job_patience: Duration,
    payload_bytes_max: usize,
) -> Admission<'a> {
    // First, whoever knows it: nobody wants it any more.
    if let Some(date) = delivery.envelope.expires_at.filter(|date| *date <= now) {
        let failure = Failure::new(FailureKind::Expired, format!("it was not started before it expired at {date}"));
        return Admission::Refuse(Outcome::Rejected(failure), RetryPolicy::DEFAULT);
    }
    let Some(entry) = entry else {
        let outcome = unknown(delivery, registry, now, unknown_job_patience);
        return Admission::Refuse(outcome, RetryPolicy::DEFAULT);
    };
    // Before it is read: whoever may publish must not choose how much memory that takes.
    let bytes = delivery.envelope.body.0.len();
    if bytes > payload_bytes_max {
        let what = format!(
            "its payload has {bytes} bytes; this worker takes up to {payload_bytes_max}, which WORKER_PAYLOAD_MAX changes"
        );
        let failure = Failure::new(FailureKind::Undecodable, what);
        return Admission::Refuse(Outcome::Rejected(failure), RetryPolicy::DEFAULT);
    }
    Admission::Run(entry)
}

fn unknown(delivery: &Delivery, registry: &Registry, now: Timestamp, patience: Duration) -> Outcome {
    let known = registry.names().join(", ");
    let message = match &delivery.envelope.name {
        Some(name) => format!("no worker knows a job called `{name}`; this one knows: {known}"),
        None => format!("it has no job name, and queue `{}` has not just one job; known: {known}", delivery.queue),
    };
    // A date to come, from another program, would be waited for without end.
    let since = delivery.envelope.unknown_since.unwrap_or(now).min(now);
    let failure = Failure::new(FailureKind::UnknownJob, message);
    Outcome::Unknown { failure, since, waited: now.since(since), patience }
}
