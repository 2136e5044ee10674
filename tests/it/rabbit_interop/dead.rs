//! Messages that can never be jobs: dead letters with the reason, and the worker lives.

use super::{
    neighbour::{header, python, text},
    orders::{ShipOrder, Shop},
};
use worker_tests::rabbit::shared_vhost;

/// What a neighbour publishes, and what the dead letter says of it.
const BROKEN: [(&str, &str); 6] = [
    (r#"publish(b"{\"order_id\": ")"#, "EOF"),
    (r#"publish(b"")"#, "EOF"),
    (r#"publish({"order": 7})"#, "order_id"),
    (r#"publish({"order_id": 7}, headers={"x-retry-count": -1})"#, "`x-retry-count` is -1"),
    (r#"publish({"order_id": 7}, headers={"x-retry-count": "often"})"#, "`x-retry-count` is \"often\""),
    (r#"publish({"order_id": 7}, type="no such name!")"#, "`type` is no job name"),
];

#[tokio::test]
async fn what_cannot_be_run_is_a_dead_letter_with_the_reason() {
    let vhost = shared_vhost();
    python(&vhost, "tutorial()").await;
    let mut shop = Shop::open(&vhost).await;
    for (published, reason) in BROKEN {
        let script = format!("{published}\nsay(take(\"orders_dlq\"))");
        let dead = python(&vhost, &script).await;
        assert_eq!(text(&dead, "x-failure-kind"), "undecodable", "{published}");
        let told = text(&dead, "x-last-error");
        assert!(told.starts_with("undecodable: ") && told.contains(reason), "{published}\ngave {told}");
        assert_eq!(text(&dead, "x-queue"), "orders");
        assert_eq!(header(&dead, "x-attempts").0, "int");
        assert!(dead["properties"]["message_id"].is_string(), "it has an id now: {dead:#}");
    }
    python(&vhost, r#"publish({"order_id": 8})"#).await;
    assert_eq!(shop.sees().await.order, ShipOrder { order_id: 8 }, "the worker lives");
    shop.close().await;
}
