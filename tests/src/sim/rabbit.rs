//! The same jobs and handlers on the RabbitMQ broker, over a simulated server that is killed, cut, slow and full.
//!
//! Everything above the seam is real: the supervisors of connections, the publishers, lanes and porters, the worker.
//! What is simulated is the server and the way to it. The trouble ends, everything must come to its end, and what
//! the handlers saw is held against the plan ([`tally`](super::tally)).

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use worker_core::{
    Client, ClientOptions, Clock,
    broker::{DeadJob, Page, Selection},
    brokers::rabbitmq::{RabbitOptions, SimulatedProcess, SimulatedServer},
    hours, seconds,
};

use crate::{
    fault::{Call, Fault, FaultyBroker},
    sim::{
        clock::WallClock,
        plan::Type,
        record::What,
        stage::{Incarnation, Life, Stage, Wish},
    },
};

/// How long everything may take to come to its end once nothing fails any more: what was enqueued by a clock that was
/// an hour ahead is due an hour later.
const HEALING_MAX: Duration = hours(3);

/// What is done to the server and the ways to it.
pub(super) const TROUBLES: [&str; 7] =
    ["server killed", "connections closed", "alarm", "slow", "very slow", "full", "empty queue deleted"];

/// Deliveries at the start and in each second that are jobs, and no loop: there are at most sixty, each with some
/// attempts and waits, and one that must wait for room is put off each second.
const DELIVERIES_MAX: (u64, u64) = (2_000, 50);

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) stage: Arc<Stage>,
    server: SimulatedServer,
    /// Whether it is a server of 4.3; one of 3.10 otherwise.
    modern: bool,
    /// Nothing goes wrong, and each worker lives to the end.
    pub(super) calm: bool,
    /// Of the machines: the producer's, and that of each slot for workers.
    clocks: Vec<WallClock>,
    healed: CancellationToken,
}

/// How a world ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) dead: Vec<DeadJob>,
    /// What is in the queues that should be empty.
    pub(super) left: BTreeMap<String, usize>,
    pub(super) connections: u64,
    /// How often whoever sent a job's message did not learn in time what became of it.
    pub(super) unknown: BTreeMap<String, usize>,
    /// Something went round without end.
    pub(super) hot: bool,
    /// Somebody has consumed without a limit.
    pub(super) unlimited: bool,
    /// Somebody has published what belongs to the server: through which queues a message went.
    pub(super) copied_deaths: bool,
    /// Somebody has settled what it did not have, or had no more.
    pub(super) settled_unknown: bool,
}

impl World {
    pub(super) fn new(seed: u64, only: Option<&[String]>) -> Arc<Self> {
        let stage = Arc::new(Stage::new(seed, only));
        let modern = stage.rng(2).bool();
        let server = SimulatedServer::new(if modern { "4.3.6" } else { "3.10.8" }, seed);
        // Everything takes a while: what goes round in no time would do so for ever.
        server.slow(1..=5, 0..=20);
        let calm = stage.rng(4).u8(..5) == 0;
        let clocks = (0..=stage.plan.workers).map(|_| stage.clock()).collect();
        Arc::new(Self { stage, server, modern, calm, clocks, healed: CancellationToken::new() })
    }

    /// Whether the server and the ways to it fail.
    fn has_trouble(&self) -> bool {
        !self.calm && self.stage.plan.faults_per_mille > 0
    }

    fn workers_end(&self) -> bool {
        !self.calm && self.stage.plan.workers_end
    }

