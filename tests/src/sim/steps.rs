//! A process that is killed at every step of what it does, one after the other, until there is none left.
//!
//! A step is a request that the server reads: between two of them nothing that the process does can be seen by anybody
//! else. So to kill it at each, once before the server acts by it and once after, is to kill it at every moment that
//! makes a difference. There is no luck in it, and what comes out is a proof for these few flows.

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use worker_core::{
    Client, ClientOptions, Clock, Context, Handler, Job, JobError, JobOptions, JobResult, Registry, RetryPolicy, State,
    TokioClock, Worker,
    broker::{Page, Selection},
    brokers::rabbitmq::{RabbitOptions, SimulatedProcess, SimulatedServer},
    minutes, seconds,
};

/// What the process does that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It enqueues a job.
    Enqueue,
    /// It runs a job that succeeds.
    Success,
    /// It runs a job that fails once.
    Retry,
    /// It runs a job that fails for good.
    DeadLetter,
    /// It is asked to end while it runs one job and holds two.
    Shutdown,
}

impl Flow {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Enqueue, Self::Success, Self::Retry, Self::DeadLetter, Self::Shutdown];

    const fn jobs(self) -> u64 {
        if matches!(self, Self::Shutdown) { 3 } else { 1 }
    }
}

/// When a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Death {
    /// At which of its requests, the first being 1.
    step: u64,
    /// Whether the server still acts by that one.
    acts: bool,
}

/// What came out.
struct Outcome {
    /// How many requests the process has sent.
    steps: u64,
    /// What is not as promised.
    problems: Vec<String>,
}

/// Kills a process at every step of a flow, on a server of 4.3 or of 3.10; how many deaths there were, and what came out
/// where it should not have.
///
/// # Panics
///
/// When there is no runtime.
#[must_use]
pub fn every_step(flow: Flow, modern: bool) -> (u64, Vec<String>) {
    let unharmed = live(flow, modern, None);
    let mut problems: Vec<_> =
        unharmed.problems.iter().map(|problem| format!("{flow:?}, unharmed: {problem}")).collect();
    for step in 1..=unharmed.steps {
        for acts in [false, true] {
            let death = Death { step, acts };
            let outcome = live(flow, modern, Some(death));
            problems.extend(outcome.problems.iter().map(|problem| format!("{flow:?}, {death:?}: {problem}")));
        }
    }
    (2 * unharmed.steps, problems)
}

/// Lives through a flow, with a death or without.
fn live(flow: Flow, modern: bool, death: Option<Death>) -> Outcome {
    fastrand::seed(1);
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("it can be built");
    runtime.block_on(async { Scene::new(modern).live(flow, death).await })
}

/// A job that does as the flow wants.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    n: u64,
    fails: u32,
    millis: u64,
}

impl Job for Step {
    const NAME: &'static str = "step";
    const QUEUE: &'static str = "main";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(RetryPolicy::new(1, seconds(1), seconds(1)));
    type Return = ();
}

/// What all handlers did, in order.
#[derive(Default)]
struct Ran(Mutex<Vec<Note>>);

#[derive(Clone, Copy)]
struct Note {
    n: u64,
    attempt: u32,
    /// By the process that may be killed.
    by_victim: bool,
    is_end: bool,
    at: Duration,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, by_victim, is_end, at, .. } = self;
        let who = if *by_victim { "the one that may be killed" } else { "the other" };
        let what = if *is_end { "done" } else { "begun" };
        write!(f, "attempt {attempt} {what} by {who} after {at:?}")
    }
}

/// The process in which a handler runs.
struct Life {
    process: SimulatedProcess,
    is_victim: bool,
    began: Instant,
    ran: Arc<Ran>,
}

impl Life {
    /// Puts down what a handler does. In a process that was killed it does nothing any more.
    async fn note(&self, n: u64, attempt: u32, is_end: bool) {
        if self.process.is_dead() {
            return pending().await;
        }
        let note = Note { n, attempt, by_victim: self.is_victim, is_end, at: self.began.elapsed() };
        self.ran.0.lock().expect("nobody panics").push(note);
    }
}

impl Handler for Step {
    async fn run(self, cx: Context) -> JobResult<()> {
        let life: State<Life> = cx.supply()?;
        life.note(self.n, cx.attempt(), false).await;
        sleep(Duration::from_millis(self.millis)).await;
        if cx.attempt() <= self.fails {
            return Err(JobError::from("fails on purpose"));
        }
        life.note(self.n, cx.attempt(), true).await;
        Ok(())
    }
}

struct Scene {
    server: SimulatedServer,
    clock: Arc<TokioClock>,
    began: Instant,
    ran: Arc<Ran>,
}

impl Scene {
    fn new(modern: bool) -> Self {
        let server = SimulatedServer::new(if modern { "4.3.6" } else { "3.10.8" }, 1);
        server.slow(1..=3, 0..=5);
        Self { server, clock: Arc::new(TokioClock::starting_now()), began: Instant::now(), ran: Arc::default() }
    }

