//! What all simulated worlds have: the plan of a seed, the record, and the lives of processes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use fastrand::Rng;
use worker_core::{Client, Worker, WorkerBuilder};

use crate::sim::{
    plan::{JobPlan, Plan, Type},
    record::{Record, What, WorldClock},
    tasks::registry,
};

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Plan,
    pub(super) seed: u64,
    pub(super) clock: WorldClock,
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
    pub(super) fn new(seed: u64) -> Self {
        let clock = WorldClock::starting_now();
        Self {
            plan: Plan::new(&mut Rng::with_seed(seed)),
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
