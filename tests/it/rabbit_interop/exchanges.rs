//! Exchanges shared with a neighbour: the four kinds of the tutorial, in both directions.

use serde_json::json;
use worker_core::{
    Enqueue, EnqueueErrorKind,
    broker::Topology,
    exchange::{Binding, ExchangeKind},
};
use worker_tests::rabbit::shared_vhost;

use super::{
    neighbour::python,
    orders::{Seen, ShipOrder, Shop},
};

/// The exchanges of the tutorial with a queue of the neighbour's on each, and `orders` on the first.
const EXCHANGES: &str = r#"
channel.queue_declare("orders", durable=True)
for kind in ["direct", "fanout", "topic", "headers"]:
    channel.exchange_declare(kind + "_x", exchange_type=kind, durable=True)
    channel.queue_declare(kind + "_q", durable=True)
channel.queue_bind("direct_q", "direct_x", routing_key="error")
channel.queue_bind("fanout_q", "fanout_x")
channel.queue_bind("topic_q", "topic_x", routing_key="order.*")
channel.queue_bind("headers_q", "headers_x", arguments={"x-match": "all", "format": "pdf", "pages": 3})
channel.queue_bind("orders", "topic_x", routing_key='#.created')
"#;

#[tokio::test]
async fn a_job_that_is_published_to_each_kind_of_exchange_reaches_the_neighbours_queue() {
    let vhost = shared_vhost();
    python(&vhost, EXCHANGES).await;
    let shop = Shop::open(&vhost).await;
    let job = |order_id| Enqueue::new(ShipOrder { order_id });
    shop.client.enqueue(job(1).via("direct_x", "error")).await.unwrap();
    shop.client.enqueue(job(2).via("fanout_x", "whatever")).await.unwrap();
    shop.client.enqueue(job(3).via("topic_x", "order.shipped")).await.unwrap();
    shop.client.enqueue(job(4).via("headers_x", "").header("format", "pdf").header("pages", 3)).await.unwrap();
    for (queue, order) in [("direct_q", 1), ("fanout_q", 2), ("topic_q", 3), ("headers_q", 4)] {
        let taken = python(&vhost, &format!("say(take({queue:?}))")).await;
        assert_eq!(taken["body"], json!({"order_id": order}).to_string(), "{taken:#}");
        assert_eq!(taken["properties"]["type"], "ship_order", "{taken:#}");
    }
    let refused = shop.client.enqueue(job(5).via("direct_x", "info")).await.unwrap_err();
    assert_eq!(refused.kind(), EnqueueErrorKind::Unroutable);
    assert!(refused.to_string().contains("exchange `direct_x` sends key `info` to no queue"), "{refused}");
    shop.close().await;
}

#[tokio::test]
async fn what_a_neighbour_publishes_to_an_exchange_is_a_job_in_each_queue_that_is_bound() {
    let vhost = shared_vhost();
    python(&vhost, EXCHANGES).await;
    let mut shop = Shop::open(&vhost).await;
    let publish = r#"channel.basic_publish("topic_x", "order.created", json.dumps({"order_id": 7}), mandatory=True)"#;
    python(&vhost, publish).await;
    let Seen { order, attempt, .. } = shop.sees().await;
    assert_eq!((order.order_id, attempt), (7, 1));
    let taken = python(&vhost, r#"say(take("topic_q"))"#).await;
    assert_eq!(taken["body"], r#"{"order_id": 7}"#, "the neighbour has a copy of its own");
    shop.close().await;
}

#[tokio::test]
async fn an_exchange_of_others_is_used_whatever_it_was_declared_with() {
    let vhost = shared_vhost();
    python(&vhost, r#"channel.exchange_declare("fleeting", exchange_type="topic", auto_delete=True)"#).await;
    let mut shop = Shop::open(&vhost).await;
    let exchange = || "fleeting".parse().unwrap();
    let topology = Topology::default().exchange(exchange(), ExchangeKind::Topic).bind(Binding::by_key(
        exchange(),
        "orders".parse().unwrap(),
        "order.*",
    ));
    // The worker declares the queue; here it may not have yet.
    shop.client.declare(&Topology::queues(["orders".parse().unwrap()])).await.unwrap();
    shop.client.declare(&topology).await.unwrap();
    shop.client.enqueue(Enqueue::new(ShipOrder { order_id: 9 }).via("fleeting", "order.made")).await.unwrap();
    assert_eq!(shop.sees().await.order.order_id, 9);
    shop.close().await;
}
