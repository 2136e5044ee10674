//! What a worker tells its owner: how each execution ended, and what a drain left.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    id::JobId,
    name::{JobName, QueueName},
    outcome::{Failure, FailureKind},
    reply::Reply,
    settlement::Settlement,
    telemetry::TARGET,
};

/// Is told about every execution, see [`WorkerBuilder::observe`](crate::WorkerBuilder::observe).
pub type Observer = Arc<dyn Fn(&JobReport) + Send + Sync>;

/// How one execution of a job ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobReport {
    /// The job's id.
    pub id: JobId,
    /// Its type, where the producer named one.
    pub job: Option<JobName>,
    /// The queue it was delivered from.
    pub queue: QueueName,
    /// 1 on the first run.
    pub attempt: u32,
    /// How long the handler ran; zero when it was not started.
    pub elapsed: Duration,
    /// What became of the job.
    pub ending: Ending,
}

impl JobReport {
    /// The one event that closes the execution's span, as the table in [`telemetry`](crate::telemetry) says.
    pub(super) fn log(&self) {
        let elapsed_ms = millis(self.elapsed);
        match &self.ending {
            Ending::Succeeded => tracing::debug!(target: TARGET, elapsed_ms, "job succeeded"),
            Ending::Retried { after, failure } => {
                let (kind, error) = (failure.kind.as_str(), loggable(failure));
                tracing::info!(target: TARGET, elapsed_ms, kind, error, after_ms = millis(*after), "job will be retried");
            }
            Ending::Released { after } => {
                tracing::info!(target: TARGET, elapsed_ms, after_ms = millis(*after), "job released")
            }
            Ending::DeadLettered { failure } => {
                let (kind, error) = (failure.kind.as_str(), loggable(failure));
                tracing::warn!(target: TARGET, elapsed_ms, kind, error, "job dead-lettered");
            }
            Ending::CallFailed { failure } => {
                let (kind, error) = (failure.kind.as_str(), loggable(failure));
                tracing::info!(target: TARGET, elapsed_ms, kind, error, "call failed; its caller is told");
            }
            Ending::Lost => {
                tracing::warn!(target: TARGET, elapsed_ms, "job lost: another worker has it, it may run twice")
            }
        }
    }
}

/// For a log, whose readers compute with it and need no nanoseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A failure's text, without the part of the payload that a decoder's error quotes.
fn loggable(failure: &Failure) -> &str {
    match failure.kind {
        FailureKind::Undecodable => "the payload does not fit the job; `dlq show` has the details",
        _ => &failure.message,
    }
}

/// What became of a job after one execution, as the broker confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It is done.
    Succeeded,
    /// It failed and will be tried again.
    Retried {
        /// Not before this time has passed.
        after: Duration,
        /// Why.
        failure: Failure,
    },
    /// It went back to its queue, the attempt not counted.
    Released {
        /// Not before this time has passed.
        after: Duration,
    },
    /// It is in the dead-letter queue.
    DeadLettered {
        /// Why.
        failure: Failure,
    },
    /// It was a call and failed: its caller is told, and it left its queue.
    CallFailed {
        /// Why.
        failure: Failure,
    },
    /// It was no longer ours when it ended: it may run twice.
    Lost,
}

impl From<Settlement> for Ending {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Ack { reply: Some(Reply::Failed(failure)) } => Self::CallFailed { failure },
            Settlement::Ack { .. } => Self::Succeeded,
            Settlement::Retry { after, failure } => Self::Retried { after, failure },
            Settlement::Release { after, .. } => Self::Released { after },
            Settlement::DeadLetter { failure } => Self::DeadLettered { failure },
        }
    }
}

/// What a worker did, from its start to the end of its drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DrainReport {
    /// Executions that ended and were settled: success, retry or dead letter.
    pub settled: u64,
    /// Deliveries that were given back unstarted, or by the handler's own wish.
    pub released: u64,
    /// Executions that were cancelled at the end of the grace period, and given back.
    pub interrupted: u64,
    /// Executions on the blocking pool that could not be cancelled: given back,
    /// but their threads still run until the process ends.
    pub abandoned: u64,
    /// Executions whose job was no longer ours when they ended: suspected duplicates.
    pub lost: u64,
    /// Settlements that the broker had not confirmed when the time was over. The
    /// broker gives these jobs to another worker when this process has ended.
    pub unsettled: u64,
}

impl DrainReport {
    /// Whether everything that ran could finish.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.interrupted == 0 && self.abandoned == 0 && self.unsettled == 0
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} settled, {} given back", self.settled, self.released)?;
        let rest = [
            (self.interrupted, "cancelled and given back"),
            (self.abandoned, "given back while their threads still run"),
            (self.lost, "lost to another worker"),
            (self.unsettled, "not confirmed by the broker"),
        ];
        rest.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}
