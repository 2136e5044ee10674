//! Calling: a job whose reply is waited for.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

use crate::{
    client::{Client, declared::Missing},
    envelope::{Body, Caller},
    error::{CallError, CallFailure, EnqueueError, EnqueueFailure},
    id::JobId,
    job::{Enqueue, Enqueueable as _, InvalidJob, Job},
    outcome::JobReturn,
    reply::Reply,
    retry::DELAY_MAX,
    time::monotonic_now,
};

/// How long a call waits for its reply when it does not say: 30 s. Longer than the restart of a worker,
/// shorter than the patience of what usually stands before the caller, a load balancer's 60 s.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// How much later than its caller's patience a call expires: the caller's clock and the worker's may
/// differ by this much before a call is taken for expired that is waited for.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// What a call of `J` is answered with.
type Returned<J> = <<J as Job>::Return as JobReturn>::Reply;

/// A call that is made when it is awaited: see [`Client::call`].
///
/// # Errors
///
/// What awaiting it fails with, [`CallError`]: `NotEnqueued` — nothing waits in the queue, or nobody knows;
/// `Failed` — the worker's answer; `TimedOut`, `Lost` — it may have run; `Undecodable` — it ran, and returned
/// something else.
///
/// # Cancel safety
///
/// Dropping it forgets the call. The job may or may not be enqueued, and runs if it is.
#[must_use = "nothing is called until it is awaited"]
pub struct Call<J> {
    client: Client,
    job: Enqueue<J>,
    within: Result<Duration, String>,
    retries: bool,
}

/// How long a call waits: a [`Duration`], or text as `"5s"` or `"1m 30s"`.
///
/// From 1 ms to 366 days; more is cut, and what is no time is the call's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTimeout(Result<Duration, String>);

impl From<Duration> for CallTimeout {
    fn from(within: Duration) -> Self {
        Self(Ok(within))
    }
}

impl From<&str> for CallTimeout {
    fn from(text: &str) -> Self {
        let problem = |error| format!("its timeout is `{}`: {error}; write `5s` or `1m 30s`", text.escape_debug());
        Self(humantime::parse_duration(text).map_err(problem))
    }
}

impl<J: Job> Call<J> {
    pub(super) const fn new(client: Client, job: Enqueue<J>) -> Self {
        Self { client, job, within: Ok(CALL_TIMEOUT_DEFAULT), retries: false }
    }

    /// Waits this long; [`CALL_TIMEOUT_DEFAULT`] without it.
    pub fn timeout(mut self, within: impl Into<CallTimeout>) -> Self {
        self.within = within.into().0;
        self
    }

    /// Tried again as the job's options say, and answered when that is over; without it the first failure
    /// is the answer. The pauses between attempts come out of the timeout.
    pub const fn retries(mut self) -> Self {
        self.retries = true;
        self
    }

    async fn made(self) -> Result<Returned<J>, CallError>
    where
        Returned<J>: DeserializeOwned,
    {
        let Self { client, job, within, retries } = self;
        let within = checked(within).map_err(|problem| invalid::<J>(problem))?;
        let asked = job.for_caller(within.saturating_add(CLOCKS_DIFFER)).map_err(|problem| invalid::<J>(problem))?;
        let mut prepared = asked.prepare().map_err(EnqueueError::from)?;
        prepared.choose_shard(|queue, shards| client.inner.turns.next(queue, shards));
        let (deadline, options) = (monotonic_now() + within, client.inner.options);
        let stamped = prepared.stamp(client.inner.clock.now(), JobId::new, options.payload_bytes_max);
        let mut envelope = stamped.map_err(EnqueueError::from)?;
        envelope.caller = Some(Caller { address: String::new(), correlation: String::new(), retries });
        let (name, id) = (J::NAME.to_owned(), envelope.id.clone());
        let mut missing = Missing::default();
        client.inner.declared.note(&prepared, &mut missing);
        // Enqueueing has its own limit, which is the shorter one as a rule and says more.
        let until = deadline.min(monotonic_now() + options.enqueue_timeout);
        let told = timeout_at(until, client.inner.declared.declare(&*client.inner.broker, &missing)).await;
        let refused = told.unwrap_or_else(|_| Err(client.no_answer())).map(|mut refused| refused.pop().flatten());
        if let Some(error) = refused.unwrap_or_else(Some) {
            return Err(EnqueueError::from_failure(prepared, EnqueueFailure::Refused(error)).into());
        }
        match timeout_at(deadline, client.inner.broker.call(envelope)).await {
            Ok(Ok(reply)) => {
                client.inner.meter.enqueued(prepared.name(), prepared.queue());
                read::<J>(reply, name, id)
            }
            Ok(Err(CallFailure::Lost(source))) => Err(CallError::Lost { name, id, source }),
            Ok(Err(CallFailure::NotEnqueued(failure))) => {
                if matches!(failure, EnqueueFailure::Unroutable) {
                    client.inner.declared.forget();
                }
                Err(EnqueueError::from_failure(prepared, failure).into())
            }
            Err(_) => Err(CallError::TimedOut { name, id, within }),
        }
    }
}

fn checked(within: Result<Duration, String>) -> Result<Duration, String> {
    match within? {
        within if within < Duration::from_millis(1) => Err("its timeout is below 1 ms: nothing answers so soon".into()),
        within => Ok(within.min(DELAY_MAX)),
    }
}

fn invalid<J: Job>(problem: String) -> EnqueueError {
    InvalidJob::new(J::NAME, problem).into()
}

/// The value that the reply brings.
fn read<J: Job>(reply: Reply, name: String, id: JobId) -> Result<Returned<J>, CallError>
where
    Returned<J>: DeserializeOwned,
{
    match reply {
        Reply::Failed(failure) => Err(CallError::Failed { name, id, failure }),
        Reply::Returned(body) => match serde_json::from_slice(value_of(&body)) {
            Ok(value) => Ok(value),
            Err(error) => Err(CallError::Undecodable { name, id, problem: error.to_string(), body }),
        },
    }
}

/// Nothing is what a program in another language may answer where there is nothing to say.
fn value_of(body: &Body) -> &[u8] {
    match body.0.trim_ascii() {
        b"" => b"null",
        value => value,
    }
}

impl<J: Job> IntoFuture for Call<J>
where
    Returned<J>: DeserializeOwned,
{
    type Output = Result<Returned<J>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.made())
    }
}

impl<J> fmt::Debug for Call<J> {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("within", &self.within).field("retries", &self.retries).finish_non_exhaustive()
    }
}
