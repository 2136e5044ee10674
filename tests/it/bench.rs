//! What worker tests are made of: jobs that do as their payload says, a record
//! of what ran when, and a worker that can be started and stopped.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    panic::panic_any,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use worker_core::{
    Client, ClientOptions, Clock, Context, DrainReport, Ending, Enqueue, Job, JobError, JobId, JobOptions, JobReport,
    JobResult, Registry, RetryPolicy, RunError, Timestamp, TokioClock, Worker, WorkerBuilder,
    broker::{Broker, DeadJob, Page, QueueStats, Selection},
    brokers::memory::MemoryBroker,
    days, seconds,
};
use worker_tests::fault::{Call, Fault, FaultyBroker};

/// What one run of a job does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Act {
    /// Returns success.
    Succeed,
    /// Returns an error with this text.
    Fail(String),
    /// Panics with this text, as a literal and as a formatted one would.
    Panic(String),
    PanicFormatted(String),
    /// Panics with something that is no text.
    PanicWithNumber,
    /// Panics with something that panics again when it is dropped.
    PanicTwice,
    Discard(String),
    /// Fails, and asks for this pause in milliseconds.
    RetryIn(u64),
    /// Asks to be called again after this many milliseconds.
    Snooze(u64),
    /// Succeeds after this many milliseconds.
    Work(u64),
    /// Never returns.
    Hang,
    /// Returns as soon as the worker stops, asking to be given back.
    UntilStopping,
}

/// The payload of every job here: what its runs do. The last act is repeated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Acts {
    pub(crate) acts: Vec<Act>,
}

/// What was recorded about one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) job: String,
    pub(crate) attempt: u32,
    pub(crate) began: Duration,
    /// When and how it ended; none while it runs.
    pub(crate) ended: Option<(Duration, End)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It returned or panicked.
    Itself,
    /// Its future was dropped.
    Cancelled,
}

/// The record of all runs, in the order of their beginning.
#[derive(Debug)]
pub(crate) struct Log {
    clock: TokioClock,
    started: Timestamp,
    runs: watch::Sender<Vec<Run>>,
    /// How many runs each job has had.
    counts: Mutex<HashMap<String, usize>>,
    patience: Duration,
}

impl Log {
    fn new(patience: Duration) -> Arc<Self> {
        let clock = TokioClock::starting_now();
        Arc::new(Self {
            clock,
            started: clock.now(),
            runs: watch::Sender::default(),
            counts: Mutex::default(),
            patience,
        })
    }

    /// The time since the test began.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now().since(self.started)
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.borrow().clone()
    }

    /// When each run of the job `id` began.
    pub(crate) fn begins_of(&self, id: &str) -> Vec<Duration> {
        self.runs().iter().filter(|run| run.id == id).map(|run| run.began).collect()
    }

    /// The most runs at the same time among those that `which` selects.
    pub(crate) fn most_at_once(&self, which: impl Fn(&Run) -> bool) -> usize {
        let runs: Vec<_> = self.runs().into_iter().filter(which).collect();
        let running_at = |time: Duration| {
            runs.iter().filter(|run| run.began <= time && run.ended.is_none_or(|(end, _)| end > time)).count()
        };
        runs.iter().map(|run| running_at(run.began)).max().unwrap_or(0)
    }

    /// Waits until the record is as `enough` wants it.
    pub(crate) async fn until(&self, what: &str, mut enough: impl FnMut(&[Run]) -> bool) {
        let mut runs = self.runs.subscribe();
        let Ok(found) = timeout(self.patience, runs.wait_for(|runs| enough(runs))).await else {
            panic!("it never happened that {what}: {:#?}", self.runs());
        };
        drop(found.unwrap());
    }

    fn begin(self: &Arc<Self>, cx: &Context) -> (Recording, usize) {
        let (id, job) = (cx.id().to_string(), cx.job().to_string());
        let earlier = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(id.clone()).or_insert(0);
            *count += 1;
            *count - 1
        };
        let mut index = 0;
        let run = Run { id, job, attempt: cx.attempt(), began: self.now(), ended: None };
        self.runs.send_modify(|runs| {
            index = runs.len();
            runs.push(run);
        });
        (Recording { log: Arc::clone(self), index, end: End::Cancelled }, earlier)
    }
}

/// Writes down how a run ended, also when it is dropped in the middle.
struct Recording {
    log: Arc<Log>,
    index: usize,
    end: End,
}

impl Drop for Recording {
    fn drop(&mut self) {
        let ended = (self.log.now(), if std::thread::panicking() { End::Itself } else { self.end });
        self.log.runs.send_modify(|runs| runs[self.index].ended = Some(ended));
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("the panic's own value panics");
        }
    }
}

