//! A queue in virtual time that runs what is in it when told.
//!
//! It uses the worker's own parts (admission, execution, decision) on the
//! memory broker, one job after the other, without jitter: the same test gives
//! the same run.

use std::{collections::BTreeMap, fmt, num::NonZeroU16, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Begin, Broker as _, DeadJob, Delivery, Inspector, Page, Selection, Settler, Source, Subscription},
    brokers::memory::MemoryBroker,
    client::{Client, ClientOptions},
    envelope::{Envelope, PAYLOAD_BYTES_MAX, Route},
    handler::{Context, ContextParts, States},
    id::JobId,
    job::Job,
    name::{JobName, QueueName},
    registry::{Entry, Registry},
    settlement::decide_for,
    shard,
    time::{Clock as _, ManualClock, SystemClock, Timestamp},
    worker::{
        Ending, UNKNOWN_JOB_PATIENCE_DEFAULT,
        admit::{Admission, admit},
        execute::execute,
    },
};

/// Executions in one run: beyond it a job probably enqueues itself for ever.
const EXECUTIONS_MAX: usize = 10_000;

/// A queue for tests: a client for the code under test, and a worker in virtual time.
///
/// Time stands still until [`advance`](Self::advance) or [`drain`](Self::drain)
/// moves it. Each value is a world of its own, so tests run in parallel. See
/// the [module](crate::testing) for an example.
pub struct TestQueue {
    broker: Arc<MemoryBroker>,
    client: Client,
    clock: Arc<ManualClock>,
    registry: Registry,
    states: Arc<States>,
    started: Timestamp,
    lanes: BTreeMap<QueueName, Halves>,
}

/// A subscription to one queue.
type Halves = (Box<dyn Source>, Arc<dyn Settler>);

/// Configures a [`TestQueue`].
#[must_use = "nothing exists until it is built"]
#[derive(Debug, Default)]
pub struct TestQueueBuilder {
    states: States,
    registry: Option<Registry>,
}

impl TestQueueBuilder {
    /// Gives `state` to the jobs that ask for `State<T>`; `State<Client>` is always there.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> Self {
        self.state_arc(Arc::new(state))
    }

    /// The same for state that is shared already, also for `State<dyn Trait>`.
    pub fn state_arc<T: ?Sized + Send + Sync + 'static>(mut self, state: Arc<T>) -> Self {
        self.states.insert(state);
        self
    }

    /// Uses these handlers. Default: [`Registry::discovered`], every job linked into the test.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Makes the queue.
    #[must_use]
    pub fn build(mut self) -> TestQueue {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let broker = Arc::new(MemoryBroker::with_clock(Arc::clone(&clock) as _));
        let client = Client::with_clock(Arc::clone(&broker) as _, ClientOptions::default(), Arc::clone(&clock) as _);
        self.states.insert_missing(Arc::new(client.clone()));
        TestQueue {
            broker,
            client,
            started: clock.now(),
            clock,
            registry: self.registry.unwrap_or_else(Registry::discovered),
            states: Arc::new(self.states),
            lanes: BTreeMap::new(),
        }
    }
}

impl TestQueue {
    /// A queue for every job linked into the test, without state.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A queue with state or with chosen handlers.
    pub fn builder() -> TestQueueBuilder {
        TestQueueBuilder::default()
    }

    /// The client to give to the code under test.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The date in this world.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets time pass. Nothing runs until [`run_due`](Self::run_due) or [`drain`](Self::drain).
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// The payloads of the waiting jobs of type `J`, in the order of their enqueueing.
    ///
    /// # Panics
    ///
    /// When a payload under the name of `J` is not a `J`.
    #[must_use]
    pub fn enqueued<J: Job>(&self) -> Vec<J> {
        self.waiting_of::<J>().into_iter().map(|(job, _)| job).collect()
    }

    /// The waiting jobs of type `J`, each with how long it still waits.
    pub(super) fn waiting_of<J: Job>(&self) -> Vec<(J, Duration)> {
        let now = self.now();
        let is_j = |envelope: &Envelope| envelope.name.as_ref().is_some_and(|name| *name == J::NAME);
        let waiting = self.broker.waiting().into_iter().filter(|(envelope, _)| is_j(envelope));
        let decoded = waiting.map(|(envelope, due)| match serde_json::from_slice(&envelope.body.0) {
            Ok(job) => (job, due.map_or(Duration::ZERO, |due| due.since(now))),
            Err(error) => panic!("a waiting payload of `{}` does not fit the job: {error}", J::NAME),
        });
        decoded.collect()
    }

    /// What waits, as text for a failed assertion.
    pub(super) fn waiting_text(&self) -> String {
        let now = self.now();
        let line = |(envelope, due): (Envelope, Option<Timestamp>)| {
            let name = envelope.name.as_ref().map_or("?", JobName::as_str);
            let wait =
                due.map_or_else(String::new, |due| format!(", in {}", humantime::format_duration(due.since(now))));
            format!("  {name} {}{wait}\n", String::from_utf8_lossy(&envelope.body.0))
        };
        let lines: String = self.broker.waiting().into_iter().map(line).collect();
        if lines.is_empty() { "  nothing\n".into() } else { lines }
    }

