//! A producer that knows nothing of the framework: its messages are jobs.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use worker_core::{
    Client, Context, Handler, Job, JobError, JobOptions, JobResult, Registry, RetryPolicy, Worker, seconds,
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::neighbour::python;
use crate::bench::Running;

/// An order as the tutorial's producer writes it. One below zero fails: once with a pause of 5 s, and then for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ShipOrder {
    pub(super) order_id: i64,
}

impl Job for ShipOrder {
    const NAME: &'static str = "ship_order";
    const QUEUE: &'static str = "orders";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(RetryPolicy::new(1, seconds(5), seconds(5)));
    type Return = ();
}

/// What a handler saw of a job.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) order: ShipOrder,
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(super) traceparent: Option<String>,
}

struct Ledger(mpsc::Sender<Seen>);

impl Handler for ShipOrder {
    async fn run(self, cx: Context) -> JobResult<()> {
        let traceparent = cx.header("traceparent").and_then(|value| value.as_str()).map(str::to_owned);
        let seen = Seen { order: self.clone(), id: cx.id().to_string(), attempt: cx.attempt(), traceparent };
        cx.state::<Ledger>()?.0.send(seen).await?;
        if self.order_id < 0 {
            // Without jitter, so that a test knows in which queue it waits.
            return Err(JobError::retry_in(seconds(5), format!("order {} does not exist", self.order_id)));
        }
        Ok(())
    }
}

/// A worker for `ship_order`, and what it sees.
pub(super) struct Shop {
    pub(super) client: Client,
    seen: mpsc::Receiver<Seen>,
    running: Running,
}

impl Shop {
    pub(super) async fn open(vhost: &Vhost) -> Self {
        let client = Client::connect(vhost.url()).await.unwrap();
        let (ledger, seen) = mpsc::channel(100);
        let worker = Worker::builder(&client).registry(Registry::new().with::<ShipOrder>()).state(Ledger(ledger));
        Self { running: Running::start(worker), client, seen }
    }

    pub(super) async fn sees(&mut self) -> Seen {
        soon("a job was run", self.seen.recv()).await.unwrap()
    }

    pub(super) async fn close(self) {
        self.running.stop().await;
        self.client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_message_of_the_tutorial_without_headers_is_handled() {
    let vhost = shared_vhost();
    python(&vhost, r#"tutorial(); publish({"order_id": 7})"#).await;
    let declared = shared_node().list_queues(vhost.name()).await;
    let mut shop = Shop::open(&vhost).await;
    let seen = shop.sees().await;
    assert_eq!((&seen.order, seen.attempt), (&ShipOrder { order_id: 7 }, 1));
    eventually("the order left its queue", async || {
        let orders = shared_node().queue_info(vhost.name(), "orders").await;
        (orders.ready + orders.unacked == 0).then_some(())
    })
    .await;
    shop.close().await;
    // The neighbour's queues are as it declared them.
    for before in declared {
        let now = shared_node().queue_info(vhost.name(), &before.name).await;
        assert_eq!((now.kind, now.arguments), (before.kind, before.arguments));
    }
}

#[tokio::test]
async fn a_job_of_ours_is_a_message_that_a_neighbour_reads() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let job = worker_core::Enqueue::new(ShipOrder { order_id: 7 }).id("order-7".parse::<worker_core::JobId>().unwrap());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    client.enqueue(job.header("traceparent", trace).header("line", 3)).await.unwrap();
    client.close().await.unwrap();

    let message = python(&vhost, r#"say(take("orders"))"#).await;
    let properties = &message["properties"];
    assert_eq!(message["body"], r#"{"order_id":7}"#);
    for (name, value) in [("type", "ship_order"), ("message_id", "order-7"), ("content_type", "application/json")] {
        assert_eq!(properties[name], value, "{name}");
    }
    assert_eq!((&properties["delivery_mode"], &properties["priority"]), (&2.into(), &4.into()));
    assert!(properties["timestamp"].as_u64().unwrap() > 1_700_000_000 && properties["app_id"].is_string());
    assert!(properties.get("expiration").is_none());
    let headers = &properties["headers"];
    assert_eq!((&headers["traceparent"][1], &headers["line"]), (&trace.into(), &serde_json::json!(["int", 3])));
    // Milliseconds, which do not fit into 32 bits: pika calls such a number `long`.
    assert_eq!(headers["x-enqueued-at"][0], "long");
    assert_eq!(headers["x-enqueued-at"][1].as_u64().unwrap() / 1_000, properties["timestamp"].as_u64().unwrap());
    assert_eq!(headers.as_object().unwrap().keys().filter(|name| name.starts_with("x-")).count(), 1);
}
