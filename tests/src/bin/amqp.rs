//! Throughput on RabbitMQ beside a bare `lapin` loop, in turn, as a ratio.
//!
//! `cargo bench-amqp [JOBS [ROUNDS]]` starts a node of its own and prints a
//! table: per row the median of the bare loop and of the framework, and the
//! median of the ratios taken pair by pair. The bare consumer has the same
//! prefetch and awaits each acknowledgement; the bare publisher has confirms
//! and awaits them in groups.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::try_join_all};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use worker_core::{Client, Registry, Worker};
use worker_tests::{
    noop::{Noop, Ran},
    rabbit::Node,
};

/// Of both consumers: 32 slots, and twice as many in advance.
const SLOTS: usize = 32;
const PREFETCH: u16 = 64;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().unwrap());
    let (jobs, rounds) = (args.next().unwrap_or(20_000), args.next().unwrap_or(5));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(jobs, rounds));
}

async fn measure(jobs: u64, rounds: u64) {
    let node = Node::start().await;
    println!("{jobs} jobs of {} bytes, {rounds} rounds, prefetch {PREFETCH}, quorum queue, one node", body(0).len());
    let (mut publish, mut consume) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let vhost = node.fresh_vhost().await;
        let framework = framework(vhost.url(), jobs).await;
        let bare = bare(vhost.url(), jobs).await;
        publish.push((bare.0, framework.0));
        consume.push((bare.1, framework.1));
    }
    println!("{:<28}{:>12}{:>14}{:>8}", "jobs per second, median", "bare lapin", "framework", "ratio");
    row("enqueue", publish);
    row("process (no-op)", consume);
}

fn row(what: &str, pairs: Vec<(f64, f64)>) {
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let bare = median(pairs.iter().map(|pair| pair.0).collect());
    let framework = median(pairs.iter().map(|pair| pair.1).collect());
    let ratio = median(pairs.iter().map(|pair| pair.1 / pair.0).collect());
    println!("{what:<28}{bare:>12.0}{framework:>14.0}{ratio:>8.2}");
}

fn rate(jobs: u64, time: Duration) -> f64 {
    jobs as f64 / time.as_secs_f64()
}

fn body(n: u64) -> Vec<u8> {
    serde_json::to_vec(&Noop::new(n)).unwrap()
}

/// Enqueues and processes per second.
async fn framework(url: &str, jobs: u64) -> (f64, f64) {
    let client = Client::connect(url).await.unwrap();
    let started = Instant::now();
    for answer in client.enqueue_all((0..jobs).map(Noop::new)).await {
        answer.unwrap();
    }
    let enqueue = rate(jobs, started.elapsed());
    let ran = Arc::new(Ran::none_of(jobs));
    let worker = Worker::builder(&client).registry(Registry::new().with::<Noop>()).state_arc(Arc::clone(&ran));
    let worker = worker.concurrency(SLOTS).prefetch(PREFETCH.into()).build().unwrap();
    let started = Instant::now();
    let all_ran = async {
        ran.all.notified().await;
        started.elapsed()
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let run = worker.run(async { drop(stopped.await) });
    let (report, took) = tokio::join!(run, async {
        let took = all_ran.await;
        drop(stop);
        took
    });
    assert_eq!(report.unwrap().settled, jobs);
    client.close().await.unwrap();
    (enqueue, rate(jobs, took))
}

/// The same with `lapin` alone, on the framework's queue.
async fn bare(url: &str, jobs: u64) -> (f64, f64) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let started = Instant::now();
    for group in 0..jobs / 500 {
        let confirms = (0..500).map(|n| publish(&channel, group * 500 + n));
        try_join_all(confirms).await.unwrap();
    }
    let enqueue = rate(jobs / 500 * 500, started.elapsed());

    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("default".into(), "bare".into(), options, FieldTable::default()).await.unwrap();
    let started = Instant::now();
    for _ in 0..jobs / 500 * 500 {
        let delivery = consumer.next().await.unwrap().unwrap();
        let _: Noop = serde_json::from_slice(&delivery.data).unwrap();
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await.unwrap();
    }
    let process = rate(jobs / 500 * 500, started.elapsed());
    connection.close(200, "done".into()).await.unwrap();
    (enqueue, process)
}

async fn publish(channel: &Channel, n: u64) -> lapin::Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let confirm = channel.basic_publish("".into(), "default".into(), options, &body(n), properties).await?.await?;
    assert!(confirm.is_ack());
    Ok(())
}
