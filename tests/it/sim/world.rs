//! A simulated world: a producer, workers that come and go, and a broker that fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    BrokerErrorKind, Client, ClientOptions, Clock, EnqueueErrorKind, Worker,
    broker::{Broker as _, DeadJob, Inspector, Page, Selection},
    brokers::memory::MemoryBroker,
    hours, seconds,
};
use worker_tests::fault::{Call, Fault, FaultyBroker};

use crate::sim::{
    plan::{JobPlan, Plan, Type},
    record::{Entry, Record, What, WorldClock},
    tasks::{prepared, registry},
    witness::Witness,
};

/// How long everything may take to come to its end once nothing fails any more.
const HEALING_MAX: Duration = hours(1);

/// All of it. Cheap to clone.
#[derive(Debug)]
pub(super) struct World {
    plan: Plan,
    seed: u64,
    clock: WorldClock,
    broker: MemoryBroker,
    record: Arc<Record>,
    healthy: Arc<AtomicBool>,
    healed: CancellationToken,
    last_process: AtomicU64,
    /// How often each job was put off so far.
    snoozed: Mutex<BTreeMap<String, u32>>,
}

/// One life of a worker process.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) world: Arc<World>,
    pub(super) process: u64,
}

impl Incarnation {
    pub(super) fn write(&self, what: What) {
        self.world.record.write(self.process, what);
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let clock = WorldClock::starting_now();
        Arc::new(Self {
            plan: Plan::new(&mut Rng::with_seed(seed)),
            seed,
            clock,
            broker: MemoryBroker::with_clock(Arc::new(clock)),
            record: Arc::new(Record::new(clock)),
            healthy: Arc::default(),
            healed: CancellationToken::new(),
            last_process: AtomicU64::new(0),
            snoozed: Mutex::default(),
        })
    }

    pub(super) const fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn record(&self) -> Vec<Entry> {
        self.record.entries()
    }

    /// Whether the job wants to be put off once more.
    pub(super) fn snoozes(&self, plan: &JobPlan) -> bool {
        let mut snoozed = self.snoozed.lock().unwrap();
        let so_far = snoozed.entry(plan.id.clone()).or_insert(0);
        *so_far += 1;
        *so_far <= plan.snoozes
    }

