//! What a server lets a worker have: its channels, and its patience with those who hold a job for long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use worker_core::{
    Client, Clock as _, JobId, QueueName, Registry, SystemClock, Worker,
    broker::{BATCH_MAX, Topology},
    envelope::Envelope,
    prelude::*,
};
use worker_tests::{
    eventually::eventually_within,
    rabbit::{Node, shared_node, shared_vhost},
};

use crate::bench::Running;

const QUEUES: usize = 200;
const EACH: usize = 10;

/// How often each queue's job ran.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, usize>>);

#[job]
async fn tick(tally: State<Tally>, cx: Context) {
    *tally.0.lock().unwrap().entry(cx.queue().to_string()).or_default() += 1;
}

fn queue(n: usize) -> QueueName {
    format!("q{n}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_serves_two_hundred_queues_on_two_channels_each() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    for queues in (0..QUEUES).map(queue).collect::<Vec<_>>().chunks(20) {
        client.declare(&Topology::queues(queues.iter().cloned())).await.unwrap();
    }
    let jobs = (0..QUEUES * EACH).map(|n| {
        Envelope::new(JobId::new(), queue(n % QUEUES), Some("tick".parse().unwrap()), &b"{}"[..], SystemClock.now())
    });
    for batch in jobs.collect::<Vec<_>>().chunks(BATCH_MAX) {
        assert!(client.broker().enqueue(batch.to_vec()).await.iter().all(Result::is_ok));
    }
    let tally = Arc::new(Tally::default());
    let worker = Worker::builder(&client)
        .registry(Registry::new().with::<tick>())
        .state_arc(Arc::clone(&tally))
        .queues((0..QUEUES).map(|n| format!("q{n}")))
        .concurrency(32)
        .prefetch(4);
    let running = Running::start(worker);
    eventually_within(Duration::from_secs(120), "all jobs of all queues have run", async || {
        let tally = tally.0.lock().unwrap();
        (tally.values().sum::<usize>() == QUEUES * EACH).then_some(())
    })
    .await;
    assert!(tally.0.lock().unwrap().values().all(|ran| *ran == EACH), "each queue has its turn");
    let channels = shared_node().count_channels(vhost.name()).await;
    assert!(channels <= 2 * QUEUES as u64 + 10, "{channels} channels");
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn more_queues_than_a_connection_has_channels_for_are_refused_at_the_start() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let worker = Worker::builder(&client).registry(Registry::new()).queues((0..1_001).map(|n| format!("q{n}")));
    let problem = worker.build().unwrap_err().to_string();
    assert!(
        problem.contains("1001 queues are to be served, shards included, and one process serves 1000"),
        "{problem}"
    );
    // Each shard takes channels of its own.
    let names = ["wide".to_owned()].into_iter().chain((0..937).map(|n| format!("q{n}")));
    let worker = Worker::builder(&client).registry(Registry::new().with::<wide>()).queues(names);
    let problem = worker.build().unwrap_err().to_string();
    assert!(problem.contains("1001 queues are to be served"), "{problem}");
    client.close().await.unwrap();
}

#[job(queue = "wide", shards = 64)]
async fn wide() {}

#[job(queue = "long", timeout = "40m")]
async fn long(runs: State<AtomicU32>) {
    runs.fetch_add(1, Ordering::SeqCst);
    // Longer than the server's patience and the round in which it looks.
    sleep(Duration::from_secs(15)).await;
}

#[tokio::test]
async fn a_job_that_may_run_longer_than_the_server_lets_it_is_refused_at_the_start() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let build = || Worker::builder(&client).registry(Registry::new().with::<long>()).state(AtomicU32::new(0)).build();
    if shared_node().version().await >= (4, 3) {
        assert!(build().is_ok(), "the worker says how long it takes");
    } else {
        let problem = build().unwrap_err().to_string();
        assert!(problem.contains("job `long` (") && problem.contains("may run for 40m"), "{problem}");
        assert!(problem.contains("after 30m") && problem.contains("WORKER_RABBITMQ_CONSUMER_TIMEOUT"), "{problem}");
    }
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_server_that_asks_is_told_how_long_a_job_may_take() {
    if shared_node().version().await < (4, 3) {
        eprintln!("skipped: before 4.3 nobody is asked, and a job that takes too long is refused at the start");
        return;
    }
    let node = Node::start().await;
    node.limit_consumers(Duration::from_secs(2)).await;
    let vhost = node.fresh_vhost().await;
    let client = Client::connect(vhost.url()).await.unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let worker = Worker::builder(&client).registry(Registry::new().with::<long>()).state_arc(Arc::clone(&runs));
    client.declare(&Topology::queues(["long".parse().unwrap()])).await.unwrap();
    client.enqueue(long::new()).await.unwrap();
    let running = Running::start(worker);
    eventually_within(Duration::from_secs(60), "the job is done", async || {
        let queue = node.queue_info(vhost.name(), "long").await;
        (runs.load(Ordering::SeqCst) > 0 && queue.ready + queue.unacked == 0).then_some(())
    })
    .await;
    assert_eq!(runs.load(Ordering::SeqCst), 1, "it was not taken away");
    running.stop().await;
    client.close().await.unwrap();
}
