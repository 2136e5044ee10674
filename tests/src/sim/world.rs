//! A simulated world: a producer, workers that come and go, and a broker that fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::fault::{Call, Fault, FaultyBroker};
use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use worker_core::{
    BrokerErrorKind, Client, ClientOptions, Clock,
    broker::{Broker as _, DeadJob, Inspector, Page, Selection},
    brokers::memory::MemoryBroker,
    hours, seconds,
};

use crate::sim::{
    clock::WallClock,
    plan::Type,
    record::What,
    stage::{Incarnation, Life, Stage, Wish},
    witness::Witness,
};

/// How long everything may take to come to its end once nothing fails any more: what was enqueued by a clock that was
/// an hour ahead is due an hour later.
const HEALING_MAX: Duration = hours(3);

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) stage: Arc<Stage>,
    /// All is on one machine: the broker is in its memory.
    clock: WallClock,
    broker: MemoryBroker,
    healthy: Arc<AtomicBool>,
    healed: CancellationToken,
}

impl World {
    pub(super) fn new(seed: u64, only: Option<&[String]>) -> Arc<Self> {
        let stage = Arc::new(Stage::new(seed, only));
        let clock = stage.clock();
        let broker = MemoryBroker::with_clock(Arc::new(clock.clone()));
        Arc::new(Self { stage, clock, broker, healthy: Arc::default(), healed: CancellationToken::new() })
    }

    /// Lives to the end; gives the dead.
    pub(super) async fn live(self: &Arc<Self>) -> Vec<DeadJob> {
        let mut actors = JoinSet::new();
        actors.spawn(Arc::clone(self).produce());
        for slot in 0..self.stage.plan.workers {
            actors.spawn(Arc::clone(self).supervise(slot));
        }
        let mut nemesis = JoinSet::new();
        if self.stage.clocks_are_set() {
            nemesis.spawn(Arc::clone(&self.stage).set_clocks(vec![self.clock.clone()]));
        }
        sleep(self.stage.plan.trouble_lasts).await;
        nemesis.shutdown().await;
        self.stage.set_right(std::slice::from_ref(&self.clock));
        self.healthy.store(true, Ordering::SeqCst);
        self.stage.record.write(0, What::Healed);
        self.healed.cancel();
        while let Some(ended) = actors.join_next().await {
            ended.unwrap();
        }
        self.finish().await
    }

    /// Lets one healthy worker do what is left.
    async fn finish(self: &Arc<Self>) -> Vec<DeadJob> {
        let (incarnation, client, _) = self.incarnate(u64::MAX);
        let worker = incarnation.builder(&client, &Type::ALL, (8, 16)).build().unwrap();
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
        let mut rng = self.stage.rng(1);
        let witness =
            Witness { inner: Arc::new(self.broker.another_process()), stage: Arc::clone(&self.stage), process: 0 };
        let client = self.client(Arc::new(FaultyBroker::new(Arc::new(witness), self.script(0, rng.fork()))));
        let mut jobs: Vec<_> = self.stage.plan.jobs.iter().collect();
        jobs.sort_by_key(|job| job.enqueue_at);
        for job in jobs {
            sleep(job.enqueue_at.saturating_sub(self.stage.record.now())).await;
            self.stage.enqueue(&client, job, &mut rng).await;
        }
    }

    /// Runs one worker after the other until the world is healed.
    async fn supervise(self: Arc<Self>, slot: u64) {
        let mut rng = self.stage.rng(100 + slot);
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
        let mut life = Life::begin(Arc::clone(&incarnation), worker);
        let lives = Duration::from_millis(rng.u64(100..25_000));
        tokio::select! {
            biased;
            () = life.ended() => return,
            () = self.healed.cancelled() => {}
            () = sleep(lives), if self.stage.plan.workers_end => {}
        }
        if rng.u8(..4) == 0 && !self.healed.is_cancelled() {
            incarnation.write(What::Lapsed);
            process.lapse();
            sleep(Duration::from_millis(rng.u64(0..10_000))).await;
        }
        let wish = match rng.u8(..5) {
            0 => {
                incarnation.write(What::Crashed);
                process.crash();
                return life.vanish().await;
            }
            1 => {
                incarnation.write(What::Asked { to: "vanish" });
                return life.vanish().await;
            }
            2 => Wish::Abort,
            3 => Wish::DrainThenAbort,
            _ => Wish::Drain,
        };
        // The five seconds for the broker, and one for the rounding of both.
        life.ask(wish, grace, seconds(6)).await;
    }

    /// Another worker process, with a client on a broker that fails.
    fn incarnate(&self, seed: u64) -> (Arc<Incarnation>, Client, Arc<MemoryBroker>) {
        let incarnation = self.stage.incarnate();
        let process = incarnation.process;
        let inner = Arc::new(self.broker.another_process());
        let witness = Witness { inner: Arc::clone(&inner), stage: Arc::clone(&self.stage), process };
        let script = self.script(process, Rng::with_seed(seed));
        let client = self.client(Arc::new(FaultyBroker::new(Arc::new(witness), script)));
        (incarnation, client, inner)
    }

    fn client(&self, broker: Arc<FaultyBroker>) -> Client {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        Client::with_clock(broker, ClientOptions::default(), clock)
    }

    /// What goes wrong with the calls of one process.
    fn script(&self, process: u64, mut rng: Rng) -> impl FnMut(Call<'_>) -> Fault + Send + 'static {
        let (healthy, stage) = (Arc::clone(&self.healthy), Arc::clone(&self.stage));
        let per_mille = self.stage.plan.faults_per_mille;
        move |call| {
            if healthy.load(Ordering::SeqCst) || rng.u32(..1_000) >= per_mille {
                return Fault::None;
            }
            let (name, fault) = draw(&mut rng, call);
            if fault != Fault::None {
                stage.record.write(process, What::Failed { call: name, fault });
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
    }
}

async fn is_idle(inspector: &dyn Inspector) -> bool {
    let queues = inspector.queues(&[]).await.unwrap();
    queues.iter().all(|queue| queue.unfinished() == 0)
}