    /// A generator for one actor, so that no other can change what it draws.
    fn rng(&self, actor: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ actor)
    }

    /// Lives to the end; gives the dead.
    pub(super) async fn live(self: &Arc<Self>) -> Vec<DeadJob> {
        let mut actors = JoinSet::new();
        actors.spawn(Arc::clone(self).produce());
        for slot in 0..self.plan.workers {
            actors.spawn(Arc::clone(self).supervise(slot));
        }
        sleep(self.plan.trouble_lasts).await;
        self.healthy.store(true, Ordering::SeqCst);
        self.record.write(0, What::Healed);
        self.healed.cancel();
        while let Some(ended) = actors.join_next().await {
            ended.unwrap();
        }
        self.finish().await
    }

    /// Lets one healthy worker do what is left.
    async fn finish(self: &Arc<Self>) -> Vec<DeadJob> {
        let (incarnation, client, _) = self.incarnate(u64::MAX);
        let worker = incarnation.worker(&client, &Type::ALL, (8, 16));
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        let on_shutdown = shutdown.clone().cancelled_owned();
        task.spawn(async move { worker.run(on_shutdown).await });
        let inspector = self.broker.inspector().unwrap();
        let idle = async {
            while !is_idle(&*inspector).await {
                sleep(seconds(1)).await;
            }
        };
        // Whether it did come to its end, the check of the record says.
        drop(timeout(HEALING_MAX, idle).await);
        shutdown.cancel();
        let report = task.join_next().await.unwrap().unwrap();
        incarnation.write(What::Ended { report: report.map_err(|error| error.to_string()) });
        inspector.dead(&Selection::default(), Page::first(10_000)).await.unwrap().jobs
    }

    /// Enqueues the planned jobs, each until it is known to be durable.
    async fn produce(self: Arc<Self>) {
        let mut rng = self.rng(1);
        let witness =
            Witness { inner: Arc::new(self.broker.another_process()), record: Arc::clone(&self.record), process: 0 };
        let client = self.client(Arc::new(FaultyBroker::new(Arc::new(witness), self.script(0, rng.fork()))));
        let mut jobs: Vec<_> = self.plan.jobs.iter().collect();
        jobs.sort_by_key(|job| job.enqueue_at);
        for job in jobs {
            sleep(job.enqueue_at.saturating_sub(self.record.now())).await;
            let mut attempt = prepared(job);
            loop {
                match client.enqueue(attempt).await {
                    Ok(enqueued) => {
                        assert_eq!(enqueued.id.to_string(), job.id);
                        self.record.write(0, What::Acknowledged { job: job.id.clone() });
                        break;
                    }
                    Err(error) => {
                        let kinds = [EnqueueErrorKind::Indeterminate, EnqueueErrorKind::Unavailable];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        attempt = error.into_job().unwrap();
                        sleep(Duration::from_millis(rng.u64(0..3_000))).await;
                    }
                }
            }
        }
    }

    /// Runs one worker after the other until the world is healed.
    async fn supervise(self: Arc<Self>, slot: u64) {
        let mut rng = self.rng(100 + slot);
        while !self.healed.is_cancelled() {
            self.one_life(&mut rng).await;
            let pause = Duration::from_millis(rng.u64(0..4_000));
            drop(timeout(pause, self.healed.cancelled()).await);
        }
    }

    async fn one_life(self: &Arc<Self>, rng: &mut Rng) {
        let (incarnation, client, process) = self.incarnate(rng.u64(..));
        // In a rolling deploy not every worker knows every job.
        let types: Vec<_> = Type::ALL.into_iter().filter(|_| rng.u8(..5) > 0).collect();
        let types = if types.is_empty() { vec![Type::Steady] } else { types };
        let (slots, grace) = (rng.usize(1..5), Duration::from_millis(rng.u64(0..30_000)));
        let builder = incarnation.builder(&client, &types, (slots, rng.usize(1..8)));
        let worker = builder.grace(grace).build().unwrap();
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        let (on_shutdown, on_abort) = (shutdown.clone().cancelled_owned(), abort.clone().cancelled_owned());
        let mut task = JoinSet::new();
        task.spawn(async move { worker.run_until(on_shutdown, on_abort).await });

        let lives = Duration::from_millis(rng.u64(100..25_000));
        let healed = self.healed.clone();
        let ended = tokio::select! {
            biased;
            ended = task.join_next() => ended,
            () = healed.cancelled() => None,
            () = sleep(lives), if self.plan.workers_end => None,
        };
        if let Some(ended) = ended {
            let report = ended.unwrap().map_err(|error| error.to_string());
            return incarnation.write(What::Ended { report });
        }
        if rng.u8(..4) == 0 && !self.healed.is_cancelled() {
            incarnation.write(What::Lapsed);
            process.lapse();
            sleep(Duration::from_millis(rng.u64(0..10_000))).await;
        }
        match rng.u8(..5) {
            0 => {
                incarnation.write(What::Crashed);
                process.crash();
                return task.shutdown().await;
            }
            1 => {
                incarnation.write(What::Asked { to: "vanish" });
                return task.shutdown().await;
            }
            2 => {
                incarnation.write(What::Asked { to: "abort" });
                abort.cancel();
            }
            3 => {
                incarnation.write(What::Asked { to: "drain and then abort" });
                shutdown.cancel();
                sleep(grace / 2).await;
                abort.cancel();
            }
            _ => {
                incarnation.write(What::Asked { to: "drain" });
                shutdown.cancel();
            }
        }
        // The grace period, the five seconds for the broker, and one for the rounding of both.
        let Ok(ended) = timeout(grace + seconds(6), task.join_next()).await else {
            panic!("process {} did not end in time", incarnation.process);
        };
        let report = ended.unwrap().unwrap().map_err(|error| error.to_string());
        incarnation.write(What::Ended { report });
    }

    /// Another worker process, with a client on a broker that fails.
    fn incarnate(self: &Arc<Self>, seed: u64) -> (Arc<Incarnation>, Client, Arc<MemoryBroker>) {
        let process = self.last_process.fetch_add(1, Ordering::SeqCst) + 1;
        let inner = Arc::new(self.broker.another_process());
        let witness = Witness { inner: Arc::clone(&inner), record: Arc::clone(&self.record), process };
        let script = self.script(process, Rng::with_seed(seed));
        let client = self.client(Arc::new(FaultyBroker::new(Arc::new(witness), script)));
        (Arc::new(Incarnation { world: Arc::clone(self), process }), client, inner)
    }

    fn client(&self, broker: Arc<FaultyBroker>) -> Client {
        let clock: Arc<dyn Clock> = Arc::new(self.clock);
        Client::with_clock(broker, ClientOptions::default(), clock)
    }

    /// What goes wrong with the calls of one process.
    fn script(&self, process: u64, mut rng: Rng) -> impl FnMut(Call<'_>) -> Fault + Send + 'static {
        let (healthy, record) = (Arc::clone(&self.healthy), Arc::clone(&self.record));
        let per_mille = self.plan.faults_per_mille;
        move |call| {
            if healthy.load(Ordering::SeqCst) || rng.u32(..1_000) >= per_mille {
                return Fault::None;
            }
            let (name, fault) = draw(&mut rng, call);
            if fault != Fault::None {
                record.write(process, What::Failed { call: name, fault });
            }
            fault
        }
    }
}

