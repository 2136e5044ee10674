//! Many jobs at once in one process: coroutines and callbacks there, slots here.

use tokio::sync::Barrier;
use worker_core::prelude::*;

use super::Parcels;

#[job(queue = "orders", concurrency = 10)]
async fn ship(order_id: i64, parcels: State<Parcels>, lorry: State<Barrier>) -> JobResult {
    lorry.wait().await; // while one waits, the others go on
    parcels.send(order_id).await?;
    Ok(())
}

mod tests {
    use std::sync::Arc;

    use worker_core::Registry;
    use worker_tests::rabbit::shared_vhost;

    use super::*;
    use crate::{
        bench::Running,
        from_pika::{Shop, empty, numbers, run},
    };

    #[tokio::test]
    async fn what_aio_pika_publishes_is_run_here_ten_at_once() {
        let vhost = shared_vhost();
        assert_eq!(run("async_publish.py", &[vhost.url(), "100"]).await, ["100"]);
        let (client, parcels) = (Client::connect(vhost.url()).await.unwrap(), Arc::new(Parcels::default()));
        // Nobody goes on until ten have come.
        let worker = Worker::builder(&client)
            .registry(Registry::new().with::<ship>())
            .state_arc(Arc::clone(&parcels))
            .state(Barrier::new(10));
        let shop = Shop { running: Running::start(worker), client, parcels };
        assert_eq!(shop.tried_sorted(100).await, (0..100).collect::<Vec<_>>());
        empty(&vhost, "orders").await;
        shop.close().await;
    }

    #[tokio::test]
    async fn what_is_enqueued_here_is_consumed_by_callbacks_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        for answer in client.enqueue_all((0..50).map(ship::new)).await {
            answer.unwrap();
        }
        for (program, orders) in [("select_consume.py", 0..20), ("async_consume.py", 20..50)] {
            let count = (orders.end - orders.start).to_string();
            let mut got = numbers(&run(program, &[vhost.url(), &count]).await);
            // What it was sent and had not begun came back, in front of the rest.
            got.sort_unstable();
            assert_eq!(got, orders.collect::<Vec<_>>(), "{program}");
        }
        empty(&vhost, "orders").await;
        client.close().await.unwrap();
    }
}