    async fn live(self, flow: Flow, death: Option<Death>) -> Outcome {
        let (client, process) = self.process();
        let dies = |process: &SimulatedProcess| {
            if let Some(Death { step, acts }) = death {
                process.die_at(step, acts);
            }
        };
        let (steps, acknowledged) = if flow == Flow::Enqueue {
            dies(&process);
            let enqueued = timeout(seconds(60), client.enqueue(job(flow, 0))).await;
            let acknowledged = enqueued.is_ok_and(|enqueued| enqueued.is_ok());
            (process.steps(), acknowledged)
        } else {
            for n in 0..flow.jobs() {
                client.enqueue(job(flow, n)).await.expect("nothing harms the producer");
            }
            let (client, process) = self.process();
            dies(&process);
            self.work(&client, &process, true, flow == Flow::Shutdown).await;
            (process.steps(), true)
        };
        // Another process, which nothing harms, does what is left.
        let (client, healthy) = self.process();
        self.work(&client, &healthy, false, false).await;
        let mut problems = Vec::new();
        let left = self.left();
        if !left.is_empty() {
            problems.push(format!("{left:?} is left"));
        }
        let (client, _) = self.process();
        let mut selection = Selection::default();
        selection.known.push("main".parse().expect("it is a name"));
        let inspector = client.broker().inspector().expect("it has one");
        let dead = inspector.dead(&selection, Page::first(100)).await.expect("the dead can be listed").jobs.len();
        problems.extend(self.judge(flow, acknowledged, dead, death.is_some()));
        Outcome { steps, problems }
    }

    /// Runs a worker until nothing is left to do, it was killed, or it has ended as it was asked to.
    async fn work(&self, client: &Client, process: &SimulatedProcess, is_victim: bool, ends: bool) {
        let life = Life { process: process.clone(), is_victim, began: self.began, ran: Arc::clone(&self.ran) };
        let worker = Worker::builder(client)
            .registry(Registry::new().with::<Step>())
            .state(life)
            .concurrency(1)
            .prefetch(3)
            .grace(seconds(20))
            .build()
            .expect("it can be built");
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let stopped = stop.clone().cancelled_owned();
        task.spawn(async move { worker.run(stopped).await });
        let done = async {
            while !process.is_dead() && !self.left().is_empty() {
                if ends && !self.ran.0.lock().expect("nobody panics").is_empty() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        drop(timeout(minutes(60), done).await);
        stop.cancel();
        let over = async {
            while !process.is_dead() && !task.is_empty() {
                tokio::select! {
                    _ended = task.join_next() => {}
                    () = sleep(Duration::from_millis(100)) => {}
                }
            }
        };
        drop(timeout(minutes(2), over).await);
        // Of one that was killed nothing is left.
        task.shutdown().await;
        if !process.is_dead() {
            drop(timeout(minutes(2), client.close()).await);
        }
    }

    fn judge(&self, flow: Flow, acknowledged: bool, dead: usize, died: bool) -> Vec<String> {
        let ran = self.ran.0.lock().expect("nobody panics").clone();
        // What was begun or done, and not acknowledged before the death, is done once more, with all attempts that follow.
        let most = if died && flow != Flow::Enqueue { 2 } else { 1 };
        let mut problems = Vec::new();
        for n in 0..flow.jobs() {
            let of_it: Vec<_> = ran.iter().filter(|note| note.n == n).collect();
            let told = of_it.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let count = |is_end| of_it.iter().filter(|note| note.is_end == is_end).count();
            let (started, succeeded) = (count(false), count(true));
            let least = usize::from(acknowledged);
            let (ends, what) = match flow {
                Flow::DeadLetter => (dead, "dead"),
                _ => (succeeded, "done"),
            };
            if !(least..=most).contains(&ends) {
                problems.push(format!("job {n} is {what} {ends} times, and not {least} to {most}: {told}"));
            }
            let attempts = if matches!(flow, Flow::Retry | Flow::DeadLetter) { 2 } else { 1 };
            if started > attempts * most {
                problems.push(format!("job {n} has started {started} times: {told}"));
            }
            if flow == Flow::DeadLetter && succeeded > 0 {
                problems.push(format!("job {n} has succeeded"));
            }
        }
        if flow != Flow::DeadLetter && dead > 0 {
            problems.push(format!("{dead} dead letters"));
        }
        problems
    }

    fn left(&self) -> BTreeMap<String, usize> {
        let mut depths = self.server.depths();
        depths.retain(|name, depth| *depth > 0 && !name.ends_with("_dlq"));
        depths
    }

    fn process(&self) -> (Client, SimulatedProcess) {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let (broker, process) = self.server.process(&RabbitOptions::default(), Arc::clone(&clock));
        (Client::with_clock(Arc::new(broker), ClientOptions::default(), clock), process)
    }
}

fn job(flow: Flow, n: u64) -> Step {
    let fails = match flow {
        Flow::Retry => 1,
        Flow::DeadLetter => 2,
        _ => 0,
    };
    Step { n, fails, millis: if flow == Flow::Shutdown { 5_000 } else { 10 } }
}
