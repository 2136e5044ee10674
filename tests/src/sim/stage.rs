//! What all simulated worlds have: the plan of a seed, the record, and the lives of processes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use worker_core::{
    Client, DrainReport, EnqueueError, EnqueueErrorKind, Enqueued, Prepared, RunError, Worker, WorkerBuilder,
};

use crate::sim::{
    clock::{WallClock, WorldClock, draw_off_ms},
    plan::{JobPlan, Plan, Type},
    record::{Record, What},
    tasks::{prepared, registry},
};

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Plan,
    pub(super) seed: u64,
    clock: WorldClock,
    pub(super) record: Record,
    last_process: AtomicU64,
    /// How often each job was put off so far.
    snoozed: Mutex<BTreeMap<String, u32>>,
}

/// One life of a worker process.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) stage: Arc<Stage>,
    pub(super) process: u64,
}

impl Stage {
    /// As `seed` decides, with these of its jobs alone where not all are wanted.
    pub(super) fn new(seed: u64, only: Option<&[String]>) -> Self {
        let clock = WorldClock::starting_now();
        let mut plan = Plan::new(&mut Rng::with_seed(seed));
        if let Some(only) = only {
            plan.jobs.retain(|job| only.contains(&job.id));
        }
        Self {
            plan,
            seed,
            clock,
            record: Record::new(clock),
            last_process: AtomicU64::new(0),
            snoozed: Mutex::default(),
        }
    }

    /// Another worker process.
    pub(super) fn incarnate(self: &Arc<Self>) -> Arc<Incarnation> {
        let process = self.last_process.fetch_add(1, Ordering::SeqCst) + 1;
        Arc::new(Incarnation { stage: Arc::clone(self), process })
    }

    /// Whether the job wants to be put off once more.
    pub(super) fn snoozes(&self, plan: &JobPlan) -> bool {
        let mut snoozed = self.snoozed.lock().unwrap();
        let so_far = snoozed.entry(plan.id.clone()).or_insert(0);
        *so_far += 1;
        *so_far <= plan.snoozes
    }

    /// Enqueues a job, again and again until it is known to be durable.
    pub(super) async fn enqueue(&self, client: &Client, job: &JobPlan, rng: &mut Rng) {
        let mut attempt = prepared(job);
        while let Some(again) = self.enqueued(&job.id, client.enqueue(attempt).await) {
            attempt = again;
            sleep(Duration::from_millis(rng.u64(0..3_000))).await;
        }
    }

    /// Enqueues jobs together, those that fail again and again until all are known to be durable.
    pub(super) async fn enqueue_all(&self, client: &Client, jobs: &[JobPlan], rng: &mut Rng) {
        let mut open: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), prepared(job))).collect();
        loop {
            let (ids, attempts): (Vec<_>, Vec<_>) = std::mem::take(&mut open).into_iter().unzip();
            let answers = client.enqueue_all(attempts).await;
            let failed = |(id, answer)| self.enqueued(id, answer).map(|again| (id, again));
            open.extend(ids.into_iter().zip(answers).filter_map(failed));
            if open.is_empty() {
                return;
            }
            sleep(Duration::from_millis(rng.u64(0..3_000))).await;
        }
    }

    /// Writes down what came of an enqueue; the job, where it is to be tried again.
    fn enqueued(&self, id: &str, answer: Result<Enqueued, EnqueueError>) -> Option<Prepared> {
        match answer {
            Ok(enqueued) => {
                assert_eq!(enqueued.id.to_string(), id);
                self.record.write(0, What::Acknowledged { job: id.into() });
                None
            }
            Err(error) => {
                let kinds = [EnqueueErrorKind::Indeterminate, EnqueueErrorKind::Unavailable];
                assert!(kinds.contains(&error.kind()), "{error}");
                self.record.write(0, What::Trouble { what: "enqueue failed" });
                error.into_job()
            }
        }
    }

    /// The wall clock of another machine, which is right.
    pub(super) fn clock(&self) -> WallClock {
        WallClock::of(self.clock)
    }

    /// Whether wall clocks are set in this world: in some, so that dates can be held to the millisecond in the others.
    pub(super) fn clocks_are_set(&self) -> bool {
        self.rng(6).u8(..3) == 0
    }

    /// Sets these clocks, one now and then, to some other date.
    pub(super) async fn set_clocks(self: Arc<Self>, clocks: Vec<WallClock>) {
        let mut rng = self.rng(7);
        loop {
            sleep(Duration::from_millis(rng.u64(0..20_000))).await;
            if let Some(clock) = rng.choice(&clocks) {
                self.set_clock(clock, draw_off_ms(&mut rng));
            }
        }
    }

    /// Sets all of them right.
    pub(super) fn set_right(&self, clocks: &[WallClock]) {
        if self.clocks_are_set() {
            clocks.iter().for_each(|clock| self.set_clock(clock, 0));
        }
    }

    fn set_clock(&self, clock: &WallClock, off_ms: i64) {
        let by_ms = clock.set(off_ms);
        self.record.write(0, What::ClockSet { off_ms, by_ms });
    }

    /// A generator for one actor, so that no other can change what it draws.
    pub(super) fn rng(&self, actor: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ actor)
    }
}