/// Does what the payload says for this run.
pub(crate) async fn act(Acts { acts }: Acts, cx: Context) -> JobResult {
    let (mut recording, earlier) = cx.state::<Log>()?.begin(&cx);
    let ended = perform(acts[earlier.min(acts.len() - 1)].clone(), &cx).await;
    recording.end = End::Itself;
    ended
}

async fn perform(act: Act, cx: &Context) -> JobResult {
    match act {
        Act::Succeed => Ok(()),
        Act::Fail(text) => Err(text.into()),
        Act::Panic(text) => panic_any(&*text.leak()),
        Act::PanicFormatted(text) => panic!("{text}"),
        Act::PanicWithNumber => panic_any(7_u8),
        Act::PanicTwice => panic_any(Bomb),
        Act::Discard(text) => Err(JobError::discard(text)),
        Act::RetryIn(ms) => Err(JobError::retry_in(Duration::from_millis(ms), "not now")),
        Act::Snooze(ms) => Err(JobError::snooze(Duration::from_millis(ms))),
        Act::Work(ms) => {
            sleep(Duration::from_millis(ms)).await;
            Ok(())
        }
        Act::Hang => std::future::pending().await,
        Act::UntilStopping => {
            cx.stopping().cancelled().await;
            Err(JobError::snooze(Duration::ZERO))
        }
    }
}

/// Defines a job whose payload is [`Acts`].
macro_rules! acting {
    ($(#[$doc:meta])* $type:ident, $name:literal in $queue:literal, $options:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $type(pub(crate) $crate::bench::Acts);

        impl worker_core::Job for $type {
            const NAME: &'static str = $name;
            const QUEUE: &'static str = $queue;
            const OPTIONS: worker_core::JobOptions = $options;
            type Return = ();
        }

        impl worker_core::Handler for $type {
            fn requirements() -> Vec<worker_core::Requirement> {
                vec![worker_core::Requirement::state::<$crate::bench::Log>()]
            }

            async fn run(self, cx: worker_core::Context) -> worker_core::JobResult<()> {
                $crate::bench::act(self.0, cx).await
            }
        }

        impl From<$crate::bench::Acts> for $type {
            fn from(acts: $crate::bench::Acts) -> Self {
                Self(acts)
            }
        }
    };
}
pub(crate) use acting;

/// Three retries, after 10, 20 and 40 seconds.
pub(crate) const RETRY: RetryPolicy = RetryPolicy::new(3, seconds(10), seconds(600));

acting! {
    /// The job of most tests: fails like a job, with 30 seconds for each run.
    Play, "play" in "q", JobOptions::DEFAULT.retry(RETRY).timeout(seconds(30))
}
acting! {
    /// The same without retries, in another queue, with all the time it wants.
    Other, "other" in "other", JobOptions::DEFAULT.retry(RetryPolicy::new(0, seconds(1), seconds(1))).timeout(days(300))
}
acting! {
    /// Two of these at once at most, in the queue of `Play`.
    Limited, "limited" in "q", JobOptions::DEFAULT.retry(RETRY).concurrency(NonZeroUsize::new(2).unwrap())
}

/// Longer than anything a test waits for: in virtual time it costs nothing.
const FOREVER: Duration = days(400);

/// A broker with a client and a record.
pub(crate) struct Bench {
    pub(crate) client: Client,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<dyn Clock>,
    reports: watch::Sender<Vec<JobReport>>,
}

impl Bench {
    /// On a memory broker in virtual time; another process of it can be had from what is returned beside.
    pub(crate) fn memory() -> (Self, Arc<MemoryBroker>) {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_now());
        let broker = Arc::new(MemoryBroker::with_clock(Arc::clone(&clock)));
        (Self::on(Arc::clone(&broker) as _, clock, FOREVER), broker)
    }

    /// On a memory broker in virtual time that fails where `script` says.
    pub(crate) fn faulty(script: impl FnMut(Call<'_>) -> Fault + Send + 'static) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_now());
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::with_clock(Arc::clone(&clock))), script);
        Self::on(Arc::new(broker), clock, FOREVER)
    }

    /// On `broker`.
    pub(crate) fn on(broker: Arc<dyn Broker>, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        let client = Client::with_clock(broker, ClientOptions::default(), Arc::clone(&clock));
        Self { client, log: Log::new(patience), clock, reports: watch::Sender::default() }
    }

    /// The same record, seen by another process: its worker is this one's neighbour.
    pub(crate) fn neighbour(&self, broker: Arc<dyn Broker>) -> Self {
        let client = Client::with_clock(broker, ClientOptions::default(), Arc::clone(&self.clock));
        Self { client, log: Arc::clone(&self.log), clock: Arc::clone(&self.clock), reports: self.reports.clone() }
    }

    /// Enqueues a job `id` of type `J` that acts like this.
    pub(crate) async fn enqueue<J: Job + From<Acts>>(&self, id: &str, acts: impl IntoIterator<Item = Act>) {
        self.enqueue_as(Self::job::<J>(id, acts)).await;
    }

    pub(crate) fn job<J: Job + From<Acts>>(id: &str, acts: impl IntoIterator<Item = Act>) -> Enqueue<J> {
        Enqueue::new(J::from(Acts { acts: acts.into_iter().collect() })).id(id.parse::<JobId>().unwrap())
    }

    pub(crate) async fn enqueue_as<J: Job>(&self, job: Enqueue<J>) {
        self.client.enqueue(job).await.unwrap();
    }

    /// A worker for `Play`, `Other` and `Limited` that records and reports here.
    pub(crate) fn worker(&self) -> WorkerBuilder {
        self.worker_of(Registry::new().with::<Play>().with::<Other>().with::<Limited>())
    }

    pub(crate) fn worker_of(&self, registry: Registry) -> WorkerBuilder {
        let reports = self.reports.clone();
        Worker::builder(&self.client)
            .registry(registry)
            .state_arc(Arc::clone(&self.log))
            .observe(move |report| reports.send_modify(|reports| reports.push(report.clone())))
    }

    pub(crate) fn start(&self) -> Running {
        Running::start(self.worker())
    }

    pub(crate) fn reports(&self) -> Vec<JobReport> {
        self.reports.borrow().clone()
    }

    /// How the executions of the job `id` ended, in their order.
    pub(crate) fn endings_of(&self, id: &str) -> Vec<Ending> {
        self.reports().into_iter().filter(|report| report.id.to_string() == id).map(|report| report.ending).collect()
    }

    /// Waits until `count` executions were reported.
    pub(crate) async fn reported(&self, count: usize) {
        let mut reports = self.reports.subscribe();
        let Ok(found) = timeout(self.log.patience, reports.wait_for(|reports| reports.len() >= count)).await else {
            panic!("{count} executions were never reported: {:#?}", self.reports());
        };
        drop(found.unwrap());
    }

    /// Waits until `count` jobs are done or dead.
    pub(crate) async fn finished(&self, count: usize) {
        let is_final = |report: &JobReport| matches!(report.ending, Ending::Succeeded | Ending::DeadLettered { .. });
        let mut reports = self.reports.subscribe();
        let wanted = |reports: &Vec<JobReport>| reports.iter().filter(|report| is_final(report)).count() >= count;
        let Ok(found) = timeout(self.log.patience, reports.wait_for(wanted)).await else {
            panic!("{count} jobs were never finished: {:#?}", self.reports());
        };
        drop(found.unwrap());
    }

    pub(crate) async fn stats(&self, queue: &str) -> QueueStats {
        let all = self.client.broker().inspector().unwrap().queues(&[]).await.unwrap();
        all.into_iter().find(|stats| stats.queue == *queue).unwrap()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadJob> {
        let inspector = self.client.broker().inspector().unwrap();
        inspector.dead(&Selection::default(), Page::first(1_000)).await.unwrap().jobs
    }

    /// The only dead job.
    pub(crate) async fn only_dead(&self) -> DeadJob {
        let mut dead = self.dead().await;
        assert_eq!(dead.len(), 1, "{dead:?}");
        dead.remove(0)
    }
}

