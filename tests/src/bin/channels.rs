//! Whether more channels publish more: what `WORKER_RABBITMQ_CHANNELS` has its default from.
//!
//! `cargo bench-channels [JOBS [ROUNDS]]` starts a node of its own and enqueues
//! into 8 queues with 1, 2, 4 and 16 channels in turn: in batches, and from 200
//! tasks of which each waits for its answer, as a web server's requests do. It
//! prints jobs per second, medians, and what they are of those of one channel.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

use std::{num::NonZeroU8, sync::Arc, time::Instant};

use futures_util::{StreamExt as _, stream};
use worker_core::{
    JobId, QueueName, Timestamp,
    broker::{BATCH_MAX, Broker, Topology},
    brokers::rabbitmq::{RabbitBroker, RabbitOptions},
    envelope::Envelope,
};
use worker_tests::rabbit::{Node, Vhost};

const QUEUES: usize = 8;
const TASKS: usize = 200;
const CHANNELS: [u8; 4] = [1, 2, 4, 16];

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().unwrap());
    let (jobs, rounds) = (args.next().unwrap_or(20_000), args.next().unwrap_or(5));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(jobs, rounds));
}

async fn measure(jobs: usize, rounds: usize) {
    let node = Node::start().await;
    let mut rates = [const { (Vec::new(), Vec::new()) }; CHANNELS.len()];
    for _ in 0..rounds {
        for (channels, rates) in CHANNELS.into_iter().zip(&mut rates) {
            let vhost = node.fresh_vhost().await;
            let broker = Arc::new(connect(&node, &vhost, channels).await);
            rates.0.push(batches(&broker, jobs).await);
            rates.1.push(tasks(&broker, jobs).await);
            broker.close().await.unwrap();
        }
    }
    println!(
        "{jobs} jobs into {QUEUES} quorum queues, {rounds} rounds, one node; jobs per second, median (of one channel's)"
    );
    println!("{:>8}{:>22}{:>22}", "channels", "batches of 1,000", "200 tasks, one each");
    let median = |rates: &Vec<f64>| {
        let mut rates = rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let one = (median(&rates[0].0), median(&rates[0].1));
    for (channels, rates) in CHANNELS.into_iter().zip(&rates) {
        let (batches, tasks) = (median(&rates.0), median(&rates.1));
        println!("{channels:>8}{batches:>14.0} ({:>4.2}) {tasks:>13.0} ({:>4.2})", batches / one.0, tasks / one.1);
    }
}

async fn connect(node: &Node, vhost: &Vhost, channels: u8) -> RabbitBroker {
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), node.amqp_port())];
    options.vhost = vhost.name().to_owned();
    options.channels = NonZeroU8::new(channels).unwrap();
    let broker = RabbitBroker::connect(options).await.unwrap();
    broker.declare(&Topology::queues((0..QUEUES).map(queue))).await.unwrap();
    broker
}

fn queue(n: usize) -> QueueName {
    format!("q{}", n % QUEUES).parse().unwrap()
}

fn job(n: usize) -> Envelope {
    let body = format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(80));
    Envelope::new(JobId::new(), queue(n), Some("noop".parse().unwrap()), body, Timestamp::default())
}

async fn batches(broker: &RabbitBroker, jobs: usize) -> f64 {
    let started = Instant::now();
    let batches = (0..jobs.div_ceil(BATCH_MAX)).map(|_| broker.enqueue((0..BATCH_MAX).map(job).collect()));
    let answers = stream::iter(batches).buffered(4).concat().await;
    assert!(answers.iter().all(Result::is_ok));
    answers.len() as f64 / started.elapsed().as_secs_f64()
}

async fn tasks(broker: &RabbitBroker, jobs: usize) -> f64 {
    let started = Instant::now();
    let enqueues = (0..jobs).map(|n| broker.enqueue(vec![job(n)]));
    let answers = stream::iter(enqueues).buffer_unordered(TASKS).concat().await;
    assert!(answers.iter().all(Result::is_ok));
    answers.len() as f64 / started.elapsed().as_secs_f64()
}
