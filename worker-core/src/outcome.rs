//! What happened in a handler.
//!
//! A handler's failure is data, not an error of this library: whatever user
//! code does becomes an [`Outcome`], and one pure function decides what follows.

use std::{error::Error, fmt, time::Duration};

use serde::Serialize;

use crate::{envelope::Body, time::Timestamp};

/// Any error that can travel between threads.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The most bytes of an error's text that travel with a job: what still fits,
/// with all other headers, into one AMQP frame of the smallest allowed size.
pub const FAILURE_BYTES_MAX: usize = 2_048;

/// The most causes of an error that are looked at: more than any real one has.
const CAUSES_MAX: usize = 64;

/// What happened to one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler returned success; and what it returned, where somebody waits for it.
    Completed(Option<Body>),
    /// It failed; another attempt may help.
    Failed {
        /// Why.
        failure: Failure,
        /// The pause the handler asked for, instead of the policy's.
        retry_after: Option<Duration>,
    },
    /// It failed, and another attempt cannot help.
    Rejected(Failure),
    /// Not yet: the handler asked to be called again later.
    Snoozed(Duration),
    /// No handler here has this name. During a rolling deploy another worker may.
    Unknown {
        /// Which name, and what this worker knows instead.
        failure: Failure,
        /// When a worker first saw this job as unknown.
        since: Timestamp,
        /// How long ago that was.
        waited: Duration,
        /// How long to wait before giving up.
        patience: Duration,
    },
    /// This worker is shutting down.
    Interrupted,
}

/// Why a job failed: kept with it through retries and in the dead-letter queue.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failure {
    /// What sort of failure.
    pub kind: FailureKind,
    /// The error's text with its causes, at most [`FAILURE_BYTES_MAX`] bytes.
    pub message: String,
}

impl Failure {
    /// A failure of `kind`; a longer `message` is cut at a character's edge.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > FAILURE_BYTES_MAX {
            let ellipsis = "…";
            let mut end = FAILURE_BYTES_MAX - ellipsis.len();
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push_str(ellipsis);
        }
        Self { kind, message }
    }

    /// A failure whose text is `error` and its causes, joined by `: `.
    pub(crate) fn from_error(kind: FailureKind, error: &(dyn Error + 'static)) -> Self {
        Self::new(kind, chain(error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// The text of `error` and of its causes, joined by `: `.
///
/// Some errors repeat their cause in their own text; it is then left out. The
/// walk ends when the text is long enough, or after [`CAUSES_MAX`] causes: a
/// cycle of causes that repeat each other's text would never make it longer.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = next.filter(|_| text.len() <= FAILURE_BYTES_MAX) else { break };
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What sort of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// Its worker process was gone before the job was settled, as often as is tolerated.
    Crashed,
    /// The handler said that another attempt cannot help.
    Discarded,
    /// The handler returned an error.
    Error,
    /// It was not started before its expiry date.
    Expired,
    /// The handler panicked.
    Panic,
    /// The handler ran longer than the job's timeout.
    TimedOut,
    /// The payload is not what the handler takes.
    Undecodable,
    /// No worker knew the job's name for as long as is tolerated.
    UnknownJob,
    /// Its queue was gone when it became due.
    Unroutable,
}

impl FailureKind {
    /// All kinds, in the order of their names.
    pub const ALL: [Self; 9] = [
        Self::Crashed,
        Self::Discarded,
        Self::Error,
        Self::Expired,
        Self::Panic,
        Self::TimedOut,
        Self::Undecodable,
        Self::UnknownJob,
        Self::Unroutable,
    ];

    /// The kind as it is written in headers, columns, logs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Discarded => "discarded",
            Self::Error => "error",
            Self::Expired => "expired",
            Self::Panic => "panic",
            Self::TimedOut => "timed_out",
            Self::Undecodable => "undecodable",
            Self::UnknownJob => "unknown_job",
            Self::Unroutable => "unroutable",
        }
    }

    /// The kind that is written `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a handler returns: `Ok(value)` or what to do about the failure.
pub type JobResult<T = ()> = Result<T, JobError>;

/// A failed execution, and what should follow.
///
/// Any error becomes one through `?` and means: try again as the job's policy
/// says. The constructors say something else.
///
/// It does not implement [`std::error::Error`], because then `?` could not
/// convert any other error into it; it converts into `Box<dyn Error>` instead,
/// so tests can use `?` on a handler.
///
/// # Examples
///
/// ```
/// use worker_core::prelude::*;
///
/// # fn parse(text: &str) -> JobResult<u32> {
/// let amount: u32 = text.parse().map_err(JobError::discard)?;   // a wrong number stays wrong
/// if amount > 1_000 {
///     return Err(JobError::retry_in(minutes(30), "over the hourly limit"));
/// }
/// # Ok(amount) }
/// # assert!(parse("x").is_err());
/// ```
pub struct JobError(Verdict);

enum Verdict {
    Retry { after: Option<Duration>, source: BoxError },
    Discard(BoxError),
    Snooze(Duration),
}

impl JobError {
    /// It can never succeed: dead-letter it now. `why` is text or any error.
    pub fn discard(why: impl Into<BoxError>) -> Self {
        Self(Verdict::Discard(why.into()))
    }

    /// A failed attempt like any other, but the next one comes after `delay`.
    ///
    /// `delay` is at most [`DELAY_MAX`](crate::retry::DELAY_MAX); a longer one is cut to it.
    pub fn retry_in(delay: Duration, why: impl Into<BoxError>) -> Self {
        Self(Verdict::Retry { after: Some(delay), source: why.into() })
    }

    /// Not yet: run it again after `delay`, and do not count this attempt.
    ///
    /// A job can be put off any number of times; give it an expiry date where
    /// that must end. [`Duration::ZERO`] gives it back at once, which is what a
    /// handler does that stops early because its worker is shutting down; at
    /// any other time a delay is at least 100 ms, so that no job goes round in
    /// a hot loop.
    #[must_use]
    pub const fn snooze(delay: Duration) -> Self {
        Self(Verdict::Snooze(delay))
    }

    /// What this means for the delivery.
    pub(crate) fn into_outcome(self) -> Outcome {
        match self.0 {
            Verdict::Retry { after, source } => {
                Outcome::Failed { failure: Failure::from_error(FailureKind::Error, &*source), retry_after: after }
            }
            Verdict::Discard(source) => Outcome::Rejected(Failure::from_error(FailureKind::Discarded, &*source)),
            Verdict::Snooze(delay) => Outcome::Snoozed(delay),
        }
    }
}

impl<E: Into<BoxError>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self(Verdict::Retry { after: None, source: error.into() })
    }
}

