//! Queues that others declared: used as they are, never declared anew or deleted.

use serde_json::{Value, json};
use worker_tests::{
    eventually::eventually,
    rabbit::{Node, Vhost, shared_node, shared_vhost},
};

use crate::cli::program::{Printed, Program};

/// Runs a worker for `orders` until it consumes, and gives what it said.
async fn consumed(vhost: &Vhost) -> Printed {
    let program = Program::new().with("WORKER_BROKER_URL", vhost.url());
    let running = program.start(&["run", "--queues", "orders"]);
    eventually("the worker consumed", async || {
        let consumers = shared_node().list_consumers(vhost.name()).await;
        consumers.iter().any(|consumer| consumer.queue == "orders").then_some(())
    })
    .await;
    running.signal("TERM");
    running.end().exits(0)
}

/// The arguments of `orders_dlq` that a worker warned of, with their values.
fn warned(printed: &Printed) -> Vec<(String, i64)> {
    let lines = printed.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let warnings = lines.filter(|line| line["level"] == "WARN" && line["queue"] == "orders_dlq");
    let argument = |line: Value| Some((line["argument"].as_str()?.to_owned(), line["value"].as_i64()?));
    warnings.filter_map(argument).collect()
}

async fn assert_untouched(node: &Node, vhost: &Vhost, name: &str, arguments: &Value) {
    let found = node.queue_info(vhost.name(), name).await;
    assert_eq!((&Value::Object(found.arguments), found.ready), (arguments, 1), "{name}");
}

#[tokio::test]
async fn queues_of_others_are_used_as_they_are_and_their_losses_are_named_at_every_start() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let orders = json!({"x-queue-type": "classic", "x-max-length": 1_000});
    let dead = json!({"x-queue-type": "classic", "x-message-ttl": 86_400_000, "x-max-length": 500,
        "x-max-length-bytes": 1_000_000, "x-expires": 900_000_000, "x-overflow": "drop-head"});
    node.declare_queue(vhost.name(), "orders", orders.clone()).await;
    node.declare_queue(vhost.name(), "orders_dlq", dead.clone()).await;
    node.publish(vhost.name(), "orders_dlq", json!({}), "of a neighbour").await;
    for start in 1..=2 {
        let expected = [
            ("x-message-ttl".to_owned(), 86_400_000),
            ("x-max-length".to_owned(), 500),
            ("x-max-length-bytes".to_owned(), 1_000_000),
            ("x-expires".to_owned(), 900_000_000),
        ];
        assert_eq!(warned(&consumed(&vhost).await), expected, "start {start}");
        assert_untouched(node, &vhost, "orders_dlq", &dead).await;
    }
    assert_eq!(Value::Object(node.queue_info(vhost.name(), "orders").await.arguments), orders);
}

#[tokio::test]
async fn a_quorum_queue_of_others_with_a_time_to_live_is_named_too() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let dead = json!({"x-queue-type": "quorum", "x-message-ttl": 5_000_000, "x-delivery-limit": 7});
    node.declare_queue(vhost.name(), "orders_dlq", dead.clone()).await;
    node.publish(vhost.name(), "orders_dlq", json!({}), "of a neighbour").await;
    assert_eq!(warned(&consumed(&vhost).await), [("x-message-ttl".to_owned(), 5_000_000)]);
    assert_untouched(node, &vhost, "orders_dlq", &dead).await;
}

#[tokio::test]
async fn dead_letters_that_are_kept_are_not_warned_of() {
    let (node, vhost) = (shared_node(), shared_vhost());
    for start in 1..=2 {
        assert_eq!(warned(&consumed(&vhost).await), [], "start {start}");
    }
    let classic = shared_vhost();
    node.declare_queue(classic.name(), "orders_dlq", json!({"x-queue-type": "classic"})).await;
    assert_eq!(warned(&consumed(&classic).await), []);
}

#[tokio::test]
async fn who_may_not_declare_works_without_being_told() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let quorum = json!({"x-queue-type": "quorum"});
    for name in ["orders", "orders_suspects", "worker.due"] {
        node.declare_queue(vhost.name(), name, quorum.clone()).await;
    }
    node.declare_queue(vhost.name(), "orders_dlq", json!({"x-message-ttl": 86_400_000})).await;
    let user = format!("reader-{}", vhost.name());
    node.create_user(&user, "secret").await;
    node.set_permissions(&user, vhost.name(), "^$", r"^amq\.default$", ".*").await;
    node.publish(vhost.name(), "orders", json!({"type": "whole"}), r#"{"id": "a", "amount": 1.5}"#).await;

    let url = vhost.url().replace("guest:guest", &format!("{user}:secret"));
    let program = Program::new().with("WORKER_BROKER_URL", &url).with("RUST_LOG", "worker=debug");
    let running = program.start(&["run", "--queues", "orders"]);
    eventually("the order was done", async || {
        let orders = node.queue_info(vhost.name(), "orders").await;
        (orders.ready + orders.unacked == 0 && orders.consumers > 0).then_some(())
    })
    .await;
    running.signal("TERM");
    let printed = running.end().exits(0).says(&["the short levels of the delay ladder could not be declared"]);
    assert_eq!(warned(&printed), []);
}
