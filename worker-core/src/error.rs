//! The library's errors: one type per thing a caller does.
//!
//! What a handler fails with is not here: it is data, see [`outcome`](crate::outcome).

use std::{fmt, time::Duration};

use crate::{
    envelope::{Body, Route},
    id::JobId,
    job::{InvalidJob, Prepared},
    outcome::{BoxError, Failure, chain},
};

/// What the caller of a broker can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// The delivery is no longer ours. Forget it: someone else has it.
    Lost,
    /// It will fail again the same way. Report it.
    Permanent,
    /// Nothing was changed, and it may work later. Try again, with pauses.
    Transient,
    /// This broker cannot do what was asked. Nothing was done.
    Unsupported,
}

/// A broker could not do something.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    kind: BrokerErrorKind,
    message: String,
    source: Option<BoxError>,
}

impl BrokerError {
    /// An error that says what could not be done, why, and the remedy.
    pub fn new(kind: BrokerErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with its cause; its text is added by [`detail`](Self::detail).
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// The same error once more, for the next job it concerns; its causes become text.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.kind, self.detail())
    }

    /// An `Unsupported` error about the `capability` that is missing.
    pub(crate) fn unsupported(broker: &str, capability: &str, ways_out: &str) -> Self {
        Self::new(
            BrokerErrorKind::Unsupported,
            format!("the {broker} broker does not support {capability}; {ways_out}"),
        )
    }

    /// The message with its causes.
    #[must_use]
    pub fn detail(&self) -> String {
        chain(self)
    }
}

/// Why one envelope of a batch was not enqueued, or may not have been.
#[derive(Debug)]
#[non_exhaustive]
pub enum EnqueueFailure {
    /// It was not enqueued. [`BrokerError::kind`] says whether that may change.
    Refused(BrokerError),
    /// It was not enqueued: its queue does not exist, or its exchange sends it to none.
    Unroutable,
    /// It may or may not be enqueued.
    Unknown(BrokerError),
}

#[cfg(feature = "rabbitmq")]
impl EnqueueFailure {
    /// The same failure once more, for the next job it concerns.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Refused(error) => Self::Refused(error.copy()),
            Self::Unroutable => Self::Unroutable,
            Self::Unknown(error) => Self::Unknown(error.copy()),
        }
    }
}

/// Why a call has no reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallFailure {
    /// Its job was not enqueued, or may not have been.
    NotEnqueued(EnqueueFailure),
    /// The reply cannot come any more.
    Lost(BrokerError),
}

/// What the caller of an enqueue can do about its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnqueueErrorKind {
    /// The job itself is wrong, and nothing was sent. Mend it.
    Invalid,
    /// The broker said no, and will again.
    Refused,
    /// Nothing was enqueued because the broker could not be reached or is full. Try again later.
    Unavailable,
    /// Nothing was enqueued because there is no such queue, or no binding of the exchange takes it.
    Unroutable,
    /// Nothing was enqueued because this broker cannot do what was asked.
    Unsupported,
    /// It may or may not be enqueued. Try again with [`EnqueueError::into_job`],
    /// which has the same id, so that an idempotent handler runs it once.
    Indeterminate,
}

/// A job was not enqueued, or its fate is unknown.
///
/// # Examples
///
/// ```no_run
/// use worker_core::{prelude::*, EnqueueErrorKind};
///
/// # #[job] async fn ping() {}
/// # async fn f(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// match client.enqueue(ping::new()).await {
///     Err(error) if error.kind() == EnqueueErrorKind::Indeterminate => {
///         if let Some(same_job) = error.into_job() {
///             client.enqueue(same_job).await?;
///         }
///     }
///     answer => drop(answer?),
/// }
/// # Ok(()) }
/// ```
#[derive(thiserror::Error)]
#[error("job `{name}` {}{}: {message}", match .job.as_ref().and_then(|job| job.id()) { Some(id) => format!("({id}) "), None => String::new() }, match .kind {
    EnqueueErrorKind::Indeterminate => "may or may not be enqueued",
    _ => "was not enqueued",
})]
pub struct EnqueueError {
    kind: EnqueueErrorKind,
    name: String,
    message: String,
    job: Option<Box<Prepared>>,
    source: Option<BrokerError>,
}