    /// The jobs in the dead-letter queues, oldest first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn dead_letters(&self) -> Vec<DeadJob> {
        let Some(inspector) = self.broker.inspector() else { return Vec::new() };
        dead(&*inspector).await
    }

    /// Runs what is due now, and what that makes due, without letting time pass.
    ///
    /// # Panics
    ///
    /// After 10,000 executions: a job probably enqueues itself for ever. Also
    /// when a job needs state that was not given.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not run stays.
    pub async fn run_due(&mut self) -> Run {
        self.run(false).await
    }

    /// Runs everything, retries and delayed jobs included, letting time pass where nothing is due.
    ///
    /// # Panics
    ///
    /// As [`run_due`](Self::run_due).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not run stays.
    pub async fn drain(&mut self) -> Run {
        self.run(true).await
    }

    async fn run(&mut self, let_time_pass: bool) -> Run {
        self.check_state();
        let mut run = Run::default();
        loop {
            while let Some((delivery, settler)) = self.next().await {
                assert!(
                    run.executions.len() < EXECUTIONS_MAX,
                    "{EXECUTIONS_MAX} executions in one run: does a job enqueue itself for ever?"
                );
                run.executions.extend(self.perform(delivery, &*settler).await);
            }
            match self.broker.next_due().filter(|_| let_time_pass) {
                Some(due) => self.clock.advance_to(due),
                None => return run,
            }
        }
    }

    fn check_state(&self) {
        let (queues, broker) = (self.registry.queues(), self.broker.capabilities());
        let queues: Vec<_> = queues.into_iter().filter(|queue| self.has_jobs(queue)).collect();
        let problems = self.registry.problems(&queues, &self.states, &broker);
        assert!(problems.is_empty(), "the jobs cannot run:\n{}", problems.join("\n"));
    }

    fn has_jobs(&self, queue: &QueueName) -> bool {
        let of_queue = |(envelope, _): &(Envelope, _)| match &envelope.route {
            Route::Queue(route) => shard::is_of(route, queue),
            Route::Exchange { .. } => false,
        };
        self.broker.waiting().iter().any(of_queue)
    }

    /// A delivery that is due, if there is one.
    async fn next(&mut self) -> Option<(Delivery, Arc<dyn Settler>)> {
        let inspector = self.broker.inspector()?;
        for stats in inspector.queues(&[]).await.unwrap_or_default() {
            if !self.lanes.contains_key(&stats.queue) {
                let subscription = Subscription::new(stats.queue.clone(), NonZeroU16::MIN);
                let halves = self.broker.consume(subscription).await.ok()?;
                self.lanes.insert(stats.queue, halves);
            }
        }
        for (source, settler) in self.lanes.values_mut() {
            // The memory broker answers at once where a job is due.
            if let Some(Ok(mut batch)) = source.next_batch(1).now_or_never()
                && let Some(delivery) = batch.pop()
            {
                return Some((delivery, Arc::clone(settler)));
            }
        }
        None
    }

    async fn perform(&self, delivery: Delivery, settler: &dyn Settler) -> Option<Execution> {
        let (at, attempt, queue) = (self.now(), delivery.attempt, delivery.queue.clone());
        let (id, job) = (delivery.envelope.id.clone(), delivery.envelope.name.clone());
        let entry = self.registry.find(&delivery.queue, job.as_ref());
        let (patience, bytes_max) = (UNKNOWN_JOB_PATIENCE_DEFAULT, PAYLOAD_BYTES_MAX);
        let (outcome, retry) = match admit(&delivery, entry, &self.registry, at, patience, bytes_max) {
            Admission::Refuse(outcome, retry) => (outcome, retry),
            Admission::Run(entry) => {
                if settler.begin(&delivery) != Begin::Go {
                    return None;
                }
                let cx = self.context(&delivery, entry);
                let ran = execute(Arc::clone(entry), delivery.envelope.body.clone(), cx).await;
                (ran.outcome, entry.registration.options.retry)
            }
        };
        let settlement = decide_for(delivery.envelope.caller.as_ref(), outcome, attempt, &retry, 0.0);
        let ending = settler.submit(delivery, settlement.clone()).await.map_or(Ending::Lost, |()| settlement.into());
        Some(Execution { id, job, queue, attempt, at: at.since(self.started), ending })
    }

    fn context(&self, delivery: &Delivery, entry: &Entry) -> Context {
        Context::new(ContextParts {
            id: delivery.envelope.id.clone(),
            job: entry.name.clone(),
            queue: delivery.queue.clone(),
            attempt: delivery.attempt,
            enqueued_at: delivery.envelope.enqueued_at,
            timeout: entry.registration.options.timeout,
            headers: delivery.envelope.headers.clone(),
            is_call: delivery.envelope.caller.is_some(),
            stopping: CancellationToken::new(),
            states: Arc::clone(&self.states),
        })
    }
}

