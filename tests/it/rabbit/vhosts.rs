//! Virtual hosts are worlds of their own on one node.

use serde_json::json;
use worker_tests::rabbit::{shared_node, shared_vhost};

#[tokio::test]
async fn a_virtual_host_sees_nothing_of_another() {
    let (here, there) = (shared_vhost(), shared_node().fresh_vhost().await);
    let node = shared_node();
    node.declare_queue(here.name(), "q", json!({"x-max-length": 3})).await;
    node.publish(here.name(), "q", json!({"headers": {"x-retry-count": 1}}), "{}").await;
    let [queue] = &*node.list_queues(here.name()).await else { panic!("there is one") };
    assert_eq!((&*queue.kind, queue.ready, queue.unacked), ("classic", 1, 0));
    assert_eq!(queue.arguments["x-max-length"], 3);
    assert_eq!(node.list_queues(there.name()).await, []);
    let [message] = &*node.get(here.name(), "q", 5).await else { panic!("there is one") };
    assert_eq!(message.properties["headers"]["x-retry-count"], 1);
}