impl From<JobError> for Box<dyn Error> {
    fn from(error: JobError) -> Self {
        error.to_string().into()
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Verdict::Retry { after: None, source } => f.write_str(&chain(&**source)),
            Verdict::Retry { after: Some(delay), source } => {
                write!(f, "{}; retry in {}", chain(&**source), humantime::format_duration(*delay))
            }
            Verdict::Discard(source) => write!(f, "{}; discard", chain(&**source)),
            Verdict::Snooze(delay) => write!(f, "snooze for {}", humantime::format_duration(*delay)),
        }
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobError({self})")
    }
}

/// What a job function may return: `()`, `bool`, or `Result<T, E>` where `T`
/// serializes and `E` is any error.
///
/// A bare `false` is a failure, as in the RabbitMQ tutorial's handlers;
/// `Ok(false)` is success.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a job",
    label = "not a job's result",
    note = "return `()`, `bool`, or `Result<T, E>` where `T` serializes and `E` converts into a boxed error",
    note = "a bare `Box<dyn Error>` cannot leave its thread: write `Box<dyn Error + Send + Sync>`, or return `JobResult`"
)]
pub trait JobReturn {
    /// What a [call](crate::Client::call) of the job is answered with.
    type Reply: Serialize;

    /// The outcome this value stands for.
    ///
    /// # Errors
    ///
    /// What the handler failed with.
    fn into_result(self) -> Result<Self::Reply, JobError>;
}

impl JobReturn for () {
    type Reply = ();

    fn into_result(self) -> Result<(), JobError> {
        Ok(())
    }
}

impl JobReturn for bool {
    type Reply = Self;

    fn into_result(self) -> Result<Self, JobError> {
        if self { Ok(self) } else { Err("the job returned `false`".into()) }
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize, E: Into<JobError>> JobReturn for Result<T, E> {
    type Reply = T;

    fn into_result(self) -> Result<T, JobError> {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    fn outer() -> Outer {
        Outer("x".parse::<u8>().unwrap_err())
    }

    #[test]
    fn any_error_is_a_failure_that_may_be_retried_with_its_causes() {
        let Err(error) = Err::<(), _>(outer()).into_result() else { panic!("an error is a failure") };
        let Outcome::Failed { failure, retry_after: None } = error.into_outcome() else {
            panic!("retried by the policy")
        };
        assert_eq!(failure.to_string(), "error: outer: invalid digit found in string");
    }

    #[test]
    fn a_cycle_of_causes_ends() {
        #[derive(Debug)]
        struct Cyclic;

        impl fmt::Display for Cyclic {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("it is its own cause")
            }
        }

        impl Error for Cyclic {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }

        assert_eq!(chain(&Cyclic), "it is its own cause");
    }

    #[test]
    fn the_constructors_choose_what_follows() {
        let discarded = JobError::discard(outer()).into_outcome();
        assert!(matches!(discarded, Outcome::Rejected(Failure { kind: FailureKind::Discarded, .. })));
        let later = JobError::retry_in(Duration::from_secs(9), "busy").into_outcome();
        assert!(matches!(later, Outcome::Failed { retry_after: Some(d), .. } if d.as_secs() == 9));
        assert_eq!(JobError::snooze(Duration::from_secs(7)).into_outcome(), Outcome::Snoozed(Duration::from_secs(7)));
    }

    #[test]
    fn a_bare_false_is_a_failure_and_ok_false_is_not() {
        assert!(false.into_result().is_err());
        assert!(true.into_result().is_ok());
        assert!(Ok::<_, JobError>(false).into_result().is_ok());
    }

    #[test]
    fn a_long_text_is_cut_at_a_characters_edge() {
        let failure = Failure::new(FailureKind::Error, "ü".repeat(3_000));
        assert!(failure.message.len() <= FAILURE_BYTES_MAX && failure.message.ends_with("ü…"));
    }

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert!(FailureKind::ALL.is_sorted_by_key(|kind| kind.as_str()));
    }
}
