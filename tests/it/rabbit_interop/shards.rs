//! The queues that a queue with shards is on a server: how they are declared, and where their leaders are.

use std::num::NonZeroU8;

use lapin::{
    Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use worker_core::{
    broker::{Broker as _, Topology},
    brokers::rabbitmq::{RabbitBroker, RabbitOptions},
    queue::QueueOptions,
};
use worker_tests::rabbit::{Node, Vhost, shared_node, shared_vhost};

const LEADERS: &str = "x-queue-leader-locator";

async fn declared(node: &Node, vhost: &Vhost) -> RabbitBroker {
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), node.amqp_port())];
    options.vhost = vhost.name().to_owned();
    let broker = RabbitBroker::connect(options).await.unwrap();
    let asked = QueueOptions::default().shards(NonZeroU8::new(3).unwrap());
    broker.declare(&Topology::default().queue("orders".parse().unwrap(), asked)).await.unwrap();
    broker
}

#[tokio::test]
async fn the_first_shard_is_declared_as_the_queue_was_and_the_leaders_of_the_others_are_balanced() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let broker = declared(node, &vhost).await;
    let asked = async |name: &str| node.queue_info(vhost.name(), name).await.arguments.get(LEADERS).cloned();
    assert_eq!(asked("orders").await, None);
    assert_eq!(asked("orders.shard-1").await, Some(json!("balanced")));
    assert_eq!(asked("orders.shard-2").await, Some(json!("balanced")));
    broker.close().await.unwrap();
}

/// So a neighbour has to look for it (passively), or to declare it as we do. Our own programs look first and declare
/// only what is missing, so none of them is refused, whatever its version.
#[tokio::test]
async fn who_declares_a_shard_again_without_that_is_refused_as_for_any_other_argument() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let broker = declared(node, &vhost).await;
    let info = node.queue_info(vhost.name(), "orders.shard-1").await;
    let mut arguments = FieldTable::default();
    for (name, value) in &info.arguments {
        let value = match value {
            serde_json::Value::Number(number) => AMQPValue::LongLongInt(number.as_i64().unwrap()),
            text => AMQPValue::LongString(text.as_str().unwrap().into()),
        };
        arguments.insert(name.as_str().into(), value);
    }
    let connection = Connection::connect(vhost.url(), ConnectionProperties::default()).await.unwrap();
    let declare = async |arguments: FieldTable| {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let channel = connection.create_channel().await.unwrap();
        let answer = channel.queue_declare("orders.shard-1".into(), options, arguments).await;
        answer.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(declare(arguments.clone()).await, Ok(()));
    let mut without = FieldTable::default();
    for (name, value) in arguments.inner().iter().filter(|(name, _)| name.as_str() != LEADERS) {
        without.insert(name.clone(), value.clone());
    }
    let refused = declare(without).await.unwrap_err();
    assert!(refused.contains("inequivalent arg 'x-queue-leader-locator'"), "{refused}");
    // Ours, again, in another process.
    declared(node, &vhost).await.close().await.unwrap();
    broker.close().await.unwrap();
}