/// One of the faults that this call can have.
fn draw(rng: &mut Rng, call: Call<'_>) -> (&'static str, Fault) {
    let busy = Fault::Refused(BrokerErrorKind::Transient);
    // Shorter than the client waits, so that what it gives up is known not to be stored.
    let late = Fault::Late(Duration::from_millis(rng.u64(1..5_000)));
    match call {
        Call::Declare => ("declare", [busy, Fault::AnswerLost, Fault::Hangs, late][rng.usize(..4)]),
        Call::Enqueue(_) => {
            let faults = [busy, Fault::Lost, Fault::AnswerLost, Fault::Hangs, Fault::AnswerHangs, late];
            ("enqueue", faults[rng.usize(..faults.len())])
        }
        Call::Consume => ("consume", [busy, Fault::AnswerLost, Fault::Hangs, late][rng.usize(..4)]),
        Call::NextBatch => {
            let for_good = Fault::Refused(BrokerErrorKind::Permanent);
            let faults = [busy, busy, busy, late, late, Fault::Ends, Fault::Hangs, for_good];
            ("next_batch", faults[rng.usize(..faults.len())])
        }
        Call::Stop => ("stop", [busy, Fault::AnswerLost, Fault::Hangs, late][rng.usize(..4)]),
        Call::Begin(_) => ("begin", [Fault::Lost, Fault::Moved][rng.usize(..2)]),
        Call::Settle(..) => {
            let for_good = Fault::Refused(BrokerErrorKind::Permanent);
            let faults = [busy, busy, busy, late, late, late, Fault::Lost, Fault::AnswerLost, Fault::Hangs, for_good];
            ("settle", faults[rng.usize(..faults.len())])
        }
        _ => ("?", Fault::None),
    }
}

impl Incarnation {
    fn builder(
        self: &Arc<Self>,
        client: &Client,
        types: &[Type],
        (slots, prefetch): (usize, usize),
    ) -> worker_core::WorkerBuilder {
        self.write(What::Started { slots, prefetch });
        let queues = ["main", "side"];
        Worker::builder(client)
            .registry(registry(types))
            .state_arc(Arc::clone(self))
            .queues(queues)
            .concurrency(slots)
            .prefetch(prefetch)
    }

    fn worker(self: &Arc<Self>, client: &Client, types: &[Type], size: (usize, usize)) -> Worker {
        self.builder(client, types, size).build().unwrap()
    }
}

async fn is_idle(inspector: &dyn Inspector) -> bool {
    let queues = inspector.queues(&[]).await.unwrap();
    queues.iter().all(|queue| queue.unfinished() == 0)
}
