//! Enqueueing: from a job to an answer that can be relied on.
//!
//! `Ok` is said when the broker has made the job durable, never before. What
//! is not `Ok` says which of three things is true: nothing was enqueued and
//! why, nothing was enqueued for now, or nobody can know.

mod call;
mod declared;
mod health;
mod many;
mod meter;
mod publish;
mod shards;

use std::{
    collections::HashSet,
    fmt, mem,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use crate::{
    broker::{BATCH_MAX, Broker, Declared, Topology},
    client::{
        declared::{DeclaredQueues, Missing},
        meter::Meter,
        shards::Turns,
    },
    envelope::{Envelope, PAYLOAD_BYTES_MAX},
    error::{BrokerError, BrokerErrorKind, EnqueueError, EnqueueFailure},
    id::JobId,
    job::{Enqueue, Enqueueable, InvalidJob, Job, Prepared},
    name::ExchangeName,
    time::{Clock, SystemClock, monotonic_now},
};

pub use call::{CALL_TIMEOUT_DEFAULT, Call, CallTimeout};
#[cfg(feature = "cli")]
pub(crate) use health::fill_running;
pub use health::{HEALTH_WAIT_DEFAULT, Health, HealthCheck, Presence, QueueHealth};
pub use many::EnqueueAll;

/// How long an enqueue waits for the broker's answer before it says that it does not know.
///
/// 10 s: longer than a slow disk or a failover, shorter than a web request's patience.
pub const ENQUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The most payload bytes in one batch: with [`BATCHES_IN_FLIGHT`] it bounds the memory of
/// [`Client::enqueue_all`] and [`Client::enqueue_stream`] to about 8 MiB and one payload.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// How much longer than a broker with a limit of its own an enqueue waits for what that broker says.
const MARGIN: Duration = Duration::from_secs(1);

/// Batches on their way at once: one is written while the next are prepared.
const BATCHES_IN_FLIGHT: usize = 4;

/// Enqueues jobs. Cheap to clone and safe to share: an application has one, for its whole life.
///
/// # Examples
///
/// ```
/// use worker_core::{Client, prelude::*};
///
/// #[job]
/// async fn greet(name: String) {}
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("memory:").await?;
/// let enqueued = client.enqueue(greet::new("Ada").delay(minutes(5))).await?;
/// println!("job {} is durable", enqueued.id);
/// # Ok(()) }
/// # fn main() { tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap() }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    options: ClientOptions,
    declared: DeclaredQueues,
    /// Exchanges that events were published to.
    exchanges: Mutex<HashSet<ExchangeName>>,
    /// Held while an exchange is declared.
    exchanges_turn: tokio::sync::Mutex<()>,
    turns: Turns,
    meter: Meter,
}

/// Limits of a [`Client`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long to wait for the broker's answer.
    pub enqueue_timeout: Duration,
    /// The largest payload in bytes, of what is enqueued and of what a worker with this client runs.
    pub payload_bytes_max: usize,
}

impl Default for ClientOptions {
    /// [`ENQUEUE_TIMEOUT_DEFAULT`] and [`PAYLOAD_BYTES_MAX`].
    fn default() -> Self {
        Self { enqueue_timeout: ENQUEUE_TIMEOUT_DEFAULT, payload_bytes_max: PAYLOAD_BYTES_MAX }
    }
}

/// A job that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The job's id.
    pub id: JobId,
}