    /// Lives to the end.
    pub(super) async fn live(self: &Arc<Self>) -> Ended {
        let mut actors = JoinSet::new();
        actors.spawn(Arc::clone(self).produce());
        for slot in 0..self.stage.plan.workers {
            actors.spawn(Arc::clone(self).supervise(slot));
        }
        let mut nemesis = JoinSet::new();
        if self.has_trouble() {
            nemesis.spawn(Arc::clone(self).trouble());
            // In some worlds each, so that what remains is not drowned.
            if self.stage.rng(5).u8(..3) == 0 {
                nemesis.spawn(Arc::clone(self).fall_silent());
            }
            if self.stage.rng(9).bool() {
                nemesis.spawn(Arc::clone(self).lose_patience());
            }
            if self.stage.rng(10).u8(..3) == 0 {
                nemesis.spawn(Arc::clone(self).stall());
            }
            if self.stage.clocks_are_set() {
                nemesis.spawn(Arc::clone(&self.stage).set_clocks(self.clocks.clone()));
            }
        }
        let ends = self.stage.record.now() + self.stage.plan.trouble_lasts;
        while self.stage.record.now() < ends && !self.is_hot() {
            sleep(seconds(1)).await;
        }
        nemesis.shutdown().await;
        self.server.start();
        self.server.alarm(None);
        self.server.fill(false);
        self.server.slow(1..=5, 0..=20);
        self.server.silence(false);
        self.server.stall(None);
        if self.has_trouble() {
            self.stage.set_right(&self.clocks);
        }
        self.stage.record.write(0, What::Healed);
        self.healed.cancel();
        let ended = async {
            while let Some(ended) = actors.join_next().await {
                ended.unwrap();
            }
        };
        timeout(HEALING_MAX, ended).await.expect("producer and workers came to their end");
        self.finish().await
    }

    /// Lets one healthy worker do what is left.
    async fn finish(self: &Arc<Self>) -> Ended {
        let (incarnation, client, _) = self.incarnate(self.stage.clock());
        let worker = incarnation.builder(&client, &Type::ALL, (8, 16)).build().unwrap();
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        let on_shutdown = shutdown.clone().cancelled_owned();
        task.spawn(async move { worker.run(on_shutdown).await });
        let idle = async {
            let began = self.stage.record.now();
            while !self.left().is_empty() && !self.is_hot() {
                // What waits for hours is not looked at each second.
                let pause = (self.stage.record.now() - began) / 10;
                sleep(pause.clamp(seconds(1), seconds(30))).await;
            }
        };
        // Whether it did come to its end, the tally says.
        drop(timeout(HEALING_MAX, idle).await);
        shutdown.cancel();
        let report = task.join_next().await.unwrap().unwrap();
        incarnation.write(What::Ended { report: report.map_err(|error| error.to_string()) });
        let inspector = client.broker().inspector().unwrap();
        let known = ["main", "side"].map(|name| name.parse().unwrap()).to_vec();
        let mut selection = Selection::default();
        selection.known = known;
        let dead = inspector.dead(&selection, Page::first(10_000)).await.unwrap().jobs;
        client.close().await.unwrap();
        let (unlimited, copied_deaths) = (self.server.was_consumed_without_limit(), self.server.was_told_of_deaths());
        let (connections, hot) = (self.server.connections(), self.is_hot());
        let ids = self.stage.plan.jobs.iter().map(|job| job.id.clone());
        let unknown = ids.map(|id| (id.clone(), self.server.unknown_publishes(&id))).collect();
        let settled_unknown = self.server.was_told_of_unknown_deliveries();
        Ended { dead, unknown, left: self.left(), connections, hot, unlimited, copied_deaths, settled_unknown }
    }

    /// Whether something goes round without end.
    fn is_hot(&self) -> bool {
        let seconds = self.stage.record.now().as_secs();
        self.server.deliveries() > DELIVERIES_MAX.0 + DELIVERIES_MAX.1 * seconds
    }

    /// What is in the queues that should become empty.
    fn left(&self) -> BTreeMap<String, usize> {
        let mut depths = self.server.depths();
        depths.retain(|name, depth| *depth > 0 && !name.ends_with("_dlq"));
        depths
    }

