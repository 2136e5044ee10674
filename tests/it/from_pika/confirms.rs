//! Confirms: of one, of a batch, and of a thousand among which one has no way.

use tokio::time::sleep;
use worker_core::{EnqueueError, EnqueueErrorKind, prelude::*};

use super::Parcels;

#[job(queue = "orders")]
async fn ship(order_id: i64, parcels: State<Parcels>) -> JobResult {
    parcels.send(order_id).await?;
    Ok(())
}

/// One, confirmed when this returns.
async fn order(client: &Client, order_id: i64) -> Result<JobId, EnqueueError> {
    let enqueued = client.enqueue(ship::new(order_id)).await?;
    Ok(enqueued.id)
}

/// All on their way at once; the places and errors of those that are in no queue.
async fn order_all(client: &Client, orders: &[(i64, &str)]) -> Vec<(usize, EnqueueError)> {
    let jobs = orders.iter().map(|(order_id, key)| ship::new(*order_id).via("shop", *key));
    let answers = client.enqueue_all(jobs).await;
    answers.into_iter().enumerate().filter_map(|(place, answer)| Some((place, answer.err()?))).collect()
}

/// Tries again what may work later, under the same id.
async fn order_stubbornly(client: &Client, order_id: i64) -> Result<JobId, EnqueueError> {
    let job = ship::new(order_id).id(JobId::new()).erase()?;
    for pause in [1, 2, 4, 8].map(seconds) {
        match client.enqueue(job.clone()).await {
            Err(error) if may_work_later(error.kind()) => sleep(pause).await,
            answer => return Ok(answer?.id),
        }
    }
    Ok(client.enqueue(job).await?.id)
}

fn may_work_later(kind: EnqueueErrorKind) -> bool {
    matches!(kind, EnqueueErrorKind::Unavailable | EnqueueErrorKind::Indeterminate)
}

mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use worker_core::{
        BrokerErrorKind, Registry,
        broker::Topology,
        exchange::{Binding, ExchangeKind},
    };
    use worker_tests::{
        fault::{Call, Fault},
        rabbit::{Vhost, shared_node, shared_vhost},
    };

    use super::*;
    use crate::{
        bench::Bench,
        from_pika::{Shop, empty, numbers, run},
    };

    fn registry() -> Registry {
        Registry::new().with::<ship>()
    }

    /// The exchange `shop`, which sends `order.created` to `orders`.
    async fn shop_exchange(client: &Client) {
        let shop = || "shop".parse().unwrap();
        let topology = Topology::queues(["orders".parse().unwrap()])
            .exchange(shop(), ExchangeKind::Topic)
            .bind(Binding::by_key(shop(), "orders".parse().unwrap(), "order.created"));
        client.declare(&topology).await.unwrap();
    }

    async fn ready(vhost: &Vhost) -> u64 {
        shared_node().queue_info(vhost.name(), "orders").await.ready
    }

    #[tokio::test]
    async fn what_python_confirms_one_by_one_and_in_batches_is_run_here() {
        let vhost = shared_vhost();
        let shop = Shop::open(&vhost, registry()).await;
        order(&shop.client, 1_000).await.unwrap();
        let single = run("confirms.py", &[vhost.url(), "single", "3"]).await;
        assert_eq!(single, ["confirmed 0", "confirmed 1", "confirmed 2"]);
        let batches = run("confirms.py", &[vhost.url(), "batch", "250"]).await;
        assert_eq!(batches, ["confirmed 100", "confirmed 100", "confirmed 50"]);
        let mut expected: Vec<_> = (0..3).chain(0..250).chain([1_000]).collect();
        expected.sort_unstable();
        assert_eq!(shop.tried_sorted(254).await, expected);
        shop.close().await;
    }

    #[tokio::test]
    async fn what_is_confirmed_here_is_consumed_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        order(&client, 1).await.unwrap();
        assert_eq!(ready(&vhost).await, 1, "it is there when it is confirmed");
        shop_exchange(&client).await;
        let orders: Vec<_> = (2..=100).map(|order_id| (order_id, "order.created")).collect();
        assert_eq!(order_all(&client, &orders).await.len(), 0);
        order_stubbornly(&client, 101).await.unwrap();
        assert_eq!(ready(&vhost).await, 101);
        assert_eq!(numbers(&run("consume.py", &[vhost.url(), "101"]).await), (1..=101).collect::<Vec<_>>());
        empty(&vhost, "orders").await;
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn of_a_thousand_from_python_the_one_without_a_way_is_named_and_the_others_are_run_here() {
        let vhost = shared_vhost();
        let shop = Shop::open(&vhost, registry()).await;
        shop_exchange(&shop.client).await;
        let said = run("reliable_publisher.py", &[vhost.url(), "1000", "500"]).await;
        let said: Value = serde_json::from_str(&said[0]).unwrap();
        assert_eq!(said, json!({"confirmed": 999, "returned": [500], "refused": []}));
        let expected: Vec<_> = (0..1_000).filter(|n| *n != 500).collect();
        assert_eq!(shop.tried_sorted(999).await, expected);
        shop.close().await;
    }

    #[tokio::test]
    async fn of_a_thousand_from_here_the_one_without_a_way_is_named_and_the_others_are_consumed_in_python() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        shop_exchange(&client).await;
        let key = |n| if n == 500 { "order.lost" } else { "order.created" };
        let orders: Vec<_> = (0..1_000).map(|n| (n, key(n))).collect();
        let failed = order_all(&client, &orders).await;
        let [(place, error)] = &failed[..] else { panic!("{failed:?}") };
        assert_eq!((*place, error.kind()), (500, EnqueueErrorKind::Unroutable));
        assert!(error.to_string().contains("exchange `shop` sends key `order.lost` to no queue"), "{error}");
        let mut got = numbers(&run("async_consume.py", &[vhost.url(), "999"]).await);
        got.sort_unstable();
        assert_eq!(got, (0..1_000).filter(|n| *n != 500).collect::<Vec<_>>());
        empty(&vhost, "orders").await;
        client.close().await.unwrap();
    }

    /// The ids of what `order_stubbornly` sent, where the broker's answers are `faults` and then no more; and how it ended.
    async fn sent(faults: Vec<Fault>) -> (Vec<String>, Result<JobId, EnqueueError>) {
        let (ids, mut faults) = (Arc::new(Mutex::new(Vec::new())), faults.into_iter());
        let noted = Arc::clone(&ids);
        let bench = Bench::faulty(move |call| match call {
            Call::Enqueue(envelope) => {
                noted.lock().unwrap().push(envelope.id.to_string());
                faults.next().unwrap_or(Fault::None)
            }
            _ => Fault::None,
        });
        let ended = order_stubbornly(&bench.client, 1).await;
        let ids = ids.lock().unwrap().clone();
        (ids, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_whose_fate_is_unknown_is_sent_again_under_its_id_and_one_that_is_refused_is_not() {
        let (ids, ended) = sent(vec![Fault::AnswerLost, Fault::Refused(BrokerErrorKind::Transient)]).await;
        assert_eq!(ids, vec![ended.unwrap().to_string(); 3]);
        let (ids, ended) = sent(vec![Fault::Lost; 9]).await;
        assert_eq!((ids.len(), ended.unwrap_err().kind()), (5, EnqueueErrorKind::Indeterminate));
        let (ids, ended) = sent(vec![Fault::Refused(BrokerErrorKind::Permanent)]).await;
        assert_eq!((ids.len(), ended.unwrap_err().kind()), (1, EnqueueErrorKind::Refused));
    }
}
