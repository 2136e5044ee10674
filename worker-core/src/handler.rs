//! What a handler is, and what it can ask for.
//!
//! `#[job]` writes a [`Handler`] for the function it stands on. A worker knows
//! handlers through [`Registration`], where their type is forgotten: decoding,
//! conversion and boxing happen here, generically, so that the macro stays small.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    envelope::{Body, Headers},
    id::JobId,
    job::{Job, JobOptions},
    name::{JobName, QueueName},
    outcome::{JobError, JobResult, JobReturn},
    reply,
    time::{Timestamp, monotonic_now},
};

/// A job that can be run here. Apart from [`Job`], so that a producer can have that alone.
pub trait Handler: Job {
    /// The function blocks its thread: it runs on the blocking pool and cannot be cancelled.
    const BLOCKING: bool = false;
    /// The payload's parts, for the command line.
    const ARGUMENTS: Arguments = Arguments::Whole(type_name_hint());
    /// The first line of the function's documentation, for the command line.
    const SUMMARY: &'static str = "";

    /// What the worker must have been given for this handler.
    fn requirements() -> Vec<Requirement> {
        Vec::new()
    }

    /// Runs the job. `Err` when something it needs could not be supplied.
    ///
    /// Quick jobs may share a task of the runtime, and one that waits may go on in another: `tokio::task::id()` does not
    /// tell one job from another, and a future written by hand must wake whoever polled it last, as `Future` demands.
    ///
    /// # Cancel safety
    ///
    /// The worker drops the future at the job's timeout and at the end of the
    /// grace period, at any of its awaits: what it has done by then stays done,
    /// and the job is run again. One on the blocking pool is never dropped.
    fn run(self, cx: Context) -> impl Future<Output = JobResult<Self::Return>> + Send;
}

const fn type_name_hint() -> &'static str {
    "JSON"
}

/// What a payload is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arguments {
    /// An object with these fields.
    Named(&'static [Argument]),
    /// One value of this type.
    Whole(&'static str),
}

/// One field of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// The field's name in the payload.
    pub name: &'static str,
    /// Its type, as the source has it.
    #[serde(rename = "type")]
    pub type_text: &'static str,
    /// Whether it must be given.
    pub required: bool,
}

/// Something a handler takes that is not payload: the worker supplies it.
///
/// Implemented by [`State<T>`] and [`Context`]; implement it for an extractor
/// of your own and mark the argument `#[supplied]`.
///
/// # Examples
///
/// ```
/// use worker_core::{Requirement, prelude::*};
///
/// struct Tenant(String);
///
/// impl Supplied for Tenant {
///     fn supply(cx: &Context) -> JobResult<Self> {
///         let tenant = cx.header("tenant").and_then(|value| value.as_str());
///         Ok(Tenant(tenant.ok_or_else(|| JobError::discard("no `tenant` header"))?.to_owned()))
///     }
/// }
///
/// #[job]
/// async fn bill(amount: u64, #[supplied] tenant: Tenant) {}
/// # fn main() {}
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be supplied to a job",
    note = "implement `worker_core::Supplied` for it, or remove `#[supplied]` to make it part of the payload"
)]
pub trait Supplied: Sized + Send + 'static {
    /// What the worker must have been given, checked before it starts.
    #[must_use]
    fn requirements() -> Vec<Requirement> {
        Vec::new()
    }

    /// Takes it from the context.
    ///
    /// # Errors
    ///
    /// It cannot be had for this job; the attempt fails with this error.
    fn supply(cx: &Context) -> JobResult<Self>;
}

/// State that a handler needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: TypeId,
    type_name: &'static str,
}

impl Requirement {
    /// State of type `T`.
    #[must_use]
    pub fn state<T: ?Sized + Send + Sync + 'static>() -> Self {
        Self { key: TypeId::of::<Arc<T>>(), type_name: type_name::<T>() }
    }

    /// The name of the type.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        self.type_name
    }
}

/// State that was given to the worker: shared, and reached as if it were a `&T`.
///
/// # Examples
///
/// ```
/// use worker_core::prelude::*;
///
/// struct Mailer;
/// impl Mailer {
///     async fn send(&self, to: u64) -> Result<(), std::io::Error> { Ok(()) }
/// }
///
/// #[job]
/// async fn send_welcome(user_id: u64, mailer: State<Mailer>) -> JobResult {
///     mailer.send(user_id).await?;
///     Ok(())
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// // In a test the function is called like any other.
/// send_welcome(42, State::new(Mailer)).await.unwrap();
/// # });
/// ```
pub struct State<T: ?Sized> {
    // Named, so that `state.0` reaches the first field of the user's own type.
    value: Arc<T>,
}

impl<T> State<T> {
    /// State around `value`, for calling a job function directly.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { value: Arc::new(value) }
    }
}