    /// Lets the server and the ways to it fail, one thing after the other.
    async fn trouble(self: Arc<Self>) {
        let mut rng = self.stage.rng(3);
        let mut calm = 20_000 / u64::from(self.stage.plan.faults_per_mille);
        calm = calm.clamp(500, 5_000);
        loop {
            sleep(Duration::from_millis(rng.u64(0..2 * calm))).await;
            let lasts = Duration::from_millis(rng.u64(50..8_000));
            let what = TROUBLES[rng.usize(..TROUBLES.len())];
            self.stage.record.write(0, What::Trouble { what });
            match what {
                "server killed" => {
                    self.server.kill();
                    sleep(lasts).await;
                    self.server.start();
                }
                "connections closed" => self.server.close_all_connections(),
                "alarm" => {
                    self.server.alarm(Some("low on memory"));
                    sleep(lasts * 2).await;
                    self.server.alarm(None);
                }
                "full" => {
                    self.server.fill(true);
                    sleep(lasts).await;
                    self.server.fill(false);
                }
                "empty queue deleted" => self.delete_an_empty_queue(&mut rng),
                "slow" => self.server.slow(1..=50, 0..=500),
                _ => {
                    // Longer than anybody waits for an answer or a confirm.
                    self.server.slow(1..=6_000, 0..=20_000);
                    sleep(lasts).await;
                    self.server.slow(1..=5, 0..=20);
                }
            }
        }
    }

    /// Lets publishes go unconfirmed, now and then, on all connections that publish meanwhile.
    async fn fall_silent(self: Arc<Self>) {
        let mut rng = self.stage.rng(5);
        loop {
            sleep(Duration::from_millis(rng.u64(0..30_000))).await;
            self.stage.record.write(0, What::Trouble { what: "silent" });
            self.server.silence(true);
            sleep(Duration::from_millis(rng.u64(50..16_000))).await;
            self.server.silence(false);
        }
    }

    /// Takes away, now and then, what a worker has held for long, as a short `consumer_timeout` does.
    async fn lose_patience(self: Arc<Self>) {
        let mut rng = self.stage.rng(9);
        loop {
            sleep(Duration::from_millis(rng.u64(0..10_000))).await;
            if self.server.lose_patience(Duration::from_millis(rng.u64(0..5_000))) > 0 {
                self.stage.record.write(0, What::Trouble { what: "patience lost" });
            }
        }
    }

    /// Lets one queue after the other stand still, also for longer than anybody waits for a confirm.
    async fn stall(self: Arc<Self>) {
        let mut rng = self.stage.rng(10);
        loop {
            sleep(Duration::from_millis(rng.u64(0..20_000))).await;
            let depths = self.server.depths();
            let Some((name, _)) = rng.choice(&depths) else { continue };
            self.stage.record.write(0, What::Trouble { what: "queue stalled" });
            self.server.stall(Some(name));
            sleep(Duration::from_millis(rng.u64(50..30_000))).await;
            self.server.stall(None);
        }
    }

    /// Deletes a queue of ours that is not a job's own, as a policy does with those that nobody uses.
    fn delete_an_empty_queue(&self, rng: &mut Rng) {
        let depths = self.server.depths();
        let may_go = |name: &str| !["main", "side"].contains(&name) && !name.ends_with(".turn");
        let empty: Vec<_> = depths.iter().filter(|(name, depth)| **depth == 0 && may_go(name)).collect();
        if let Some((name, _)) = rng.choice(empty) {
            self.server.delete_queue(name);
        }
    }