/// A worker that runs.
pub(crate) struct Running {
    shutdown: CancellationToken,
    abort: CancellationToken,
    task: JoinSet<Result<DrainReport, RunError>>,
}

impl Running {
    pub(crate) fn start(worker: WorkerBuilder) -> Self {
        Self::of(worker.build().unwrap())
    }

    pub(crate) fn of(worker: Worker) -> Self {
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        let (on_shutdown, on_abort) = (shutdown.clone().cancelled_owned(), abort.clone().cancelled_owned());
        let mut task = JoinSet::new();
        task.spawn(async move { worker.run_until(on_shutdown, on_abort).await });
        Self { shutdown, abort, task }
    }

    /// Asks it to shut down.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Asks it to end now.
    pub(crate) fn abort(&self) {
        self.abort.cancel();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) -> Result<DrainReport, RunError> {
        let ended = timeout(FOREVER, self.task.join_next()).await.unwrap_or_else(|_| panic!("the worker never ended"));
        ended.unwrap().unwrap()
    }

    /// Shuts it down and waits.
    pub(crate) async fn stop(self) -> DrainReport {
        self.shut_down();
        self.ended().await.unwrap()
    }

    /// Ends it now and waits.
    pub(crate) async fn abort_and_end(self) -> DrainReport {
        self.abort();
        self.ended().await.unwrap()
    }

    /// Drops its future in the middle, as an application might.
    pub(crate) async fn drop_in_the_middle(mut self) {
        self.task.shutdown().await;
    }
}
