//! The running thing: consumers, slots, and an orderly end.
//!
//! ```text
//! Source ──Delivery──▶ fetch ──▶ dispatch ──▶ executions ──▶ execute ──Outcome──▶ dispatch ──Settlement──▶ settle ──▶ Settler
//! ```
//!
//! One task, the dispatcher, owns every delivery from the moment it is fetched
//! until it is settled. Executions run beside it and cannot reach the broker;
//! they only say what happened. To understand the worker, read `dispatch.rs`.

pub(crate) mod admit;
mod alone;
mod dispatch;
pub(crate) mod execute;
mod executions;
mod fetch;
mod group;
mod lanes;
mod meter;
mod pacing;
mod prefetch;
mod quickness;
mod report;
mod settle;
mod status;
mod ticker;

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    num::{NonZeroU16, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    broker::{Broker, Subscription},
    client::Client,
    error::{ConfigError, RunError},
    handler::States,
    name::QueueName,
    registry::Registry,
    telemetry::TARGET,
    time::Clock,
    worker::{dispatch::Dispatcher, status::Board},
};

pub use report::{DrainReport, Ending, JobReport, Observer};
pub use status::{Check, Intake, QueueStatus, Stalled, WorkerPhase, WorkerStatus};

/// The jobs that run at once in one worker when nothing else is said.
///
/// 16: enough to hide the waits of ordinary network-bound jobs, few enough
/// for a database's usual connection limit.
pub const CONCURRENCY_DEFAULT: usize = 16;

/// The most jobs that can run at once in one worker.
pub const CONCURRENCY_MAX: usize = 10_000;

/// How long running jobs may go on after a shutdown was asked for: 30 s, the
/// grace period of Kubernetes.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// How long a job of unknown name is offered again before it is dead-lettered:
/// 1 h, longer than a rolling deploy.
pub const UNKNOWN_JOB_PATIENCE_DEFAULT: Duration = Duration::from_secs(3_600);

/// A worker that is ready to run.
pub struct Worker {
    plan: Plan,
}

/// Everything a worker was told, checked.
struct Plan {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    states: Arc<States>,
    lanes: Vec<LanePlan>,
    concurrency: usize,
    grace: Duration,
    unknown_job_patience: Duration,
    payload_bytes_max: usize,
    observers: Vec<Observer>,
    /// Where jobs run; none for where the worker itself runs.
    jobs_on: Option<Handle>,
    board: Board,
}

/// One queue of a worker, or one shard of it.
struct LanePlan {
    subscription: Subscription,
    slots: usize,
    /// How many it holds follows how long its jobs take.
    is_adaptive: bool,
}

impl Worker {
    /// A worker on the broker of `client`.
    pub fn builder(client: &Client) -> WorkerBuilder {
        WorkerBuilder {
            client: client.clone(),
            registry: None,
            states: States::default(),
            queues: None,
            concurrency: CONCURRENCY_DEFAULT,
            prefetch: None,
            queue_concurrency: BTreeMap::new(),
            grace: GRACE_DEFAULT,
            unknown_job_patience: UNKNOWN_JOB_PATIENCE_DEFAULT,
            observers: Vec::new(),
            jobs_on: None,
        }
    }

    /// How long what runs may take at the end.
    #[cfg(feature = "cli")]
    pub(crate) const fn grace(&self) -> Duration {
        self.plan.grace
    }

    /// A handle that tells what this worker is doing, while it runs and afterwards.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        self.plan.board.status()
    }

    /// Runs jobs until `shutdown` resolves, then drains: takes no more, gives
    /// back at once what was not started, lets what runs finish within the
    /// grace period, and cancels and gives back the rest.
    ///
    /// The library installs no signal handler: `shutdown` is any future.
    ///
    /// # Errors
    ///
    /// * [`RunError::Broker`] — the broker failed in a way that does not pass;
    ///   what ran was drained first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels what runs and gives everything back,
    /// without grace and without waiting for the broker to confirm it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use worker_core::{Client, Worker, Registry, prelude::*};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::connect("memory:").await?;
    /// # let shutdown = async {};
    /// # #[job] async fn ping() {}
    /// let report = Worker::builder(&client).registry(Registry::new().with::<ping>()).build()?.run(shutdown).await?;
    /// println!("{report}");
    /// # Ok(()) }
    /// # fn main() { tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap() }
    /// ```
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<DrainReport, RunError> {
        self.run_until(shutdown, pending()).await
    }

    /// [`run`](Self::run), and when `abort` resolves the grace period ends at once.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
        abort: impl Future<Output = ()> + Send,
    ) -> Result<DrainReport, RunError> {
        let plan = self.plan;
        plan.announce();
        let report = Dispatcher::new(plan).run(shutdown, abort).await?;
        tracing::info!(target: TARGET, %report, "worker stopped");
        Ok(report)
    }
}

