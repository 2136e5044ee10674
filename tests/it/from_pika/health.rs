//! How deep the queues are, in numbers that both sides agree on.

use std::error::Error;

use worker_core::{QueueName, prelude::*};

/// Whether `orders` has at most `limit` waiting jobs, and somebody works on it.
async fn keeps_up(client: &Client, limit: u64) -> Result<bool, Box<dyn Error>> {
    let orders: QueueName = "orders".parse()?;
    let inspector = client.broker().inspector().ok_or("this broker cannot be looked into")?;
    let queues = inspector.queues(std::slice::from_ref(&orders)).await?;
    // One that does not exist is not among them.
    let found = queues.iter().find(|found| found.queue == orders);
    Ok(found.is_some_and(|found| found.ready <= limit && found.consumers > 0))
}

mod tests {
    use serde_json::{Value, json};
    use worker_core::{Registry, broker::Topology};
    use worker_tests::{
        eventually::eventually,
        rabbit::{shared_node, shared_vhost},
    };

    use super::*;
    use crate::{
        cli::program::Program,
        from_pika::{Parcels, Shop, run, tutorial},
    };

    #[job(queue = "orders", max_retries = 0)]
    async fn ship(order_id: i64, parcels: State<Parcels>) -> JobResult {
        parcels.send(order_id).await?;
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_depth_that_python_sees_is_that_of_our_command_and_of_our_code() {
        let vhost = shared_vhost();
        let shop = Shop::open(&vhost, Registry::new().with::<ship>()).await;
        for order_id in [-1, -2] {
            shop.client.enqueue(ship::new(order_id)).await.unwrap();
        }
        eventually("both are dead letters", async || {
            let queues = shared_node().list_queues(vhost.name()).await;
            queues.iter().any(|queue| queue.name == "orders_dlq" && queue.ready == 2).then_some(())
        })
        .await;
        let look = async |limit: &str| -> Value {
            let said = run("health.py", &[vhost.url(), limit, "orders", "orders_dlq"]).await;
            serde_json::from_str(&said[0]).unwrap()
        };
        let expected = |ready, consumers| json!({"orders": {"ready": ready, "consumers": consumers}, "orders_dlq": {"ready": 2, "consumers": 0}});
        assert_eq!(look("0").await, expected(0, 1));
        assert!(keeps_up(&shop.client, 0).await.unwrap());
        shop.close().await;

        let client = Client::connect(vhost.url()).await.unwrap();
        client.declare(&Topology::queues(["orders".parse().unwrap()])).await.unwrap();
        for answer in client.enqueue_all((0..7).map(ship::new)).await {
            answer.unwrap();
        }
        assert_eq!(look("7").await, expected(7, 0));
        let program = Program::new().with("WORKER_BROKER_URL", vhost.url()).with("WORKER_QUEUES", "orders");
        let printed = program.run(&["queues", "--json"]).exits(0).json();
        let orders = printed["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "orders").unwrap();
        assert_eq!((&orders["ready"], &orders["dead"], &orders["consumers"]), (&7.into(), &2.into(), &0.into()));
        assert!(!keeps_up(&client, 7).await.unwrap(), "nobody works on it");

        // Too deep is an exit code of its own, on both sides; so is a server that is not there.
        let too_deep = tutorial("health.py", &[vhost.url(), "6", "orders"]).status().await.unwrap();
        assert_eq!(too_deep.code(), Some(1));
        let nowhere = "amqp://guest:guest@127.0.0.1:9/";
        assert_eq!(tutorial("health.py", &[nowhere, "6", "orders"]).output().await.unwrap().status.code(), Some(1));
        let program = Program::new().with("WORKER_BROKER_URL", nowhere).with("WORKER_CONNECT_TIMEOUT", "200ms");
        program.run(&["health"]).exits(69);
        client.close().await.unwrap();
    }
}
