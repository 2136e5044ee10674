//! What a worker is doing now, for probes, watchdogs and status lines.
//!
//! The worker writes what it does on a board; a [`WorkerStatus`] reads it, from
//! any task and without disturbing anyone. One thing cannot be read, because a
//! loop that hangs still has its last word on the board: whether the loop turns.
//! That is asked of the loop itself, and only its own answer counts.

use std::{
    fmt,
    num::NonZeroU16,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    broker::{Broker, Reach},
    error::BrokerError,
    name::QueueName,
};

/// Pings that may wait for the loop at once; who comes later waits for room within its own bound.
const PINGS_MAX: usize = 8;

/// What the loop sends its answer through.
pub(super) type Ping = oneshot::Sender<()>;

/// Tells what a worker is doing; got from [`Worker::status`](crate::Worker::status), cheap to clone.
///
/// It outlives the worker, and then says that it stopped. Nothing but
/// [`progress`](Self::progress) and [`reached`](Self::reached) waits.
///
/// # Examples
///
/// ```
/// # use worker_core::{Client, Registry, Worker, WorkerPhase, prelude::*};
/// # #[job] async fn ping() {}
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::connect("memory:").await?;
/// let worker = Worker::builder(&client).registry(Registry::new().with::<ping>()).build()?;
/// let status = worker.status();
/// let watch = async {
///     status.reached(WorkerPhase::Serving).await;
///     assert!(status.is_ready());
///     status.progress(seconds(5)).await
/// };
/// let (report, turns) = tokio::join!(worker.run(async { drop(watch.await) }), status.progress(seconds(5)));
/// assert!(report.is_ok() && turns.is_ok());
/// assert_eq!(status.phase(), WorkerPhase::Stopped);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct WorkerStatus {
    shared: Arc<Shared>,
}

/// How far a worker's life has come; the later, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WorkerPhase {
    /// It was built, and does not consume all of its queues yet.
    Starting,
    /// Every queue has been subscribed to once. It stays so when the broker is
    /// away later: [`WorkerStatus::queues`] and [`WorkerStatus::reach`] tell.
    Serving,
    /// It takes no more jobs and lets the running ones finish.
    Draining,
    /// It has ended, or was dropped.
    Stopped,
}

impl WorkerPhase {
    /// Its name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for WorkerPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One queue of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStatus {
    /// The queue.
    pub queue: QueueName,
    /// Whether its jobs come in.
    pub intake: Intake,
    /// How many of its jobs run.
    pub running: usize,
    /// How many of its jobs may run at once.
    pub slots: usize,
    /// How many of its jobs it may hold, running or about to: as set, or as their [time](crate::WorkerBuilder::prefetch)
    /// asks for now.
    pub prefetch: usize,
}

/// Whether a queue's jobs come in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intake {
    /// It was not subscribed to yet.
    Pending,
    /// The queue is being consumed, whether there are jobs in it or not.
    Consuming,
    /// It cannot be consumed now. It is tried again, unless the worker stops because of it.
    Failing {
        /// What the broker said. No credentials.
        error: String,
    },
    /// It is consumed no longer: the worker drains.
    Ended,
}

/// One condition of [`WorkerStatus::checks`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// `serving`, `connected`, `unblocked`, or `consuming:` with the queue.
    pub name: String,
    /// Why it does not hold; `None` when it does.
    pub problem: Option<String>,
}

/// The worker's loop did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker's event loop did not turn within {within:?}; something blocks its thread")]
#[non_exhaustive]
pub struct Stalled {
    /// How long was waited.
    pub within: Duration,
}

impl WorkerStatus {
    /// How far its life has come.
    #[must_use]
    pub fn phase(&self) -> WorkerPhase {
        *self.shared.phase.borrow()
    }