impl Plan {
    fn announce(&self) {
        let queues: Vec<_> = self.lanes.iter().map(|lane| lane.subscription.queue.as_str()).collect();
        let jobs: Vec<_> = self.registry.entries().map(|entry| entry.name.as_str()).collect();
        tracing::info!(
            target: TARGET,
            broker = self.broker.capabilities().broker,
            queues = queues.join(","),
            jobs = jobs.join(","),
            concurrency = self.concurrency,
            "worker started"
        );
        let served = self.lanes.iter().map(|lane| &lane.subscription.queue);
        for queue in served.filter(|queue| self.registry.of_queue(queue).next().is_none()) {
            tracing::warn!(target: TARGET, %queue, "no registered job belongs to this queue; is its name right?");
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("registry", &self.plan.registry).finish_non_exhaustive()
    }
}

/// Configures a [`Worker`]. Every setting has a default that is safe.
#[must_use = "nothing runs until it is built and run"]
pub struct WorkerBuilder {
    client: Client,
    registry: Option<Registry>,
    states: States,
    queues: Option<Vec<String>>,
    concurrency: usize,
    prefetch: Option<usize>,
    queue_concurrency: BTreeMap<String, usize>,
    grace: Duration,
    unknown_job_patience: Duration,
    observers: Vec<Observer>,
    jobs_on: Option<Handle>,
}

impl WorkerBuilder {
    /// Gives `state` to the jobs that ask for `State<T>`.
    ///
    /// `State<Client>` is always there: it is the worker's own client, so that a
    /// job can enqueue others.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> Self {
        self.state_arc(Arc::new(state))
    }

