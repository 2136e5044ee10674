//! Publishing and consuming.

use std::error::Error;

use worker_core::prelude::*;

use super::Parcels;

#[job(queue = "orders")]
async fn ship(order_id: i64, amount: f64, parcels: State<Parcels>) -> JobResult {
    if amount <= 0.0 {
        return Err(JobError::discard("an order costs something")); // no use in trying again
    }
    parcels.send(order_id).await?;
    Ok(())
}

async fn order(client: &Client) -> Result<(), Box<dyn Error>> {
    for order_id in [1001, 1002, 1003] {
        client.enqueue(ship::new(order_id, 49.9)).await?;
    }
    Ok(())
}

mod tests {
    use worker_core::Registry;
    use worker_tests::rabbit::shared_vhost;

    use super::*;
    use crate::from_pika::{Shop, empty, numbers, run};

    fn registry() -> Registry {
        Registry::new().with::<ship>()
    }

    #[tokio::test]
    async fn what_the_publisher_in_python_sends_is_run_here() {
        let vhost = shared_vhost();
        let sent = run("publish.py", &[vhost.url()]).await;
        assert_eq!(sent, ["sent 1001", "sent 1002", "sent 1003"]);
        let shop = Shop::open(&vhost, registry()).await;
        assert_eq!(shop.tried_sorted(3).await, [1001, 1002, 1003]);
        let found = empty(&vhost, "orders").await;
        assert_eq!(found.kind, "classic", "it is the queue that Python declared");
        shop.close().await;
    }

    #[tokio::test]
    async fn what_is_enqueued_here_is_consumed_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        order(&client).await.unwrap();
        let got = run("consume.py", &[vhost.url(), "3"]).await;
        assert_eq!(numbers(&got), [1001, 1002, 1003]);
        empty(&vhost, "orders").await;
        client.close().await.unwrap();
    }
}
