//! Priorities: what is urgent overtakes what waits.

use std::error::Error;

use worker_core::prelude::*;

use super::Parcels;

#[job(queue = "urgent_orders", queue_type = "classic", max_priority = 10, priority = 1)]
async fn ship(order_id: i64, parcels: State<Parcels>) -> JobResult {
    parcels.send(order_id).await?;
    Ok(())
}

async fn order(client: &Client) -> Result<(), Box<dyn Error>> {
    client.enqueue(ship::new(1)).await?; // with 1, as the job says
    client.enqueue(ship::new(2).priority(5)).await?;
    client.enqueue(ship::new(3).priority(10)).await?;
    Ok(())
}

mod tests {
    use worker_core::{EnqueueErrorKind, Registry};
    use worker_tests::rabbit::{Vhost, shared_vhost};

    use super::*;
    use crate::from_pika::{Shop, empty, numbers, run};

    /// A worker with one slot, which holds one job: it takes what is first in the queue.
    async fn one_at_a_time(vhost: &Vhost) -> Shop {
        let registry = Registry::new().with::<ship>();
        Shop::open_as(vhost, registry, |worker| worker.concurrency(1).prefetch(1)).await
    }

    #[tokio::test]
    async fn the_most_urgent_of_what_python_sends_is_run_first_here() {
        let vhost = shared_vhost();
        let sent = run("priorities.py", &[vhost.url(), "publish"]).await;
        assert_eq!(sent, ["sent 1 with 1", "sent 2 with 5", "sent 3 with 10"]);
        let shop = one_at_a_time(&vhost).await;
        assert_eq!(shop.tried(3).await, [3, 2, 1]);
        assert_eq!(empty(&vhost, "urgent_orders").await.kind, "classic", "it is the queue that Python declared");
        shop.close().await;
    }

    #[tokio::test]
    async fn the_most_urgent_of_what_is_enqueued_here_is_consumed_first_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        order(&client).await.unwrap();
        let got = run("priorities.py", &[vhost.url(), "consume", "3"]).await;
        assert_eq!(numbers(&got), [3, 2, 1]);
        empty(&vhost, "urgent_orders").await;
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_more_urgent_than_the_queue_knows_is_refused_here() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        let error = client.enqueue(ship::new(4).priority(11)).await.unwrap_err();
        assert_eq!(error.kind(), EnqueueErrorKind::Invalid, "{error}");
        client.close().await.unwrap();
    }
}
