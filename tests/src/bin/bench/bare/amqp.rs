//! `lapin` alone: what a program gets that has written all of it for this one job.
//!
//! The queue is a quorum queue, messages are persistent and mandatory, every
//! confirm is awaited and every message decoded, as by the framework; there
//! are no headers, no retries and no dead letters.

use std::{hint::black_box, ops::Range};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use worker_tests::noop::Noop;

/// The publishes that wait for their confirm at once.
pub(crate) const WINDOW: usize = 512;

/// How deliveries are acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Acks {
    /// Each alone, written before the next delivery is taken.
    Each,
    /// So many at once, without waiting for it.
    Every(u64),
}

/// A connection of its own.
pub(crate) async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

/// A channel whose publishes are confirmed.
pub(crate) async fn publisher(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// Makes a quorum queue.
pub(crate) async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), options, arguments).await.unwrap();
}

/// The messages that wait in a queue.
pub(crate) async fn waiting(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
}

/// Publishes one job, and waits for its confirm.
pub(crate) async fn publish_one(channel: &Channel, queue: &str, job: &Noop) {
    let body = serde_json::to_vec(job).unwrap();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let confirm = channel.basic_publish("".into(), queue.into(), options, &body, properties).await.unwrap();
    let confirm = confirm.await.unwrap();
    assert!(confirm.is_ack() && confirm.take_message().is_none(), "the job was not taken");
}

/// Publishes jobs, [`WINDOW`] in flight. `lapin` answers each publish when it is written: they must be under way
/// together, not one after the other.
pub(crate) async fn publish(channel: &Channel, queue: &str, jobs: Range<u64>) {
    let publishes = stream::iter(jobs).map(async |n| publish_one(channel, queue, &Noop::new(n)).await);
    publishes.buffer_unordered(WINDOW).for_each(async |()| ()).await;
}

/// Consumes and acknowledges so many jobs; when it returns, the acknowledgements have reached the server.
pub(crate) async fn consume(channel: &Channel, queue: &str, jobs: u64, prefetch: u16, acks: Acks) {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let (tag, options) = ("bare", BasicConsumeOptions::default());
    let mut consumer = channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default()).await.unwrap();
    for n in 1..=jobs {
        let delivery = consumer.next().await.unwrap().unwrap();
        black_box(serde_json::from_slice::<Noop>(&delivery.data).unwrap());
        match acks {
            Acks::Each => {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await.unwrap();
            }
            Acks::Every(group) if n.is_multiple_of(group) || n == jobs => {
                let ack = channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true });
                // What is begun is written, whoever waits for it.
                if let Some(written) = ack.now_or_never() {
                    written.unwrap();
                }
            }
            Acks::Every(_) => {}
        }
    }
    // A channel's requests are answered in their order: it has all acknowledgements when it answers this.
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await.unwrap();
}