impl Incarnation {
    pub(super) fn write(&self, what: What) {
        self.stage.record.write(self.process, what);
    }

    pub(super) fn builder(
        self: &Arc<Self>,
        client: &Client,
        types: &[Type],
        (slots, prefetch): (usize, usize),
    ) -> WorkerBuilder {
        self.write(What::Started { slots, prefetch });
        let queues = ["main", "side"];
        Worker::builder(client)
            .registry(registry(types))
            .state_arc(Arc::clone(self))
            .queues(queues)
            .concurrency(slots)
            .prefetch(prefetch)
    }
}

/// A worker that runs.
pub(super) struct Life {
    incarnation: Arc<Incarnation>,
    task: JoinSet<Result<DrainReport, RunError>>,
    shutdown: CancellationToken,
    abort: CancellationToken,
}

/// What a worker is asked for at its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    Drain,
    Abort,
    /// The one, and half of the grace period later the other.
    DrainThenAbort,
}

impl Life {
    pub(super) fn begin(incarnation: Arc<Incarnation>, worker: Worker) -> Self {
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        let (on_shutdown, on_abort) = (shutdown.clone().cancelled_owned(), abort.clone().cancelled_owned());
        let mut task = JoinSet::new();
        task.spawn(async move { worker.run_until(on_shutdown, on_abort).await });
        Self { incarnation, task, shutdown, abort }
    }

    /// Waits for its own end.
    pub(super) async fn ended(&mut self) {
        let report = self.task.join_next().await.unwrap().unwrap().map_err(|error| error.to_string());
        self.incarnation.write(What::Ended { report });
    }

    /// Drops it where it stands.
    pub(super) async fn vanish(mut self) {
        self.task.shutdown().await;
    }

    /// Asks it to end, and insists that it does within its grace period and `more`.
    pub(super) async fn ask(mut self, wish: Wish, grace: Duration, more: Duration) {
        let (to, drains) = match wish {
            Wish::Drain => ("drain", true),
            Wish::Abort => ("abort", false),
            Wish::DrainThenAbort => ("drain and then abort", true),
        };
        self.incarnation.write(What::Asked { to });
        if drains {
            self.shutdown.cancel();
        }
        if matches!(wish, Wish::DrainThenAbort) {
            sleep(grace / 2).await;
        }
        if !matches!(wish, Wish::Drain) {
            self.abort.cancel();
        }
        let process = self.incarnation.process;
        timeout(grace + more, self.ended()).await.unwrap_or_else(|_| panic!("process {process} did not end in time"));
    }
}