impl Client {
    /// A client of `broker`, for one that was made by hand.
    /// [`Client::connect`] makes both from a URL.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self::with_options(broker, ClientOptions::default())
    }

    /// The same with limits of your own.
    #[must_use]
    pub fn with_options(broker: Arc<dyn Broker>, options: ClientOptions) -> Self {
        Self::with_clock(broker, options, Arc::new(SystemClock))
    }

    /// The same with dates of the caller's choice, for tests in virtual time.
    #[must_use]
    pub fn with_clock(broker: Arc<dyn Broker>, options: ClientOptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                broker,
                clock,
                options,
                declared: DeclaredQueues::default(),
                exchanges: Mutex::default(),
                exchanges_turn: tokio::sync::Mutex::default(),
                turns: Turns::default(),
                meter: Meter::default(),
            }),
        }
    }

    /// The broker behind this client: its capabilities, its inspector.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.inner.options.payload_bytes_max
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Enqueues one job. `Ok` means durable.
    ///
    /// The job's queue is declared when this client first sees it. Many tasks
    /// may call this at once: the broker writes what arrives together together.
    ///
    /// # Errors
    ///
    /// By [`EnqueueError::kind`]: `Invalid`, `Refused`, `Unavailable`,
    /// `Unroutable` and `Unsupported` — nothing was enqueued. `Indeterminate` —
    /// it may be: try again with [`EnqueueError::into_job`], which keeps the id.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: after dropping the future the job may or may not be
    /// enqueued. Give it an [id](crate::Enqueue::id) of your own to try again under it.
    pub async fn enqueue(&self, job: impl Enqueueable) -> Result<Enqueued, EnqueueError> {
        let mut answers = self.send(vec![job.prepare()]).await;
        answers.swap_remove(0)
    }

    /// Enqueues many jobs, with an answer for each, in their order.
    ///
    /// The jobs are encoded before the first wait, so the iterator need not be
    /// `Send`; they are all in memory at once. For millions there is
    /// [`enqueue_stream`](Self::enqueue_stream). For jobs of several types,
    /// [`erase`](crate::Enqueue::erase) each.
    ///
    /// Not all or nothing: one job that is refused costs its neighbours nothing. Of very many small ones,
    /// [`bundle`](EnqueueAll::bundle) puts several into one message.
    ///
    /// # Errors
    ///
    /// Per job, as [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: after dropping the future any of the jobs may be enqueued.
    ///
    /// # Examples
    ///
    /// ```
    /// # use worker_core::{Client, prelude::*};
    /// # #[job] async fn greet(name: String) {}
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for answer in client.enqueue_all(["Ada", "Grace"].map(greet::new)).await {
    ///     answer?;
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn enqueue_all<I>(&self, jobs: I) -> EnqueueAll
    where
        I: IntoIterator<Item: Enqueueable>,
    {
        EnqueueAll::new(self.clone(), jobs.into_iter().map(Enqueueable::prepare).collect())
    }

    /// Enqueues a stream of jobs, however long, with an answer for each, in their order.
    ///
    /// Jobs are taken from `jobs` only as fast as the answers are taken: at most
    /// 4 batches are on their way, each of at most [`BATCH_MAX`] jobs and 2 MiB
    /// of payload (plus one payload), so memory stays below about 8 MiB.
    ///
    /// # Errors
    ///
    /// Per job, as [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream leaves the jobs of the batches in flight in an
    /// unknown state, and takes no further job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use worker_core::{Client, prelude::*};
    /// # use futures_util::{StreamExt as _, stream};
    /// # #[job] async fn count(n: u64) {}
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut answers = client.enqueue_stream(stream::iter(0..3_000_000).map(count::new));
    /// while let Some(answer) = answers.next().await {
    ///     answer?;
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn enqueue_stream<S>(
        &self,
        jobs: S,
    ) -> impl Stream<Item = Result<Enqueued, EnqueueError>> + Send + Unpin + use<S>
    where
        S: Stream<Item: Enqueueable> + Send + 'static,
    {
        let client = self.clone();
        let batches = batches(Box::pin(jobs.map(Enqueueable::prepare)));
        let answers = batches.map(move |batch| client.clone().send_owned(batch)).buffered(BATCHES_IN_FLIGHT);
        Box::pin(answers.flat_map(stream::iter))
    }

    /// Declares queues, exchanges and bindings: what is there already is used as it is.
    ///
    /// The queues of jobs are declared by whoever enqueues or runs them; this is for exchanges, and for
    /// queues that exist before anybody needs them.
    ///
    /// # Errors
    ///
    /// * `Unsupported` — this broker has no exchanges.
    /// * `Permanent` — an exchange exists with another kind, or a binding names what was not declared.
    /// * `Transient` — the broker could not be reached.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: declaring again completes it.
    ///
    /// # Examples
    ///
    /// ```
    /// use worker_core::{broker::Topology, exchange::{Binding, ExchangeKind}, prelude::*};
    ///
    /// #[job(queue = "emails")]
    /// async fn greet(name: String) {}
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let topology = Topology::queues(["emails".parse()?])
    ///     .exchange("people".parse()?, ExchangeKind::Topic)
    ///     .bind(Binding::by_key("people".parse()?, "emails".parse()?, "person.*"));
    /// client.declare(&topology).await?;
    /// client.enqueue(greet::new("Ada").via("people", "person.arrived")).await?;
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        self.inner.broker.declare(topology).await
    }

    /// Calls a job: enqueues it, and waits for what its handler returns.
    ///
    /// The worker that runs it answers through the broker, whichever process it is in. What is awaited is a
    /// [`Call`], on which the timeout is set; many can be on their way at once. A call that fails is not tried
    /// again by the worker, unless that is [asked for](Call::retries): whoever waits decides. It expires with
    /// its timeout, so that a backlog of calls nobody waits for is not worked off.
    ///
    /// For an answer that must not be lost, enqueue a job and have it store what it found: a reply is sent
    /// once, and a caller that is gone by then does not get it.
    ///
    /// # Examples
    ///
    /// ```
    /// use worker_core::{CallError, prelude::*};
    ///
    /// #[job(queue = "calculator")]
    /// async fn divide(a: f64, b: f64) -> JobResult<f64> {
    ///     if b == 0.0 {
    ///         return Err("division by zero".into());
    ///     }
    ///     Ok(a / b)
    /// }
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let half: f64 = client.call(divide::new(1.0, 2.0)).timeout("5s").await?;
    /// match client.call(divide::new(1.0, 0.0)).await {
    ///     Err(CallError::Failed { failure, .. }) => println!("{}", failure.message),
    ///     other => drop(other?),
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn call<J: Job>(&self, job: impl Into<Enqueue<J>>) -> Call<J> {
        Call::new(self.clone(), job.into())
    }

    /// Waits until the broker has finished what it was told, and lets go of it.
    ///
    /// Nothing is lost without it; a process that ends right after its last `Ok`
    /// may skip it.
    ///
    /// # Errors
    ///
    /// The broker could not finish.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: closing again completes it.
    pub async fn close(&self) -> Result<(), BrokerError> {
        self.inner.broker.close().await
    }

    /// Sends at most [`BATCH_MAX`] jobs; an answer for each, in their order.
    async fn send(&self, jobs: Vec<Result<Prepared, InvalidJob>>) -> Vec<Result<Enqueued, EnqueueError>> {
        let now = self.inner.clock.now();
        let (mut envelopes, mut missing) = (Vec::with_capacity(jobs.len()), Missing::default());
        let mut stamp = |job: Result<Prepared, InvalidJob>| {
            let mut job = job?;
            job.choose_shard(|queue, shards| self.inner.turns.next(queue, shards));
            let envelope = job.stamp(now, || JobId::at(now), self.inner.options.payload_bytes_max)?;
            let id = envelope.id.clone();
            self.inner.declared.note(&job, &mut missing);
            envelopes.push(envelope);
            Ok((job, id))
        };
        let stamped: Vec<Result<(Prepared, JobId), InvalidJob>> = jobs.into_iter().map(&mut stamp).collect();
        let mut answers = self.hand_over(envelopes, missing).await.into_iter();
        let answer_of = |stamped: Result<(Prepared, JobId), InvalidJob>| {
            let (job, id) = stamped?;
            match answers.next().unwrap_or_else(|| Err(EnqueueFailure::Unknown(self.no_answer()))) {
                Ok(()) => {
                    self.inner.meter.enqueued(job.name(), job.queue());
                    Ok(Enqueued { id })
                }
                Err(failure) => Err(EnqueueError::from_failure(job, failure)),
            }
        };
        stamped.into_iter().map(answer_of).collect()
    }

    async fn send_owned(self, jobs: Vec<Result<Prepared, InvalidJob>>) -> Vec<Result<Enqueued, EnqueueError>> {
        self.send(jobs).await
    }

    /// Declares what is missing, then enqueues, both within the time allowed.
    async fn hand_over(&self, envelopes: Vec<Envelope>, missing: Missing) -> Vec<Result<(), EnqueueFailure>> {
        let Inner { broker, options, declared, .. } = &*self.inner;
        let expected = envelopes.len();
        if expected == 0 {
            return Vec::new();
        }
        // A broker with a limit of its own knows better why there is no answer: it speaks first.
        let limit = broker.enqueue_limit().filter(|limit| *limit <= options.enqueue_timeout);
        let patience = limit.map_or(options.enqueue_timeout, |limit| options.enqueue_timeout.max(limit + MARGIN));
        let deadline = monotonic_now() + patience;
        let told = timeout_at(deadline, declared.declare(&**broker, &missing)).await;
        let refused = match told.unwrap_or_else(|_| Err(self.no_answer())) {
            Ok(refused) => refused,
            Err(error) => return (0..expected).map(|_| Err(EnqueueFailure::Refused(error.copy()))).collect(),
        };
        let sent: Vec<_> =
            envelopes.into_iter().zip(&refused).filter(|(_, why)| why.is_none()).map(|(e, _)| e).collect();
        let mut answers = self.ask(sent, deadline).await.into_iter();
        if refused.iter().all(Option::is_none) {
            return answers.collect();
        }
        let mut next = || answers.next().unwrap_or_else(|| Err(EnqueueFailure::Unknown(self.no_answer())));
        refused.into_iter().map(|why| why.map_or_else(&mut next, |why| Err(EnqueueFailure::Refused(why)))).collect()
    }

    /// Hands envelopes to the broker until `deadline`.
    async fn ask(&self, envelopes: Vec<Envelope>, deadline: Instant) -> Vec<Result<(), EnqueueFailure>> {
        let expected = envelopes.len();
        if expected == 0 {
            return Vec::new();
        }
        let answers = timeout_at(deadline, self.inner.broker.enqueue(envelopes)).await;
        let has_no_queue = |answer: &_| matches!(answer, Err(EnqueueFailure::Unroutable));
        if answers.as_ref().is_ok_and(|answers| answers.iter().any(has_no_queue)) {
            // It was deleted since: whoever tries again has it declared again.
            self.inner.declared.forget();
        }
        debug_assert!(answers.as_ref().is_ok_and(|answers| answers.len() == expected) || answers.is_err(), "clause E2");
        // The broker may still do it: that is what unknown means.
        answers.unwrap_or_else(|_| (0..expected).map(|_| Err(EnqueueFailure::Unknown(self.no_answer()))).collect())
    }

    fn no_answer(&self) -> BrokerError {
        let within = humantime::format_duration(self.inner.options.enqueue_timeout);
        let message = format!("no answer from the broker within {within} (WORKER_ENQUEUE_TIMEOUT)");
        BrokerError::new(BrokerErrorKind::Transient, message)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("broker", &self.inner.broker.capabilities().broker).finish_non_exhaustive()
    }
}

