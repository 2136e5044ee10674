//! Events, from the publish to each job that runs for them, on every broker.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker_core::{
    Client, EnqueueErrorKind, Event, Publish, Registry, Worker,
    broker::Topology,
    brokers::memory::MemoryBroker,
    exchange::{Binding, ExchangeKind},
    prelude::*,
};
use worker_tests::{eventually::eventually, rabbit::shared_vhost};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderPlaced {
    order_id: u64,
    country: String,
}

impl Event for OrderPlaced {
    const NAME: &'static str = "order_placed";
    const EXCHANGE: &'static str = "events";

    fn key(&self) -> String {
        format!("order.placed.{}", self.country)
    }
}

fn order(order_id: u64, country: &str) -> OrderPlaced {
    OrderPlaced { order_id, country: country.into() }
}

/// Who ran for which order, in their order; with the attempts.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<&'static str, Vec<(u64, u32)>>>);

impl Ledger {
    fn note(&self, who: &'static str, order: &OrderPlaced, cx: &Context) {
        self.0.lock().unwrap().entry(who).or_default().push((order.order_id, cx.attempt()));
    }

    fn of(&self, who: &str) -> Vec<(u64, u32)> {
        let mut noted = self.0.lock().unwrap().get(who).cloned().unwrap_or_default();
        noted.sort_unstable();
        noted
    }
}

#[job(on = "events")]
async fn audit(Payload(order): Payload<OrderPlaced>, ledger: State<Ledger>, cx: Context) {
    ledger.note("audit", &order, &cx);
}

/// Fails once for each order.
#[job(on = "events", bind = ["order.placed.ch", "*.placed.de"], backoff = "10ms..10ms")]
async fn customs(Payload(order): Payload<OrderPlaced>, ledger: State<Ledger>, cx: Context) -> JobResult {
    ledger.note("customs", &order, &cx);
    if cx.attempt() == 1 { Err("the line is busy".into()) } else { Ok(()) }
}

/// Not of an event: it has the name of one.
#[job(queue = "elsewhere")]
async fn order_placed() -> JobResult {
    Err("a copy came to a job that runs for no event".into())
}

async fn each_job_that_runs_for_an_event_gets_a_copy_of_its_own(client: Client) {
    let ledger = Arc::new(Ledger::default());
    let registry = Registry::new().with::<audit>().with::<customs>().with::<order_placed>();
    // Nobody runs for it yet.
    client.publish(order(1, "ch")).await.unwrap();
    let error = client.publish(Publish::new(order(2, "ch")).mandatory()).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unroutable, "{error}");

    let worker = Worker::builder(&client).registry(registry).state_arc(Arc::clone(&ledger)).build().unwrap();
    let (status, stop) = (worker.status(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(worker.run(stop.clone().cancelled_owned()));
    eventually("all queues are bound and consumed", async || status.is_ready().then_some(())).await;
    client.publish(Publish::new(order(3, "ch")).mandatory()).await.unwrap();
    client.publish(Publish::new(order(4, "de")).header("tenant", "a")).await.unwrap();
    client.publish(order(5, "fr")).await.unwrap();
    eventually("all ran", async || (ledger.of("audit").len() >= 3 && ledger.of("customs").len() >= 4).then_some(()))
        .await;
    assert_eq!(ledger.of("audit"), [(3, 1), (4, 1), (5, 1)]);
    assert_eq!(ledger.of("customs"), [(3, 1), (3, 2), (4, 1), (4, 2)], "the one that failed, and it alone");
    stop.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn on_memory() {
    each_job_that_runs_for_an_event_gets_a_copy_of_its_own(Client::new(Arc::new(MemoryBroker::new()))).await;
}

#[tokio::test]
async fn on_a_file() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
    each_job_that_runs_for_an_event_gets_a_copy_of_its_own(Client::connect(&url).await.unwrap()).await;
}

#[tokio::test]
async fn on_rabbitmq() {
    let vhost = shared_vhost();
    each_job_that_runs_for_an_event_gets_a_copy_of_its_own(Client::connect(vhost.url()).await.unwrap()).await;
}

/// One in the middle of a thousand that nobody takes, and one that cannot be sent at all.
async fn of_a_thousand_events_the_one_that_nobody_takes_is_told(client: Client) {
    let topology = Topology::queues(["q".parse().unwrap()])
        .exchange("events".parse().unwrap(), ExchangeKind::Topic)
        .bind(Binding::by_key("events".parse().unwrap(), "q".parse().unwrap(), "order.placed.ch"));
    client.declare(&topology).await.unwrap();
    let country = |n| match n {
        500 => "nowhere".to_owned(),
        700 => "x".repeat(300),
        _ => "ch".to_owned(),
    };
    let events = (0..1_000).map(|n| Publish::new(order(n, &country(n))).mandatory());
    let answers = client.publish_all(events).await;
    let failed: Vec<_> =
        answers.iter().enumerate().filter_map(|(n, answer)| Some((n, answer.as_ref().err()?.kind()))).collect();
    assert_eq!(failed, [(500, EnqueueErrorKind::Unroutable), (700, EnqueueErrorKind::Invalid)]);
    eventually("the others are there", async || {
        let stats = client.broker().inspector().unwrap().queues(&["q".parse().unwrap()]).await.unwrap();
        (stats[0].ready == 998).then_some(())
    })
    .await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn of_a_thousand_in_memory() {
    of_a_thousand_events_the_one_that_nobody_takes_is_told(Client::new(Arc::new(MemoryBroker::new()))).await;
}

#[tokio::test]
async fn of_a_thousand_in_a_file() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
    of_a_thousand_events_the_one_that_nobody_takes_is_told(Client::connect(&url).await.unwrap()).await;
}

#[tokio::test]
async fn of_a_thousand_on_rabbitmq() {
    let vhost = shared_vhost();
    of_a_thousand_events_the_one_that_nobody_takes_is_told(Client::connect(vhost.url()).await.unwrap()).await;
}

#[tokio::test]
async fn a_worker_whose_exchange_has_another_kind_says_so_and_ends() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let topology = Topology::queues(["q".parse().unwrap()])
        .exchange("events".parse().unwrap(), ExchangeKind::Fanout)
        .bind(Binding::by_key("events".parse().unwrap(), "q".parse().unwrap(), ""));
    client.declare(&topology).await.unwrap();
    let registry = Registry::new().with::<audit>();
    let worker = Worker::builder(&client).registry(registry).state(Ledger::default()).build().unwrap();
    let error = worker.run(std::future::pending::<()>()).await.unwrap_err().to_string();
    assert!(error.contains("exchange `events` exists as fanout, and topic was asked for"), "{error}");
}