    /// The same for state that is shared already, also for `State<dyn Trait>`.
    pub fn state_arc<T: ?Sized + Send + Sync + 'static>(mut self, state: Arc<T>) -> Self {
        self.states.insert(state);
        self
    }

    /// Gives all of `states`, in place of what was given before.
    #[cfg(feature = "cli")]
    pub(crate) fn states(mut self, states: States) -> Self {
        self.states = states;
        self
    }

    /// Runs the jobs on another runtime than the worker's own, which they then cannot block.
    #[cfg(feature = "cli")]
    pub(crate) fn jobs_on(mut self, runtime: Handle) -> Self {
        self.jobs_on = Some(runtime);
        self
    }

    /// Serves these queues, each with all of its shards. Default: the queues of all registered jobs.
    ///
    /// A shard can be named alone, `orders.shard-3` say.
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// Runs at most `slots` jobs at once, 1 to [`CONCURRENCY_MAX`]. Default [`CONCURRENCY_DEFAULT`].
    pub fn concurrency(mut self, slots: usize) -> Self {
        self.concurrency = slots;
        self
    }

    /// Of `queue`, runs at most `slots` at once. Default: as many as the worker has.
    ///
    /// A queue with shards shares them out among these, at least one to each; without it each may use all.
    pub fn queue_concurrency(mut self, queue: impl Into<String>, slots: usize) -> Self {
        self.queue_concurrency.insert(queue.into(), slots);
        self
    }

    /// Owns at most `deliveries` unsettled ones of each queue, 1 to 65,535, of each shard where it has some.
    ///
    /// Default: it follows how long the jobs take, so that the next one is at hand when one ends, and little is held back
    /// from other workers. At first, and of jobs that take 20 ms or more, it is a quarter more than the queue's slots (twice
    /// as many as these where a job of the queue has a [`concurrency`](crate::JobOptions::concurrency) of its own), of a shard
    /// no more than the worker has slots. Of shorter ones it is what is done in 5 ms beside it, in steps of twice as
    /// much, up to 1,000 jobs (or messages, where jobs share some) and 16 MiB of them in all: for 16 slots 80 where a job takes 2 ms,
    /// 1,000 where it takes 100 µs. When the jobs become slow, what waits beyond goes back, unless jobs share messages. Where a
    /// queue or shard has one slot, or a job of `concurrency = 1`, on a broker that would [lose the order](crate::broker::Broker::resizes_in_order), it stays the first number.
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.prefetch = Some(deliveries);
        self
    }

    /// Lets running jobs go on this long after a shutdown was asked for. Default [`GRACE_DEFAULT`].
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Offers a job of unknown name again for this long before it is dead-lettered.
    /// Default [`UNKNOWN_JOB_PATIENCE_DEFAULT`].
    pub fn unknown_job_patience(mut self, patience: Duration) -> Self {
        self.unknown_job_patience = patience;
        self
    }

    /// Uses these handlers. Default: [`Registry::discovered`].
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Calls `observer` for every execution, once the broker has been told how it ended.
    ///
    /// It runs on the worker's own task: it must be quick and must not block.
    pub fn observe(mut self, observer: impl Fn(&JobReport) + Send + Sync + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// All that is wrong at once, each problem with where it was written:
    /// handlers of the same name, state that nobody gave, a priority that the
    /// broker cannot honour, a number out of its range.
    pub fn build(mut self) -> Result<Worker, ConfigError> {
        self.states.insert_missing(Arc::new(self.client.clone()));
        let registry = self.registry.unwrap_or_else(Registry::discovered);
        let mut problems = Vec::new();
        let slots = in_range("concurrency", self.concurrency, CONCURRENCY_MAX, &mut problems);
        let queues = match &self.queues {
            None => registry.queues(),
            Some(names) => named_queues(names, &mut problems),
        };
        if queues.is_empty() && problems.is_empty() {
            problems.push("there is no queue to serve: no job is registered and no queue was named; jobs in a library crate need one mention, `use my_jobs as _;`, or the linker leaves them out".into());
        }
        problems.extend(registry.problems(&queues, &self.states, &self.client.broker().capabilities()));
        let broker = self.client.broker();
        problems.extend(broker.held_at_most().map_or_else(Vec::new, |limit| registry.too_long(&queues, limit)));
        for unserved in self.queue_concurrency.keys().filter(|name| !queues.iter().any(|queue| queue == name.as_str()))
        {
            problems.push(format!("the concurrency of queue `{unserved}` was set, but this worker does not serve it"));
        }
        let mut lanes = Vec::new();
        for queue in queues {
            let own = self.queue_concurrency.get(queue.as_str()).copied();
            let what = format!("concurrency of queue `{queue}`");
            let of_queue = in_range(&what, own.unwrap_or(slots), CONCURRENCY_MAX, &mut problems).min(slots);
            let shards = registry.shards(&queue);
            let count = shards.len();
            let limits = || registry.of_queue(&queue).filter_map(|entry| entry.registration.options.concurrency);
            let (is_limited, is_serial) = (limits().next().is_some(), limits().any(|limit| limit.get() == 1));
            for (n, shard) in shards.into_iter().enumerate() {
                if lanes.iter().any(|lane: &LanePlan| lane.subscription.queue == shard) {
                    problems.push(format!("queue `{shard}` is named beside the queue that it is a shard of; name one"));
                }
                let slots_of_shard = if own.is_some() { share(of_queue, n, count) } else { of_queue };
                // Several shards together have the next job at hand with less of each.
                let least = prefetch::least(slots_of_shard, is_limited);
                let least = if count == 1 { least } else { least.min(slots) };
                let prefetch = self.prefetch.unwrap_or(least);
                let prefetch = in_range("prefetch", prefetch, usize::from(u16::MAX), &mut problems);
                let prefetch = u16::try_from(prefetch).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN);
                // One after the other is an order, which must not be lost.
                let may_resize = slots_of_shard > 1 && !is_serial || broker.resizes_in_order();
                let is_adaptive = self.prefetch.is_none() && may_resize;
                let subscription = Subscription::new(shard, prefetch);
                lanes.push(LanePlan { subscription, slots: slots_of_shard, is_adaptive });
            }
        }
        if let Some(most) = broker.queues_at_most().filter(|most| lanes.len() > *most) {
            problems.push(format!(
                "{} queues are to be served, shards included, and one process serves {most} of this broker; start several workers, each with a part of them",
                lanes.len()
            ));
        }
        problems.sort_unstable();
        problems.dedup();
        if !problems.is_empty() {
            return Err(ConfigError::new(problems));
        }
        let broker = Arc::clone(self.client.broker());
        let served = lanes.iter().map(|lane| {
            let Subscription { queue, prefetch } = &lane.subscription;
            (queue.clone(), lane.slots, prefetch.get().into())
        });
        let board = Board::new(Arc::clone(&broker), slots, served);
        let plan = Plan {
            broker,
            clock: Arc::clone(self.client.clock()),
            registry: Arc::new(registry),
            states: Arc::new(self.states),
            lanes,
            concurrency: slots,
            grace: self.grace,
            unknown_job_patience: self.unknown_job_patience,
            payload_bytes_max: self.client.payload_bytes_max(),
            observers: self.observers,
            jobs_on: self.jobs_on,
            board,
        };
        Ok(Worker { plan })
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("queues", &self.queues)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// What the `n`th of `count` gets of `slots`: about as many as the others, and at least one.
fn share(slots: usize, n: usize, count: usize) -> usize {
    (slots / count + usize::from(n < slots % count)).max(1)
}

/// `value` if it is 1 to `max`; otherwise notes the problem and goes on with 1.
fn in_range(what: &str, value: usize, max: usize, problems: &mut Vec<String>) -> usize {
    if NonZeroUsize::new(value).is_none() || value > max {
        problems.push(format!("the {what} is {value}; use 1 to {max}"));
        return 1;
    }
    value
}

fn named_queues(names: &[String], problems: &mut Vec<String>) -> Vec<QueueName> {
    let mut queues = Vec::new();
    for name in names {
        match name.parse::<QueueName>() {
            Ok(queue) if queues.contains(&queue) => problems.push(format!("queue `{queue}` is named twice")),
            Ok(queue) => queues.push(queue),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    queues
}
