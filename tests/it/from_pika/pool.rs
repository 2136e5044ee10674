//! Many publishers at once: a pool of connections there, one client here.

use std::{error::Error, ops::Range};

use tokio::task::JoinSet;
use worker_core::prelude::*;

use super::Parcels;

#[job(queue = "orders")]
async fn ship(order_id: i64, parcels: State<Parcels>) -> JobResult {
    parcels.send(order_id).await?;
    Ok(())
}

async fn order_all(client: &Client, orders: Range<i64>) -> Result<(), Box<dyn Error>> {
    let mut tasks = JoinSet::new();
    for order_id in orders {
        let client = client.clone(); // one connection for all of them
        tasks.spawn(async move { client.enqueue(ship::new(order_id)).await });
    }
    while let Some(enqueued) = tasks.join_next().await {
        enqueued??;
    }
    Ok(())
}

mod tests {
    use worker_core::Registry;
    use worker_tests::rabbit::shared_vhost;

    use super::*;
    use crate::from_pika::{Shop, empty, numbers, run};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn threads_with_a_pool_in_python_and_tasks_with_one_client_publish_at_the_same_time() {
        let vhost = shared_vhost();
        let shop = Shop::open(&vhost, Registry::new().with::<ship>()).await;
        order_all(&shop.client, 999..1_000).await.unwrap();
        let arguments = [vhost.url(), "999"];
        let (published, ordered) = tokio::join!(run("pool.py", &arguments), order_all(&shop.client, 1_000..2_000));
        ordered.unwrap();
        assert_eq!(published, ["999"]);
        assert_eq!(shop.tried_sorted(2_000).await, (0..2_000).collect::<Vec<_>>(), "each once");
        shop.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_many_tasks_enqueue_at_once_is_consumed_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        order_all(&client, 0..500).await.unwrap();
        let mut got = numbers(&run("async_consume.py", &[vhost.url(), "500"]).await);
        got.sort_unstable();
        assert_eq!(got, (0..500).collect::<Vec<_>>());
        empty(&vhost, "orders").await;
        client.close().await.unwrap();
    }
}
