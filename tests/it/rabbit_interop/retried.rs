//! What a neighbour finds on messages that we have retried and dead-lettered.

use serde_json::{Value, json};
use worker_tests::{
    eventually::eventually,
    rabbit::{shared_node, shared_vhost},
};

use super::{
    neighbour::{header, python, text},
    orders::{Seen, ShipOrder, Shop},
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An order that fails, with everything that a neighbour may say of it.
const PUBLISH: &str = r#"
publish({"order_id": ID}, message_id="oID", correlation_id="c-1", reply_to="answers", app_id="shop",
    content_type="application/json", content_encoding="utf-8", expiration="60000", headers={
        "traceparent": "TRACE", "tenant": "acme", "x-custom": 3, "large": 5000000000,
        "nested": {"a": [1, "two", True, None]}, "when": datetime.datetime(2026, 1, 2, 3, 4, 5)})
"#;

fn publish(id: &str) -> String {
    PUBLISH.replace("ID", id).replace("TRACE", TRACE)
}

/// What the neighbour wrote is still there, in its types.
fn assert_intact(message: &Value) {
    let properties = &message["properties"];
    for (name, value) in [
        ("correlation_id", "c-1"),
        ("reply_to", "answers"),
        ("app_id", "shop"),
        ("content_type", "application/json"),
        ("content_encoding", "utf-8"),
    ] {
        assert_eq!(properties[name], value, "{name}");
    }
    assert!(properties.get("expiration").is_none(), "it would end the wait: {properties}");
    for (name, kind, value) in [
        ("traceparent", "str", json!(TRACE)),
        ("tenant", "str", json!("acme")),
        ("x-custom", "int", json!(3)),
        ("large", "long", json!(5_000_000_000_u64)),
        ("nested", "dict", json!({"a": [1, "two", true, null]})),
        ("when", "datetime", json!("2026-01-02 03:04:05+00:00")),
    ] {
        assert_eq!(header(message, name), (kind.to_owned(), value), "{name}");
    }
    let names: Vec<_> = properties["headers"].as_object().unwrap().keys().collect();
    assert!(!names.iter().any(|name| name.contains("death") || name.contains("delivery-count")), "{names:?}");
}

/// The headers of the tutorial say that `retries` were made, and when.
fn assert_tutorial(message: &Value, retries: u32, error: &str) {
    assert_eq!(header(message, "x-retry-count"), ("int".to_owned(), retries.into()));
    assert_eq!(text(message, "x-last-error"), error);
    let date = text(message, "x-retry-timestamp");
    assert!(date.len() == 24 && date.ends_with('Z'), "{date}");
    let age = message["age"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&age), "{date} was {age} s ago");
}

#[tokio::test]
async fn a_retried_message_has_the_tutorials_headers_and_all_of_its_own() {
    let vhost = shared_vhost();
    python(&vhost, "tutorial()").await;
    let mut shop = Shop::open(&vhost).await;
    python(&vhost, &publish("-1")).await;
    let seen = shop.sees().await;
    assert_eq!((seen.id.as_str(), seen.traceparent.as_deref()), ("o-1", Some(TRACE)));
    // The handler is seen before it has failed. Its queue is declared after that, and answers those who consume it
    // with an internal error for a moment.
    eventually("the retry waits", async || {
        let queues = shared_node().list_queues(vhost.name()).await;
        queues.iter().any(|queue| queue.name == "orders_retry_5000" && queue.ready == 1).then_some(())
    })
    .await;
    let retried = python(&vhost, r#"say(take("orders_retry_5000"))"#).await;
    assert_tutorial(&retried, 1, "error: order -1 does not exist");
    assert_intact(&retried);
    assert_eq!(
        (&retried["properties"]["message_id"], &retried["body"]),
        (&"o-1".into(), &r#"{"order_id": -1}"#.into())
    );
    shop.close().await;
}

#[tokio::test]
async fn a_dead_letter_has_them_after_a_retry_through_the_server() {
    let vhost = shared_vhost();
    python(&vhost, "tutorial()").await;
    let mut shop = Shop::open(&vhost).await;
    python(&vhost, &publish("-2")).await;
    for attempt in 1..=2 {
        let (order, id, traceparent) = (ShipOrder { order_id: -2 }, "o-2".to_owned(), Some(TRACE.to_owned()));
        assert_eq!(shop.sees().await, Seen { order, id, attempt, traceparent });
    }
    let dead = python(&vhost, r#"say(take("orders_dlq"))"#).await;
    assert_tutorial(&dead, 1, "error: order -2 does not exist");
    assert_intact(&dead);
    assert_eq!(header(&dead, "x-attempts"), ("int".to_owned(), 2.into()));
    assert_eq!((text(&dead, "x-failure-kind"), text(&dead, "x-queue")), ("error".into(), "orders".into()));
    assert_eq!(dead["properties"]["message_id"], "o-2");
    shop.close().await;
}
