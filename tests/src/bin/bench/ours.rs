//! The framework's side: the same work through `Client` and `Worker`, as an application has them.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};
use worker_core::{
    Client, DrainReport, JobId, QueueName, Registry, Timestamp, Worker, WorkerBuilder,
    broker::{BATCH_MAX, Topology},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
    envelope::Envelope,
};
use worker_tests::{
    noop::{Noop, Ran, Sharded},
    rabbit::Vhost,
};

use crate::{jobs::none_of, stage::Stage};

/// The brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    RabbitMq,
    Sqlite,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::RabbitMq, Self::Sqlite];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RabbitMq => "RabbitMQ",
            Self::Sqlite => "SQLite",
        }
    }
}

/// A client with a place of its own, which ends with it.
pub(crate) struct Site {
    pub(crate) client: Client,
    /// Where another process reaches the same: a URL.
    pub(crate) url: String,
    _place: Place,
}

enum Place {
    Folder(#[expect(dead_code, reason = "it is removed when it is dropped")] TempDir),
    Vhost(#[expect(dead_code, reason = "it is removed when it is dropped")] Vhost),
}

impl Site {
    pub(crate) async fn new(stage: &Stage, kind: Kind) -> Self {
        match kind {
            Kind::RabbitMq => {
                let vhost = stage.node().await.fresh_vhost().await;
                let client = Client::connect(vhost.url()).await.unwrap();
                Self { client, url: vhost.url().to_owned(), _place: Place::Vhost(vhost) }
            }
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("jobs.db");
                let broker = SqliteBroker::open(&path, SqliteOptions::default()).await.unwrap();
                let url = format!("sqlite://{}", path.display());
                Self { client: Client::new(Arc::new(broker)), url, _place: Place::Folder(folder) }
            }
        }
    }

    pub(crate) async fn close(self) {
        self.client.close().await.unwrap();
    }
}

/// Enqueues no-op jobs in one call.
pub(crate) async fn enqueue_all(client: &Client, jobs: Range<u64>) {
    enqueue_bundles(client, jobs, 1).await;
}

/// The same, so many in a message.
pub(crate) async fn enqueue_bundles(client: &Client, jobs: Range<u64>, bundle: u16) {
    for answer in client.enqueue_all(jobs.map(Noop::new)).bundle(bundle).await {
        answer.unwrap();
    }
}

/// The same, into a queue with so many shards.
pub(crate) async fn enqueue_sharded(client: &Client, jobs: Range<u64>, shards: u8) {
    let answers = match shards {
        1 => client.enqueue_all(jobs.map(|n| Sharded::<1>(Noop::new(n)))).await,
        2 => client.enqueue_all(jobs.map(|n| Sharded::<2>(Noop::new(n)))).await,
        4 => client.enqueue_all(jobs.map(|n| Sharded::<4>(Noop::new(n)))).await,
        other => panic!("{other} shards are not measured"),
    };
    answers.into_iter().for_each(|answer| drop(answer.unwrap()));
}

/// Enqueues no-op jobs from so many tasks that each wait for their own.
pub(crate) async fn enqueue_from_tasks(client: &Client, tasks: u64, jobs: u64) {
    let mut enqueueing = JoinSet::new();
    for task in 0..tasks {
        let client = client.clone();
        enqueueing.spawn(async move {
            for n in 0..jobs / tasks {
                client.enqueue(Noop::new(task * (jobs / tasks) + n)).await.unwrap();
            }
        });
    }
    enqueueing.join_all().await;
}

/// Enqueues bodies into queues, of jobs with these names, in batches: where the queue is no type's own.
pub(crate) async fn enqueue_bodies(client: &Client, jobs: impl IntoIterator<Item = (QueueName, String, String)>) {
    let envelope = |(queue, name, body): (QueueName, String, String)| {
        Envelope::new(JobId::new(), queue, Some(name.parse().unwrap()), body, Timestamp::default())
    };
    let envelopes: Vec<_> = jobs.into_iter().map(envelope).collect();
    for batch in envelopes.chunks(BATCH_MAX) {
        for answer in client.broker().enqueue(batch.to_vec()).await {
            answer.unwrap();
        }
    }
}

/// Makes queues that are no type's own.
pub(crate) async fn declare(client: &Client, queues: impl IntoIterator<Item = QueueName>) {
    client.declare(&Topology::queues(queues)).await.unwrap();
}

/// How a worker is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) slots: usize,
    /// How many it holds; `None` leaves that to the worker.
    pub(crate) prefetch: Option<usize>,
}

impl Size {
    /// Twice as many in hand as there are slots.
    pub(crate) const fn of_prefetch(prefetch: usize) -> Self {
        Self { slots: prefetch / 2, prefetch: Some(prefetch) }
    }

    /// So many slots; how many it holds is left to the worker.
    pub(crate) const fn of_slots(slots: usize) -> Self {
        Self { slots, prefetch: None }
    }
}

/// A worker of this size, before anything else is said.
pub(crate) fn worker(client: &Client, registry: Registry, ran: &Arc<Ran>, size: Size) -> WorkerBuilder {
    let worker = Worker::builder(client).registry(registry).state_arc(Arc::clone(ran));
    let worker = worker.concurrency(size.slots);
    match size.prefetch {
        Some(prefetch) => worker.prefetch(prefetch),
        None => worker,
    }
}

/// What a worker has done.
pub(crate) struct Done {
    /// So many executions were settled, as the broker has confirmed, ...
    pub(crate) settled: u64,
    /// ... when the clock is stopped: the worker's own end is no part of its speed.
    pub(crate) at: Instant,
    pub(crate) report: DrainReport,
}

/// Runs `worker` until all that `ran` wants have run and are settled, and ends it.
pub(crate) async fn run(worker: WorkerBuilder, ran: &Ran) -> Done {
    let worker = worker.build().unwrap();
    let status = worker.status();
    let (mut settled, mut at) = (0, Instant::now());
    let all_settled = async {
        ran.all.notified().await;
        while status.settled() < ran.wanted() {
            sleep(Duration::from_millis(1)).await;
        }
        (settled, at) = (status.settled(), Instant::now());
    };
    let report = worker.run(all_settled).await.unwrap();
    Done { settled, at, report }
}

/// Runs so many no-op jobs, which wait already or are enqueued meanwhile, and no other; when the last was settled.
pub(crate) async fn process(client: &Client, jobs: u64, size: Size) -> Instant {
    let ran = none_of(jobs);
    let done = run(worker(client, Registry::new().with::<Noop>(), &ran, size), &ran).await;
    assert_eq!((done.report.settled, ran.count()), (jobs, jobs));
    done.at
}

/// Enqueues and runs a few jobs, so that connections and queues are there.
pub(crate) async fn warm_up(client: &Client) {
    enqueue_all(client, 0..100).await;
    process(client, 100, Size::of_prefetch(64)).await;
}
