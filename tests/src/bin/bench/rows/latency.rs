//! P5: how soon a job starts on a system that has nothing else to do.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use worker_core::{Client, Registry, Worker};
use worker_tests::noop::Noop;

use crate::{
    bare::{amqp, sqlite},
    child::{Child, Role},
    jobs::{Ring, Told},
    measure::{Goal, Line, Sample, Unit},
    ours::{Kind, Site},
    stage::{Contest, Stage},
};

/// Between two jobs: long enough that everything is idle again.
const PAUSE: Duration = Duration::from_millis(5);

const BARE: &str = "bare";
const OURS: &str = "framework";
const ACROSS: &str = "framework, two processes";

pub(crate) async fn latency(stage: &Stage) -> Vec<Line> {
    let jobs = stage.jobs(1_000, 30) as usize;
    let mut lines = Vec::new();
    for kind in Kind::BOTH {
        let contest = Contest::new(stage, "P5").side(BARE, async || match kind {
            Kind::RabbitMq => percentiles(bare_rabbit(stage, jobs).await),
            Kind::Sqlite => percentiles(bare_sqlite(jobs).await),
        });
        let contest = contest.side(OURS, async || {
            let site = Site::new(stage, kind).await;
            let times = within(&site.client, jobs).await;
            site.close().await;
            percentiles(times)
        });
        let contest = contest.side(ACROSS, async || percentiles(across(stage, kind, jobs).await));
        let results = contest.run().await;
        let line = |side: &str, n: usize, what: &str, goal| {
            let line = Line::new(format!("{}, {what}", kind.name()), Unit::Milliseconds, goal, results.of(side, n));
            results.beside(line, BARE, n)
        };
        lines.push(line(OURS, 0, "p50", Goal::AboveBaseAtMost(0.1)));
        lines.push(line(OURS, 1, "p99", Goal::RatioAtMost(1.5)));
        lines.push(line(ACROSS, 0, "across two processes, p50", Goal::None));
        lines.push(line(ACROSS, 1, "across two processes, p99", Goal::None));
    }
    lines
}

/// The 50th and the 99th, in milliseconds.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> Vec<Sample> {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    [50, 99].map(|percent| Sample::plain(at(percent).as_secs_f64() * 1e3)).to_vec()
}

/// Rings one job at a time, and gives how long each took to be heard.
pub(crate) async fn ring(client: &Client, heard: &mut mpsc::Receiver<Instant>, jobs: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..jobs {
        sleep(PAUSE).await;
        let called = Instant::now();
        client.enqueue(Ring {}).await.unwrap();
        times.push(heard.recv().await.unwrap().duration_since(called));
    }
    times
}

/// Client and worker in one process.
async fn within(client: &Client, jobs: usize) -> Vec<Duration> {
    let (told, mut heard) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::builder(client).registry(Registry::new().with::<Ring>()).state(Told(told)).build().unwrap();
    let mut working = JoinSet::new();
    working.spawn(worker.run(async { drop(stopped.await) }));
    // The first one finds connections and queues that are not there yet.
    ring(client, &mut heard, 5).await;
    let times = ring(client, &mut heard, jobs).await;
    drop(stop);
    working.join_all().await.into_iter().for_each(|report| assert!(report.unwrap().is_clean()));
    times
}

/// The worker in a process of its own: the clock is stopped when its sign has come back.
async fn across(stage: &Stage, kind: Kind, jobs: usize) -> Vec<Duration> {
    let site = Site::new(stage, kind).await;
    let mut child = Child::start(&site.url, Role::Ring);
    let mut times = Vec::new();
    for n in 0..jobs + 5 {
        sleep(PAUSE).await;
        let called = Instant::now();
        site.client.enqueue(Ring {}).await.unwrap();
        let began = child.hear().await;
        if n >= 5 {
            times.push(began - called);
        }
    }
    child.end().await;
    site.close().await;
    times
}

async fn bare_rabbit(stage: &Stage, jobs: usize) -> Vec<Duration> {
    let vhost = stage.node().await.fresh_vhost().await;
    let (publishing, consuming) = (amqp::connect(vhost.url()).await, amqp::connect(vhost.url()).await);
    let publisher = amqp::publisher(&publishing).await;
    amqp::declare(&publisher, BARE).await;
    let channel = consuming.create_channel().await.unwrap();
    channel.basic_qos(32, BasicQosOptions::default()).await.unwrap();
    let consumed =
        channel.basic_consume(BARE.into(), BARE.into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = consumed.await.unwrap();
    let (told, mut heard) = mpsc::channel(1);
    let mut hearing = JoinSet::new();
    hearing.spawn(async move {
        while let Some(Ok(delivery)) = consumer.next().await {
            black_box(serde_json::from_slice::<Noop>(&delivery.data).unwrap());
            let began = Instant::now();
            if let Some(written) = channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).now_or_never() {
                written.unwrap();
            }
            if told.send(began).await.is_err() {
                return;
            }
        }
    });
    let mut times = Vec::new();
    for n in 0..jobs + 5 {
        sleep(PAUSE).await;
        let called = Instant::now();
        amqp::publish_one(&publisher, BARE, &Noop::new(n as u64)).await;
        let began = heard.recv().await.unwrap();
        if n >= 5 {
            times.push(began - called);
        }
    }
    hearing.shutdown().await;
    publishing.close(200, "done".into()).await.unwrap();
    consuming.close(200, "done".into()).await.unwrap();
    times
}

async fn bare_sqlite(jobs: usize) -> Vec<Duration> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    spawn_blocking(move || sqlite::latencies(&path, jobs, PAUSE)).await.unwrap()
}