impl Default for TestQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestQueue, waiting:\n{}", self.waiting_text())
    }
}

async fn dead(inspector: &dyn Inspector) -> Vec<DeadJob> {
    let page = inspector.dead(&Selection::default(), Page::first(usize::MAX)).await;
    page.map(|page| page.jobs).unwrap_or_default()
}

/// What happened in one run.
#[derive(Debug, Clone, Default)]
#[must_use = "a run says what happened: assert on it"]
pub struct Run {
    executions: Vec<Execution>,
}

/// One execution of a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Execution {
    /// The job's id.
    pub id: JobId,
    /// Its type.
    pub job: Option<JobName>,
    /// The queue it came from.
    pub queue: QueueName,
    /// 1 on the first run.
    pub attempt: u32,
    /// When it began, since the queue was made.
    pub at: Duration,
    /// What became of the job.
    pub ending: Ending,
}

impl Run {
    /// Every execution, in order.
    #[must_use]
    pub fn executions(&self) -> &[Execution] {
        &self.executions
    }

    /// The executions of jobs of type `J`, in order.
    pub fn of<J: Job>(&self) -> impl Iterator<Item = &Execution> {
        self.executions.iter().filter(|execution| execution.job.as_ref().is_some_and(|name| *name == J::NAME))
    }

    /// Executions that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.count(|ending| matches!(ending, Ending::Succeeded))
    }

    /// Executions that failed and were tried again.
    #[must_use]
    pub fn retried(&self) -> usize {
        self.count(|ending| matches!(ending, Ending::Retried { .. }))
    }

    /// Executions that ended in the dead-letter queue.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.count(|ending| matches!(ending, Ending::DeadLettered { .. }))
    }

    /// The three counts as text: `2 succeeded, 1 retried, 0 dead`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} succeeded, {} retried, {} dead", self.succeeded(), self.retried(), self.dead())
    }

    fn count(&self, which: impl Fn(&Ending) -> bool) -> usize {
        self.executions.iter().filter(|execution| which(&execution.ending)).count()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{Enqueue, Handler, JobOptions, JobResult, RetryPolicy, State, hours, seconds};

    /// Fails until its attempt is `succeeds_on`.
    #[derive(Debug, Serialize, Deserialize)]
    struct Flaky {
        succeeds_on: u32,
    }

    impl Job for Flaky {
        const NAME: &'static str = "flaky";
        const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(RetryPolicy::new(3, seconds(10), seconds(600)));
        type Return = JobResult;
    }

    impl Handler for Flaky {
        async fn run(self, cx: Context) -> JobResult<JobResult> {
            Ok(if cx.attempt() >= self.succeeds_on { Ok(()) } else { Err("not yet".into()) })
        }
    }

    /// Enqueues itself for ever.
    #[derive(Debug, Serialize, Deserialize)]
    struct Forever {}

    impl Job for Forever {
        const NAME: &'static str = "forever";
        type Return = JobResult;
    }

    impl Handler for Forever {
        async fn run(self, cx: Context) -> JobResult<JobResult> {
            let client: State<Client> = cx.supply()?;
            client.enqueue(Self {}).await?;
            Ok(Ok(()))
        }
    }

    fn flaky() -> TestQueue {
        TestQueue::builder().registry(Registry::new().with::<Flaky>()).build()
    }

    #[tokio::test]
    async fn a_drain_runs_everything_with_its_retries_in_virtual_time() {
        let mut t = flaky();
        t.client().enqueue(Flaky { succeeds_on: 3 }).await.unwrap();
        t.client().enqueue(Flaky { succeeds_on: 99 }).await.unwrap();
        let run = t.drain().await;
        assert_eq!(run.summary(), "1 succeeded, 5 retried, 1 dead");
        let starts: Vec<_> = run.of::<Flaky>().map(|execution| (execution.at.as_secs(), execution.attempt)).collect();
        assert_eq!(starts, [(0, 1), (0, 1), (10, 2), (10, 2), (30, 3), (30, 3), (70, 4)]);
        assert_eq!(t.dead_letters().await[0].attempts, 4);
    }

    #[tokio::test]
    async fn time_stands_still_until_told() {
        let mut t = flaky();
        t.client().enqueue(Enqueue::new(Flaky { succeeds_on: 1 }).delay(hours(1))).await.unwrap();
        assert!(t.run_due().await.executions().is_empty());
        t.advance(hours(1));
        assert_eq!(t.run_due().await.succeeded(), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "does a job enqueue itself for ever?")]
    async fn a_job_that_enqueues_itself_for_ever_is_noticed() {
        let mut t = TestQueue::builder().registry(Registry::new().with::<Forever>()).build();
        t.client().enqueue(Forever {}).await.unwrap();
        drop(t.drain().await);
    }
}