impl<T: ?Sized> State<T> {
    /// The shared value.
    #[must_use]
    pub fn into_arc(self) -> Arc<T> {
        self.value
    }
}

impl<T: ?Sized> From<Arc<T>> for State<T> {
    fn from(value: Arc<T>) -> Self {
        Self { value }
    }
}

impl<T: ?Sized> Clone for State<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value) }
    }
}

impl<T: ?Sized> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> fmt::Debug for State<T> {
    /// Without the value: state holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State<{}>", type_name::<T>())
    }
}

impl<T: ?Sized + Send + Sync + 'static> Supplied for State<T> {
    fn requirements() -> Vec<Requirement> {
        vec![Requirement::state::<T>()]
    }

    fn supply(cx: &Context) -> JobResult<Self> {
        cx.state::<T>().map(Into::into)
    }
}

/// The whole body as one value, in place of named arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload<T>(pub T);

impl<T> Deref for Payload<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// State by type.
#[derive(Clone, Default)]
pub(crate) struct States(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl States {
    pub(crate) fn insert<T: ?Sized + Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.0.insert(TypeId::of::<Arc<T>>(), (type_name::<T>(), Arc::new(value)));
    }

    pub(crate) fn insert_missing<T: ?Sized + Send + Sync + 'static>(&mut self, value: Arc<T>) {
        if !self.satisfies(&Requirement::state::<T>()) {
            self.insert(value);
        }
    }

    pub(crate) fn satisfies(&self, requirement: &Requirement) -> bool {
        self.0.contains_key(&requirement.key)
    }

    pub(crate) fn type_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.0.values().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    fn find<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let (_, value) = self.0.get(&TypeId::of::<Arc<T>>())?;
        value.downcast_ref::<Arc<T>>().cloned()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.type_names()).finish()
    }
}

/// What a handler can know about the job it runs and the worker it runs in.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

/// [`Context`] under the name that does not collide with `anyhow::Context`.
pub type JobContext = Context;

#[derive(Clone)]
struct Inner {
    parts: ContextParts,
    deadline: Instant,
}

/// What a context is made from, by the worker for each execution.
#[derive(Clone)]
pub(crate) struct ContextParts {
    pub(crate) id: JobId,
    pub(crate) job: JobName,
    pub(crate) queue: QueueName,
    pub(crate) attempt: u32,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) timeout: Duration,
    pub(crate) headers: Headers,
    pub(crate) is_call: bool,
    pub(crate) stopping: CancellationToken,
    pub(crate) states: Arc<States>,
}

impl Context {
    pub(crate) fn new(parts: ContextParts) -> Self {
        let deadline = monotonic_now() + parts.timeout;
        Self { inner: Arc::new(Inner { parts, deadline }) }
    }

    /// The same context with some of its parts changed.
    #[cfg(feature = "testing")]
    pub(crate) fn with(mut self, change: impl FnOnce(&mut ContextParts)) -> Self {
        change(&mut Arc::make_mut(&mut self.inner).parts);
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn into_parts(self) -> ContextParts {
        self.inner.parts.clone()
    }

    /// The job's id: the same on every attempt. What an idempotent handler remembers.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.inner.parts.id.clone()
    }

    /// The name of the job's type.
    #[must_use]
    pub fn job(&self) -> &JobName {
        &self.inner.parts.job
    }

    /// The queue it was delivered from: of a queue with shards the shard, `orders.shard-3` say, whose queue
    /// [`shard::whole`](crate::shard::whole) tells.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.inner.parts.queue
    }

    /// 1 on the first run; executions that were released do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.parts.attempt
    }

    /// When the job was enqueued first.
    #[must_use]
    pub fn enqueued_at(&self) -> Timestamp {
        self.inner.parts.enqueued_at
    }

    /// A header that was given at the enqueue.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&serde_json::Value> {
        self.inner.parts.headers.get(name)
    }

    /// Whether somebody waits for what this job returns.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.inner.parts.is_call
    }

    /// When this attempt's time is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// How much of this attempt's time is left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.inner.deadline.saturating_duration_since(monotonic_now())
    }

    /// Cancelled when the worker begins to shut down.
    ///
    /// Finish within the grace period, or return
    /// [`JobError::snooze(Duration::ZERO)`](JobError::snooze) to be given back.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        // A child, so that nobody can stop the worker through it.
        self.inner.parts.stopping.child_token()
    }

    /// Whether a long loop should end now: the worker is shutting down or the time is over.
    ///
    /// For jobs on the blocking pool, which nobody can cancel.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.inner.parts.stopping.is_cancelled() || self.remaining().is_zero()
    }

    /// State that was given to the worker.
    ///
    /// # Errors
    ///
    /// None of this type was given. A `State<T>` argument is checked before the
    /// worker starts; this call is not.
    pub fn state<T: ?Sized + Send + Sync + 'static>(&self) -> JobResult<Arc<T>> {
        self.inner.parts.states.find().ok_or_else(|| {
            let (wanted, given) = (type_name::<T>(), self.inner.parts.states.type_names());
            JobError::from(format!("no state of type `{wanted}` was given to the worker; given: {given:?}"))
        })
    }

    /// Something that the worker supplies.
    ///
    /// # Errors
    ///
    /// It cannot be had for this job.
    pub fn supply<T: Supplied>(&self) -> JobResult<T> {
        T::supply(self)
    }
}