impl EnqueueError {
    pub(crate) fn from_failure(job: Prepared, failure: EnqueueFailure) -> Self {
        let (kind, message, source) = match failure {
            EnqueueFailure::Unroutable => {
                let message = match job.route() {
                    Route::Exchange { name, key, .. } => {
                        format!("exchange `{name}` sends key `{}` to no queue; bind one", key.escape_debug())
                    }
                    Route::Queue(queue) => format!("queue `{queue}` does not exist on the broker"),
                };
                (EnqueueErrorKind::Unroutable, message, None)
            }
            EnqueueFailure::Unknown(error) => (EnqueueErrorKind::Indeterminate, error.detail(), Some(error)),
            EnqueueFailure::Refused(error) => {
                let kind = match error.kind() {
                    BrokerErrorKind::Transient => EnqueueErrorKind::Unavailable,
                    BrokerErrorKind::Unsupported => EnqueueErrorKind::Unsupported,
                    BrokerErrorKind::Permanent | BrokerErrorKind::Lost => EnqueueErrorKind::Refused,
                };
                (kind, error.detail(), Some(error))
            }
        };
        Self { kind, name: job.name().to_string(), message, job: Some(Box::new(job)), source }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> EnqueueErrorKind {
        self.kind
    }

    /// The job's id, unless the job was invalid.
    #[must_use]
    pub fn id(&self) -> Option<&JobId> {
        self.job.as_ref().and_then(|job| job.id())
    }

    /// The job with its id, to be enqueued again, unless it was invalid.
    #[must_use]
    pub fn into_job(self) -> Option<Prepared> {
        self.job.map(|job| *job)
    }
}

impl From<InvalidJob> for EnqueueError {
    fn from(InvalidJob { name, problem }: InvalidJob) -> Self {
        Self { kind: EnqueueErrorKind::Invalid, name, message: problem, job: None, source: None }
    }
}

impl fmt::Debug for EnqueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueError").field("kind", &self.kind).field("message", &self.to_string()).finish()
    }
}

/// A call brought no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The job was not enqueued, or nobody knows: nobody waits for its reply.
    #[error(transparent)]
    NotEnqueued(#[from] EnqueueError),
    /// The job ran and failed, or could not be run: what the worker says about it.
    #[error("call of job `{name}` ({id}) failed: {failure}")]
    Failed {
        /// The job's name.
        name: String,
        /// The job's id.
        id: JobId,
        /// What sort of failure, and its text.
        failure: Failure,
    },
    /// There was no reply in time. The job may have run, may run still, or may wait until it expires.
    #[error("call of job `{name}` ({id}) was not answered within {}; it may have run", humantime::format_duration(*.within))]
    TimedOut {
        /// The job's name.
        name: String,
        /// The job's id.
        id: JobId,
        /// How long it was waited for.
        within: Duration,
    },
    /// The reply cannot come any more: the connection it would have come by was lost, say. The job may have run.
    #[error("the reply to the call of job `{name}` ({id}) was lost, it may have run: {source}")]
    Lost {
        /// The job's name.
        name: String,
        /// The job's id.
        id: JobId,
        /// How.
        source: BrokerError,
    },
    /// The reply is not what the job returns: caller and worker disagree about the type.
    #[error("the reply to the call of job `{name}` ({id}) is not what the job returns: {problem}")]
    Undecodable {
        /// The job's name.
        name: String,
        /// The job's id.
        id: JobId,
        /// What does not fit.
        problem: String,
        /// The reply.
        body: Body,
    },
}

/// The configuration is wrong: all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    pub(crate) fn new(problems: Vec<String>) -> Self {
        debug_assert!(!problems.is_empty());
        Self { problems }
    }

    /// One line per problem, each naming the thing, its value and the fix.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.problems {
            [problem] => f.write_str(problem),
            problems => {
                write!(f, "{} problems:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// A client could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL or another setting is wrong. Mend it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker could not be opened or reached.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// A worker could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Something is wrong with the jobs, their state or the worker's settings. Mend it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker failed in a way that does not pass.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}