    /// Waits until its life has come as far as `phase`; at once when it has.
    ///
    /// A worker that drains before all of its queues are consumed passes over
    /// `Serving`, and this returns.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reached(&self, phase: WorkerPhase) {
        let mut phases = self.shared.phase.subscribe();
        // It cannot fail: the sender is in `shared`.
        drop(phases.wait_for(|now| *now >= phase).await);
    }

    /// Whether every queue has been consumed at the same time once, also when the worker stopped since.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.shared.has_served.load(Relaxed)
    }

    /// Every queue that it serves, by itself.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        self.shared.lanes.iter().map(Lane::status).collect()
    }

    /// How many jobs run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.lanes.iter().map(|lane| lane.running.load(Relaxed)).sum()
    }

    /// How many jobs may run at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.shared.slots
    }

    /// How many executions have ended and been settled since the start.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.shared.settled.load(Relaxed)
    }

    /// How the way to the broker is now.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.shared.broker.reach()
    }

    /// Whether it takes jobs from all of its queues and can do everything with them.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|check| check.problem.is_none())
    }

    /// What [`is_ready`](Self::is_ready) asks, one by one:
    ///
    /// * `serving`: started, and not draining;
    /// * `connected`: the broker can be reached;
    /// * `unblocked`: the broker takes new jobs;
    /// * `consuming:QUEUE`: jobs of this queue come in.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let check = |name: &str, problem| Check { name: name.into(), problem };
        let phase = self.phase();
        let serving = (phase != WorkerPhase::Serving).then(|| phase.to_string());
        let (connected, unblocked) = way(self.reach());
        let mut checks = vec![check("serving", serving), check("connected", connected), check("unblocked", unblocked)];
        checks.extend(self.queues().into_iter().map(|QueueStatus { queue, intake, .. }| {
            let problem = match intake {
                Intake::Consuming => None,
                Intake::Pending => Some("not subscribed to yet".into()),
                Intake::Failing { error } => Some(error),
                Intake::Ended => Some("no longer consumed".into()),
            };
            check(&format!("consuming:{queue}"), problem)
        }));
        checks
    }

    /// Asks the worker's event loop for a sign of life, and waits for it no longer than `within`.
    ///
    /// `Ok` is the loop's own answer. Before [`run`](crate::Worker::run) and
    /// after it there is no loop that could hang, and the answer is `Ok` too.
    /// It says nothing about the broker, which may be away.
    ///
    /// Ask from a spawned task: then it is also shown that the runtime still
    /// runs such tasks, and not only the thread that the worker is on.
    ///
    /// # Errors
    ///
    /// [`Stalled`] — the loop did not turn: something blocks the thread it is on.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn progress(&self, within: Duration) -> Result<(), Stalled> {
        let Some(pings) = self.shared.pings.get() else { return Ok(()) };
        let (ping, answer) = oneshot::channel();
        let asked = async {
            if pings.send(ping).await.is_ok() {
                // Dropped unanswered: the loop has ended, which is no stall.
                drop(answer.await);
            }
        };
        timeout(within, asked).await.map_err(|_| Stalled { within })
    }
}

impl fmt::Debug for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerStatus")
            .field("phase", &self.phase())
            .field("running", &self.running())
            .field("queues", &self.queues())
            .finish_non_exhaustive()
    }
}

/// Why the broker cannot be reached, and why it takes no new jobs.
fn way(reach: Reach) -> (Option<String>, Option<String>) {
    match reach {
        Reach::Up => (None, None),
        Reach::Blocked { reason } => (None, Some(reason)),
        Reach::Down { error } => (Some(error), None),
    }
}

struct Shared {
    broker: Arc<dyn Broker>,
    phase: watch::Sender<WorkerPhase>,
    has_served: AtomicBool,
    slots: usize,
    settled: AtomicU64,
    lanes: Vec<Lane>,
    /// The way into the loop, once that has begun.
    pings: OnceLock<mpsc::Sender<Ping>>,
}

struct Lane {
    queue: QueueName,
    slots: usize,
    running: AtomicUsize,
    prefetch: AtomicUsize,
    intake: Mutex<Intake>,
}