    /// Enqueues the planned jobs, each until it is known to be durable.
    async fn produce(self: Arc<Self>) {
        let mut rng = self.stage.rng(1);
        let (_, client, process) = self.incarnate(self.clocks[0].clone());
        let mut jobs = self.stage.plan.jobs.clone();
        jobs.sort_by_key(|job| job.enqueue_at);
        // In some worlds several jobs share a message.
        let mut of_bundles = self.stage.rng(8);
        let bundle = [1, 1, 3, 8][of_bundles.usize(..4)];
        while !jobs.is_empty() {
            let count = of_bundles.usize(1..=usize::from(bundle)).min(jobs.len());
            let mut together: Vec<_> = jobs.drain(..count).collect();
            for job in &mut together {
                job.bundle = bundle;
                if !self.modern {
                    // A quorum queue has none there, and a job that asks for one is refused.
                    job.priority = 4;
                }
            }
            let last = together.iter().map(|job| job.enqueue_at).max().unwrap_or_default();
            sleep(last.saturating_sub(self.stage.record.now())).await;
            if self.has_trouble() && rng.u8(..40) == 0 {
                self.stage.record.write(0, What::Trouble { what: "producer cut" });
                process.cut();
            }
            match &*together {
                [job] => self.stage.enqueue(&client, job, &mut rng).await,
                jobs => self.stage.enqueue_all(&client, jobs, &mut rng).await,
            }
        }
        client.close().await.unwrap();
    }

    /// Runs one worker after the other until the world is healed.
    async fn supervise(self: Arc<Self>, slot: u64) {
        let mut rng = self.stage.rng(100 + slot);
        while !self.healed.is_cancelled() {
            self.one_life(slot, &mut rng).await;
            let pause = Duration::from_millis(rng.u64(0..4_000));
            drop(timeout(pause, self.healed.cancelled()).await);
        }
    }

    async fn one_life(self: &Arc<Self>, slot: u64, rng: &mut Rng) {
        let clock = self.clocks[usize::try_from(slot).unwrap() + 1].clone();
        let (incarnation, client, process) = self.incarnate(clock);
        // In a rolling deploy not every worker knows every job.
        let types: Vec<_> = Type::ALL.into_iter().filter(|_| rng.u8(..5) > 0 || self.calm).collect();
        let types = if types.is_empty() { vec![Type::Steady] } else { types };
        let (slots, grace) = (rng.usize(1..5), Duration::from_millis(rng.u64(0..30_000)));
        // Long enough for what runs, where nothing goes wrong.
        let grace = if self.calm { seconds(60) } else { grace };
        let builder = incarnation.builder(&client, &types, (slots, rng.usize(1..8)));
        let worker = builder.grace(grace).build().unwrap();
        let mut life = Life::begin(Arc::clone(&incarnation), worker);
        let lives = Duration::from_millis(rng.u64(100..25_000));
        tokio::select! {
            biased;
            () = life.ended() => return client.close().await.unwrap(),
            () = self.healed.cancelled() => {}
            () = sleep(lives), if self.workers_end() => {}
        }
        if self.workers_end() && rng.u8(..4) == 0 && !self.healed.is_cancelled() {
            incarnation.write(What::Lapsed);
            process.cut();
            sleep(Duration::from_millis(rng.u64(0..10_000))).await;
        }
        let wish = match if self.calm { 3 } else { rng.u8(..4) } {
            0 if self.workers_end() => {
                incarnation.write(What::Crashed);
                process.die();
                return life.vanish().await;
            }
            1 => Wish::Abort,
            2 => Wish::DrainThenAbort,
            _ => Wish::Drain,
        };
        // What the broker may take for its end.
        life.ask(wish, grace, seconds(12)).await;
        client.close().await.unwrap();
    }

    /// Another process, with a client of its own.
    fn incarnate(&self, clock: WallClock) -> (Arc<Incarnation>, Client, SimulatedProcess) {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let (broker, process) = self.server.process(&RabbitOptions::default(), Arc::clone(&clock));
        let incarnation = self.stage.incarnate();
        let mut rng = self.stage.rng(1_000 + incarnation.process);
        // In half of the lives how much is held changes all the time, as with jobs that are quick and slow in turn.
        let resizes = rng.bool();
        let broker = FaultyBroker::new(Arc::new(broker), move |call| match call {
            Call::NextBatch if resizes && rng.u8(..4) == 0 => {
                Fault::Resized(NonZeroU16::MIN.saturating_add(rng.u16(..20)))
            }
            _ => Fault::None,
        });
        let client = Client::with_clock(Arc::new(broker), ClientOptions::default(), clock);
        (incarnation, client, process)
    }
}