/// What is ready now, in batches within both limits; a slow stream is not waited for.
fn batches<S>(jobs: S) -> impl Stream<Item = Vec<Result<Prepared, InvalidJob>>>
where
    S: Stream<Item = Result<Prepared, InvalidJob>> + Unpin,
{
    let mut jobs = jobs.fuse();
    let mut batch = Vec::new();
    let mut bytes = 0;
    stream::poll_fn(move |task| {
        loop {
            match jobs.poll_next_unpin(task) {
                Poll::Ready(Some(job)) => {
                    bytes += job.as_ref().map_or(0, Prepared::payload_bytes);
                    batch.push(job);
                    if batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                        continue;
                    }
                }
                Poll::Ready(None) if batch.is_empty() => return Poll::Ready(None),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => {}
            }
            bytes = 0;
            return Poll::Ready(Some(mem::take(&mut batch)));
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::future;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{EnqueueErrorKind, Job, brokers::memory::MemoryBroker};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Blob {
        text: String,
    }

    impl Job for Blob {
        const NAME: &'static str = "blob";
        type Return = ();
    }

    fn blob(bytes: usize) -> Blob {
        Blob { text: "x".repeat(bytes) }
    }

    async fn ready(client: &Client) -> u64 {
        let inspector = client.broker().inspector().unwrap();
        inspector.queues(&[]).await.unwrap().iter().map(|queue| queue.ready).sum()
    }

    #[tokio::test]
    async fn a_refused_job_costs_its_neighbours_nothing_and_keeps_its_place() {
        let client = Client::new(Arc::new(MemoryBroker::new()));
        let answers = client.enqueue_all([1, PAYLOAD_BYTES_MAX, 2].map(blob)).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(answers[1].as_ref().unwrap_err().kind(), EnqueueErrorKind::Invalid);
        assert_eq!(ready(&client).await, 2);
    }

    #[tokio::test]
    async fn a_stream_is_taken_in_batches_within_both_limits() {
        let jobs = |n, bytes| stream::iter((0..n).map(move |_| blob(bytes).prepare()));
        let sizes: Vec<_> = batches(jobs(2_500, 1)).map(|batch| batch.len()).collect().await;
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let sizes: Vec<_> = batches(jobs(5, 1 << 20)).map(|batch| batch.len()).collect().await;
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[tokio::test]
    async fn a_slow_stream_is_not_waited_for() {
        let client = Client::new(Arc::new(MemoryBroker::new()));
        let slow = stream::iter([blob(1)]).chain(stream::once(future::pending()));
        let first = client.enqueue_stream(slow).next().await;
        assert!(first.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_stream_is_not_run_ahead_of_its_reader() {
        let client = Client::new(Arc::new(MemoryBroker::new()));
        let mut answers = client.enqueue_stream(stream::iter((0..1_000_000).map(|_| blob(1))));
        assert!(answers.next().await.unwrap().is_ok());
        assert!(ready(&client).await <= (BATCHES_IN_FLIGHT * BATCH_MAX) as u64);
    }

    #[tokio::test]
    async fn an_iterator_that_cannot_leave_its_thread_can_be_enqueued() {
        fn assert_send<T: Send>(value: T) -> T {
            value
        }
        let client = Client::new(Arc::new(MemoryBroker::new()));
        let local = std::rc::Rc::new(3);
        let answers = assert_send(client.enqueue_all((0..*local).map(blob))).await;
        assert_eq!(answers.len(), 3);
    }
}