impl Lane {
    fn status(&self) -> QueueStatus {
        QueueStatus {
            queue: self.queue.clone(),
            intake: self.intake().clone(),
            running: self.running.load(Relaxed),
            slots: self.slots,
            prefetch: self.prefetch.load(Relaxed),
        }
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Goes on to `phase`; never back.
    fn advance(&self, phase: WorkerPhase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }
}

/// Where a worker writes what it does. Dropping it says that the worker has stopped.
pub(super) struct Board {
    shared: Arc<Shared>,
}

impl Board {
    /// The board of a worker that serves these queues, each with its slots and how many jobs it holds at first.
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        slots: usize,
        queues: impl IntoIterator<Item = (QueueName, usize, usize)>,
    ) -> Self {
        let lane = |(queue, slots, prefetch)| {
            let (running, prefetch) = (AtomicUsize::new(0), AtomicUsize::new(prefetch));
            Lane { queue, slots, running, prefetch, intake: Mutex::new(Intake::Pending) }
        };
        let shared = Shared {
            broker,
            phase: watch::Sender::new(WorkerPhase::Starting),
            has_served: AtomicBool::new(false),
            slots,
            settled: AtomicU64::new(0),
            lanes: queues.into_iter().map(lane).collect(),
            pings: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn status(&self) -> WorkerStatus {
        WorkerStatus { shared: Arc::clone(&self.shared) }
    }

    /// The part of one queue, which its fetching writes.
    pub(super) fn lane(&self, lane: usize) -> LaneBoard {
        LaneBoard { shared: Arc::clone(&self.shared), lane }
    }

    /// The loop begins, and must answer from now on what comes in here. Called once.
    pub(super) fn begin(&self) -> mpsc::Receiver<Ping> {
        let (sender, asked) = mpsc::channel(PINGS_MAX);
        drop(self.shared.pings.set(sender));
        asked
    }

    pub(super) fn draining(&self) {
        self.shared.advance(WorkerPhase::Draining);
    }

    /// How many jobs of a queue run.
    pub(super) fn running(&self, lane: usize, running: usize) {
        self.shared.lanes[lane].running.store(running, Relaxed);
    }

    /// How many executions were settled.
    pub(super) fn settled(&self, settled: u64) {
        self.shared.settled.store(settled, Relaxed);
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.shared.advance(WorkerPhase::Stopped);
    }
}

/// One queue's part of the board.
pub(super) struct LaneBoard {
    shared: Arc<Shared>,
    lane: usize,
}

impl LaneBoard {
    pub(super) fn consuming(&self) {
        self.set(Intake::Consuming);
        if self.shared.lanes.iter().all(|lane| *lane.intake() == Intake::Consuming) {
            self.shared.has_served.store(true, Relaxed);
            self.shared.advance(WorkerPhase::Serving);
        }
    }

    /// So many of its jobs are held from now on.
    pub(super) fn holds(&self, prefetch: NonZeroU16) {
        self.shared.lanes[self.lane].prefetch.store(prefetch.get().into(), Relaxed);
    }

    pub(super) fn failing(&self, error: &BrokerError) {
        self.set(Intake::Failing { error: error.detail() });
    }

    pub(super) fn ended(&self) {
        self.set(Intake::Ended);
    }

    fn set(&self, intake: Intake) {
        *self.shared.lanes[self.lane].intake() = intake;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{Client, Registry, Worker, WorkerBuilder, brokers::memory::MemoryBroker, seconds};

    fn worker() -> WorkerBuilder {
        Worker::builder(&Client::new(Arc::new(MemoryBroker::new()))).registry(Registry::new()).queues(["a", "b"])
    }

    fn board() -> Board {
        let queues = ["a", "b"].map(|name| (name.parse().unwrap(), 2, 3));
        Board::new(Arc::new(MemoryBroker::new()), 3, queues)
    }

    fn problems(status: &WorkerStatus) -> Vec<String> {
        let text = |check: Check| check.problem.map(|problem| format!("{}: {problem}", check.name));
        status.checks().into_iter().filter_map(text).collect()
    }

    #[tokio::test]
    async fn it_serves_once_every_queue_is_consumed_and_is_ready_while_each_is() {
        let board = board();
        let (status, lanes) = (board.status(), [board.lane(0), board.lane(1)]);
        lanes[0].consuming();
        assert_eq!(problems(&status), ["serving: starting", "consuming:b: not subscribed to yet"]);
        lanes[1].consuming();
        assert_eq!((status.phase(), status.is_ready()), (WorkerPhase::Serving, true));
        lanes[0].failing(&BrokerError::new(crate::BrokerErrorKind::Transient, "it is away"));
        assert_eq!(problems(&status), ["consuming:a: it is away"]);
        assert_eq!(status.phase(), WorkerPhase::Serving, "a fault is no step back");
        board.draining();
        lanes[1].ended();
        lanes[0].consuming();
        assert_eq!(problems(&status), ["serving: draining", "consuming:b: no longer consumed"]);
        drop(board);
        status.reached(WorkerPhase::Serving).await;
        assert_eq!((status.phase(), status.has_served()), (WorkerPhase::Stopped, true));
    }

    #[test]
    fn a_broker_that_is_away_or_blocked_says_why() {
        assert_eq!(way(Reach::Up), (None, None));
        assert_eq!(way(Reach::Down { error: "refused".into() }), (Some("refused".into()), None));
        assert_eq!(way(Reach::Blocked { reason: "low on disk".into() }), (None, Some("low on disk".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_turn_has_stalled() {
        let board = board();
        let status = board.status();
        assert_eq!(status.progress(seconds(1)).await, Ok(()), "there is no loop yet");
        let mut asked = board.begin();
        for _ in 0..2 * PINGS_MAX {
            assert_eq!(status.progress(seconds(1)).await, Err(Stalled { within: seconds(1) }));
        }
        let turn = async {
            while let Some(ping) = asked.recv().await {
                // Those before it have given up.
                ping.send(()).unwrap_or(());
            }
        };
        let answered = tokio::select! {
            () = turn => unreachable!(),
            answered = status.progress(seconds(1)) => answered,
        };
        assert_eq!(answered, Ok(()));
        drop(asked);
        assert_eq!(status.progress(seconds(1)).await, Ok(()), "there is no loop any more");
    }

    #[test]
    fn a_handler_that_blocks_the_thread_of_the_loop_stalls_it() {
        let worker = worker().build().unwrap();
        let status = worker.status();
        let (unblock, blocked) = std::sync::mpsc::sync_channel::<()>(0);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let looping = std::thread::spawn({
            let status = status.clone();
            move || {
                // What no handler should do; here the shutdown signal does it.
                let shutdown = async move {
                    status.reached(WorkerPhase::Serving).await;
                    assert!(blocked.recv().is_err());
                };
                runtime().block_on(worker.run(shutdown)).unwrap()
            }
        });
        let stalled = runtime().block_on(async {
            status.reached(WorkerPhase::Serving).await;
            status.progress(Duration::from_millis(50)).await
        });
        drop(unblock);
        looping.join().unwrap();
        assert!(stalled.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_dropped_has_stopped() {
        let worker = worker().build().unwrap();
        let status = worker.status();
        assert_eq!((status.phase(), status.slots(), status.running()), (WorkerPhase::Starting, 16, 0));
        assert!(timeout(seconds(1), worker.run(pending())).await.is_err());
        assert_eq!((status.phase(), status.has_served()), (WorkerPhase::Stopped, true));
    }
}
