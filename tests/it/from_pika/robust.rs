//! A consumer that retries and gives up, with the tutorial's headers and dead letters.

use worker_core::prelude::*;

use super::Parcels;

#[job(queue = "orders", max_retries = 3, backoff = "1s..1m")]
async fn ship(order_id: i64, parcels: State<Parcels>) -> JobResult {
    parcels.send(order_id).await?; // any error: tried again after a pause, then a dead letter
    Ok(())
}

mod tests {
    use worker_core::{
        FailureKind, Registry,
        broker::{DeadJob, Page, Selection},
    };
    use worker_tests::{
        eventually::eventually,
        rabbit::{Vhost, shared_node, shared_vhost},
    };

    use super::*;
    use crate::from_pika::{Shop, empty, run};

    #[job(queue = "elsewhere")]
    async fn elsewhere() {}

    fn registry() -> Registry {
        Registry::new().with::<ship>()
    }

    fn of_orders() -> Selection {
        let mut selection = Selection::default();
        selection.queues = vec!["orders".parse().unwrap()];
        selection
    }

    /// The dead order, once there is one. The server is asked for its arrival: each look of ours costs a channel.
    async fn dead(vhost: &Vhost, client: &Client) -> DeadJob {
        eventually("the order is a dead letter", async || {
            let letters = shared_node().queue_info(vhost.name(), "orders_dlq").await;
            (letters.ready > 0).then_some(())
        })
        .await;
        let inspector = client.broker().inspector().unwrap();
        inspector.dead(&of_orders(), Page::first(10)).await.unwrap().jobs.remove(0)
    }

    #[tokio::test]
    async fn what_python_has_tried_twice_is_tried_twice_more_here_and_then_dead() {
        let vhost = shared_vhost();
        // The queues are declared as the tutorial does, and the order fails twice.
        run("robust_consumer.py", &[vhost.url(), "0"]).await;
        let order = serde_json::json!({"message_id": "o-1", "headers": {"tenant": "acme"}});
        shared_node().publish(vhost.name(), "orders", order, r#"{"order_id": -1}"#).await;
        assert_eq!(run("robust_consumer.py", &[vhost.url(), "2"]).await, ["attempt 1", "attempt 2"]);
        let left = shared_node().queue_info(vhost.name(), "orders").await;
        assert_eq!((left.ready, left.unacked), (1, 0));

        let shop = Shop::open(&vhost, registry()).await;
        let found = dead(&vhost, &shop.client).await;
        assert_eq!(*shop.parcels.tried.lock().unwrap(), [-1, -1], "attempts 3 and 4");
        assert_eq!((found.id.to_string().as_str(), found.attempts), ("o-1", 4));
        assert_eq!((found.failure.kind, &*found.failure.message), (FailureKind::Error, "order -1 does not exist"));
        assert_eq!(found.headers.get("tenant"), Some(&"acme".into()));
        let letter = shared_node().get(vhost.name(), "orders_dlq", 1).await.remove(0);
        let headers = &letter.properties["headers"];
        assert_eq!((&headers["x-retry-count"], &headers["x-attempts"]), (&3.into(), &4.into()), "{headers}");
        assert_eq!(headers["x-last-error"], "error: order -1 does not exist");
        assert!(headers["x-retry-timestamp"].as_str().unwrap().ends_with('Z'));
        shop.close().await;
    }

    #[tokio::test]
    async fn what_was_tried_once_here_is_tried_three_times_in_python_and_then_dead_for_both() {
        let vhost = shared_vhost();
        run("robust_consumer.py", &[vhost.url(), "0"]).await;
        let shop = Shop::open(&vhost, registry()).await;
        shop.client.enqueue(ship::new(-7).id("o-7".parse::<JobId>().unwrap())).await.unwrap();
        shop.tried(1).await;
        shop.close().await;
        // Workers of other queues move on what waits for its next attempt.
        let shop = Shop::open(&vhost, Registry::new().with::<elsewhere>()).await;
        let tried = run("robust_consumer.py", &[vhost.url(), "3"]).await;
        assert_eq!(tried, ["attempt 2", "attempt 3", "attempt 4"]);
        let found = dead(&vhost, &shop.client).await;
        assert_eq!((found.id.to_string().as_str(), found.failure.kind), ("o-7", FailureKind::Error));
        assert_eq!(found.failure.message, "dead-lettered by the server: rejected; order -7 does not exist");
        shop.close().await;

        // A person who has mended the cause puts it back: it begins anew.
        let shop = Shop::open(&vhost, registry()).await;
        let inspector = shop.client.broker().inspector().unwrap();
        assert_eq!(inspector.replay(&of_orders(), 10).await.unwrap(), 1);
        assert_eq!(shop.tried(1).await, [-7]);
        shop.close().await;
    }

    #[tokio::test]
    async fn both_can_work_on_one_queue_and_what_succeeds_is_gone() {
        let vhost = shared_vhost();
        run("robust_consumer.py", &[vhost.url(), "0"]).await;
        let client = Client::connect(vhost.url()).await.unwrap();
        for answer in client.enqueue_all((0..20).map(ship::new)).await {
            answer.unwrap();
        }
        assert_eq!(run("robust_consumer.py", &[vhost.url(), "10"]).await, vec!["attempt 1"; 10]);
        let shop = Shop::open(&vhost, registry()).await;
        assert_eq!(shop.tried_sorted(10).await, (10..20).collect::<Vec<_>>());
        empty(&vhost, "orders").await;
        empty(&vhost, "orders_dlq").await;
        shop.close().await;
        client.close().await.unwrap();
    }
}
