//! Nodes start, die, come back and end with their tests.

use std::time::Instant;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use worker_tests::{
    eventually::soon,
    rabbit::{Node, shared_node},
};

/// The first bytes a server says to a client of AMQP 0-9-1.
async fn greeting(port: u16) -> [u8; 11] {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    let mut start = [0; 11];
    soon("the server greeted", stream.read_exact(&mut start)).await.unwrap();
    start
}

/// A method frame on channel 0 with the method `connection.start`.
fn assert_start(greeting: [u8; 11]) {
    assert_eq!((&greeting[..3], &greeting[7..]), (&[1, 0, 0][..], &[0, 10, 0, 10][..]));
}

#[tokio::test]
async fn a_shared_node_is_started_once_and_greets_a_client() {
    let node = shared_node();
    assert_start(greeting(node.amqp_port()).await);
    let began = Instant::now();
    assert_eq!(shared_node().amqp_url(), node.amqp_url());
    assert!(began.elapsed().as_millis() < 1_000);
}

#[tokio::test]
async fn a_killed_node_comes_back_with_its_queues() {
    let node = Node::start().await;
    node.declare_queue("/", "kept", json!({"x-queue-type": "quorum"})).await;
    node.publish("/", "kept", json!({"delivery_mode": 2}), "hello").await;
    node.keep_new_queues().await;
    node.kill();
    assert!(TcpStream::connect(("127.0.0.1", node.amqp_port())).await.is_err(), "it is gone");
    node.restart().await;
    assert_start(greeting(node.amqp_port()).await);
    let kept = node.queue_info("/", "kept").await;
    assert_eq!((&*kept.kind, kept.ready), ("quorum", 1));
    let messages = node.get("/", "kept", 10).await;
    assert_eq!(messages.iter().map(|message| &*message.payload).collect::<Vec<_>>(), ["hello"]);
}

#[tokio::test]
async fn two_nodes_stand_side_by_side_and_end_with_their_values() {
    let (one, other) = tokio::join!(Node::start(), Node::start());
    one.declare_queue("/", "q", json!({})).await;
    assert_eq!(one.list_queues("/").await.len(), 1);
    assert_eq!(other.list_queues("/").await.len(), 0, "they know nothing of each other");
    let port = one.amqp_port();
    drop(one);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it has ended");
    assert_start(greeting(other.amqp_port()).await);
}