impl Supplied for Context {
    fn supply(cx: &Context) -> JobResult<Self> {
        Ok(cx.clone())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.inner.parts.id)
            .field("job", &self.inner.parts.job)
            .field("queue", &self.inner.parts.queue)
            .field("attempt", &self.inner.parts.attempt)
            .finish_non_exhaustive()
    }
}

/// A future on the heap.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What came of handing a body to a handler.
pub(crate) enum Invoked {
    /// The body is not what the handler takes.
    Undecodable(String),
    /// The handler ran; and what it returned, where somebody waits for it.
    Ran(JobResult<Option<Body>>),
}

/// A handler whose type is forgotten, with where it was written.
#[derive(Clone, Copy)]
pub struct Registration {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) options: JobOptions,
    pub(crate) blocking: bool,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "for the command line"))]
    pub(crate) arguments: Arguments,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "for the command line"))]
    pub(crate) summary: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) requirements: fn() -> Vec<Requirement>,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "for the command line"))]
    pub(crate) check: fn(&[u8]) -> Result<(), serde_json::Error>,
    pub(crate) invoke: fn(Body, Context) -> BoxFuture<Invoked>,
}

impl Registration {
    /// The registration of `J`, which was written at `file:line`.
    ///
    /// What is here is compiled for each job of an application: a `match` costs it less than a closure.
    #[must_use]
    pub const fn new<J: Handler>(file: &'static str, line: u32) -> Self {
        Self {
            name: J::NAME,
            queue: J::QUEUE,
            options: J::OPTIONS,
            blocking: J::BLOCKING,
            arguments: J::ARGUMENTS,
            summary: J::SUMMARY,
            file,
            line,
            requirements: J::requirements,
            check: |body| match decode::<J>(body) {
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
            invoke: |body, cx| {
                Box::pin(async move {
                    match decode::<J>(&body.0) {
                        Err(error) => Invoked::Undecodable(error.to_string()),
                        Ok(job) => {
                            let is_call = cx.is_call();
                            Invoked::Ran(match job.run(cx).await {
                                Ok(returned) => returned_by(returned, is_call),
                                Err(error) => Err(error),
                            })
                        }
                    }
                })
            },
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job `{}` of queue `{}` at {}:{}", self.name, self.queue, self.file, self.line)
    }
}

/// What a handler that returned this did, and its value where somebody waits for it.
fn returned_by<R: JobReturn>(returned: R, is_call: bool) -> JobResult<Option<Body>> {
    let value = returned.into_result()?;
    let reply = is_call.then(|| reply::encode(&value)).transpose();
    reply.map_err(JobError::discard)
}

/// Reads a payload. A job without arguments is content with `{}`, `null` and an empty body.
fn decode<J: DeserializeOwned>(body: &[u8]) -> Result<J, serde_json::Error> {
    match serde_json::from_slice(body) {
        Err(error) if matches!(body.trim_ascii(), b"" | b"null") => match serde_json::from_slice(b"{}") {
            Ok(job) => Ok(job),
            Err(_) => Err(error),
        },
        decoded => decoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Nothing {}

    #[test]
    fn a_job_without_arguments_is_content_with_nothing() {
        for body in [&b"{}"[..], b"null", b"", b" \n"] {
            assert!(decode::<Nothing>(body).is_ok(), "{body:?}");
        }
        assert!(decode::<Nothing>(b"7").is_err());
    }

    #[test]
    fn an_empty_body_is_no_payload_for_a_job_with_arguments() {
        #[derive(Debug, Deserialize)]
        struct One {
            #[expect(dead_code, reason = "only decoded")]
            n: u8,
        }
        let error = decode::<One>(b"").unwrap_err();
        assert!(error.is_eof(), "the first error is the one to report: {error}");
    }

    #[test]
    fn state_of_a_trait_is_found_by_the_trait() {
        let mut states = States::default();
        states.insert::<dyn fmt::Debug + Send + Sync>(Arc::new(7));
        states.insert::<str>("text".into());
        assert!(states.satisfies(&Requirement::state::<dyn fmt::Debug + Send + Sync>()));
        assert!(!states.satisfies(&Requirement::state::<String>()));
        assert_eq!(&*states.find::<str>().unwrap(), "text");
    }
}
