//! Whether a queue of several shards takes and gives more than one of one: what the page about RabbitMQ prints.
//!
//! `cargo bench-shards [JOBS [ROUNDS [NODES]]]` starts a cluster of its own, of one node unless told otherwise, enqueues
//! into a queue with 1, 2 and 4 shards in turn, in batches, and runs the jobs in one worker. It prints jobs per second,
//! medians, and what they are of those of one shard. All nodes share the processors and the disk of this machine: what
//! a cluster of several machines gains cannot be measured so.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

use std::{sync::Arc, time::Instant};

use worker_core::{
    Client, Registry, Worker,
    brokers::rabbitmq::{RabbitBroker, RabbitOptions},
};
use worker_tests::{
    noop::{Noop, Ran, Sharded},
    rabbit::{Node, Vhost},
};

/// Jobs that run at once.
const SLOTS: usize = 128;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().unwrap());
    let (jobs, rounds, nodes) = (args.next().unwrap_or(20_000), args.next().unwrap_or(5), args.next().unwrap_or(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(jobs, rounds, usize::try_from(nodes).unwrap()));
}

/// Jobs per second, enqueued and processed, of each round.
type Rates = Vec<(f64, f64)>;

async fn measure(jobs: u64, rounds: u64, nodes: usize) {
    let nodes = Node::start_cluster(nodes).await;
    let node = &nodes[0];
    let (mut one, mut two, mut four) = (Rates::new(), Rates::new(), Rates::new());
    for _ in 0..rounds {
        one.push(round::<1>(node, jobs).await);
        two.push(round::<2>(node, jobs).await);
        four.push(round::<4>(node, jobs).await);
    }
    let count = nodes.len();
    println!("{jobs} jobs, {rounds} rounds, {count} nodes, {SLOTS} slots; jobs per second, median (of one shard's)");
    println!("{:>6}{:>22}{:>22}", "shards", "enqueue_all", "process, one worker");
    let base = (median(&one, |rates| rates.0), median(&one, |rates| rates.1));
    for (shards, rates) in [(1, &one), (2, &two), (4, &four)] {
        let (enqueue, process) = (median(rates, |rates| rates.0), median(rates, |rates| rates.1));
        println!("{shards:>6}{enqueue:>14.0} ({:>4.2}) {process:>13.0} ({:>4.2})", enqueue / base.0, process / base.1);
    }
}

fn median(rates: &Rates, of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    let mut values: Vec<_> = rates.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn round<const N: u8>(node: &Node, jobs: u64) -> (f64, f64) {
    let vhost = node.fresh_vhost().await;
    let client = Client::new(Arc::new(connect(node, &vhost).await));
    // Declares the queues, which is not what is measured.
    for n in 0..u64::from(N) {
        client.enqueue(Sharded::<N>(Noop::new(n))).await.unwrap();
    }
    let started = Instant::now();
    let answers = client.enqueue_all((0..jobs).map(|n| Sharded::<N>(Noop::new(n)))).await;
    assert!(answers.iter().all(Result::is_ok));
    let enqueued = jobs as f64 / started.elapsed().as_secs_f64();

    let all = jobs + u64::from(N);
    let ran = Arc::new(Ran::none_of(all));
    let registry = Registry::new().with::<Sharded<N>>();
    let worker = Worker::builder(&client).registry(registry).state_arc(Arc::clone(&ran)).concurrency(SLOTS);
    let started = Instant::now();
    // The run ends when the last acknowledgement is sent.
    let report = worker.build().unwrap().run(ran.all.notified()).await.unwrap();
    assert_eq!((report.settled, ran.count()), (all, all));
    let processed = all as f64 / started.elapsed().as_secs_f64();
    client.close().await.unwrap();
    (enqueued, processed)
}

async fn connect(node: &Node, vhost: &Vhost) -> RabbitBroker {
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), node.amqp_port())];
    options.vhost = vhost.name().to_owned();
    RabbitBroker::connect(options).await.unwrap()
}
