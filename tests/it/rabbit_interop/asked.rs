//! What jobs ask of their queue: of one that is made for them, and of one that others have declared.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use worker_core::{
    Client, Context, Enqueue, EnqueueErrorKind, Handler, Job, JobError, JobOptions, JobResult, Priority, Registry,
    RetryPolicy, Worker, WorkerBuilder, broker::Subscription, queue::QueueType, seconds,
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::neighbour::python;
use crate::bench::Running;

/// A job of a queue that tells 0 to 10 apart. One of 0 fails once, with a pause of 5 s.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ship {
    n: i64,
}

impl Job for Ship {
    const NAME: &'static str = "ship";
    const QUEUE: &'static str = "orders";
    const OPTIONS: JobOptions = JobOptions::DEFAULT
        .queue_type(QueueType::Classic)
        .max_priority(Priority::new(10).unwrap())
        .retry(RetryPolicy::new(1, seconds(5), seconds(5)));
    type Return = ();
}

struct Ledger(mpsc::Sender<i64>);

impl Handler for Ship {
    async fn run(self, cx: Context) -> JobResult<()> {
        if self.n == 0 && cx.attempt() == 1 {
            // Without jitter, so that a test knows in which queue it waits.
            return Err(JobError::retry_in(seconds(5), "not yet"));
        }
        cx.state::<Ledger>()?.0.send(self.n).await?;
        Ok(())
    }
}

/// A job of the same queue that asks nothing of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plain {
    n: i64,
}

impl Job for Plain {
    const NAME: &'static str = "plain";
    const QUEUE: &'static str = "orders";
    type Return = ();
}

fn ship(n: i64, priority: u8) -> Enqueue<Ship> {
    Enqueue::new(Ship { n }).priority(priority)
}

/// A worker for [`Ship`], one at a time, and the numbers that it ships.
fn shipping(client: &Client) -> (WorkerBuilder, mpsc::Receiver<i64>) {
    let (ledger, shipped) = mpsc::channel(100);
    let registry = Registry::new().with::<Ship>();
    let worker = Worker::builder(client).registry(registry).state(Ledger(ledger)).concurrency(1).prefetch(1);
    (worker, shipped)
}

/// Runs a worker until it has shipped `count`.
async fn shipped(client: &Client, count: usize) -> Vec<i64> {
    let (worker, mut shipped) = shipping(client);
    let running = Running::start(worker);
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(soon("a job was shipped", shipped.recv()).await.unwrap());
    }
    running.stop().await;
    numbers
}

async fn arguments(vhost: &Vhost, queue: &str) -> Value {
    Value::Object(shared_node().queue_info(vhost.name(), queue).await.arguments)
}

#[tokio::test]
async fn whoever_comes_first_declares_the_queue_as_its_jobs_ask_and_what_is_derived_as_ever() {
    for enqueues_first in [true, false] {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        if enqueues_first {
            client.enqueue(ship(1, 4)).await.unwrap();
        } else {
            let (worker, _) = shipping(&client);
            let running = Running::start(worker);
            eventually("the suspects' queue was declared, the last of those at the start", async || {
                let queues = shared_node().list_queues(vhost.name()).await;
                queues.iter().any(|queue| queue.name == "orders_suspects").then_some(())
            })
            .await;
            running.stop().await;
        }
        let orders = arguments(&vhost, "orders").await;
        assert_eq!((&orders["x-queue-type"], &orders["x-max-priority"]), (&json!("classic"), &json!(10)), "{orders}");
        for queue in shared_node().list_queues(vhost.name()).await.iter().filter(|queue| queue.name != "orders") {
            assert_eq!(queue.kind, "quorum", "{}", queue.name);
            assert!(!queue.arguments.contains_key("x-max-priority"), "{}", queue.name);
        }
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_of_others_that_is_not_what_is_asked_is_an_error_with_both_values_and_the_ways_out() {
    let classic = |more: Value| {
        let mut arguments = json!({"x-queue-type": "classic", "x-max-length": 1_000});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    for (declared, told) in [
        (json!({"x-queue-type": "quorum"}), "exists with `x-queue-type` = quorum, and classic was asked for"),
        (classic(json!({})), "exists with `x-max-priority` = none, and 10 was asked for"),
        (classic(json!({"x-max-priority": 5})), "exists with `x-max-priority` = 5, and 10 was asked for"),
    ] {
        let (node, vhost) = (shared_node(), shared_vhost());
        node.declare_queue(vhost.name(), "orders", declared.clone()).await;
        let client = Client::connect(vhost.url()).await.unwrap();
        let refused = client.enqueue(ship(1, 4)).await.unwrap_err();
        assert_eq!(refused.kind(), EnqueueErrorKind::Refused);
        let (worker, _) = shipping(&client);
        let stopped = soon("the worker ended", worker.build().unwrap().run(std::future::pending())).await.unwrap_err();
        for error in [refused.to_string(), stopped.to_string()] {
            for part in ["queue `orders`", told, "use it as it is", "another name", "delete it when it is empty"] {
                assert!(error.contains(part), "no `{part}` in: {error}");
            }
        }
        // Neither by one that asks for nothing is it changed, nor is its neighbour's job refused.
        let answers = client.enqueue_all([ship(2, 4).erase(), Enqueue::new(Plain { n: 3 }).erase()]).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        assert_eq!(arguments(&vhost, "orders").await, declared);
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_of_others_with_at_least_what_is_asked_is_used_as_it_is() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let declared = json!({"x-max-priority": 20, "x-message-ttl": 3_600_000, "x-dead-letter-exchange": "orders_dlx",
        "x-dead-letter-routing-key": "orders_dlq", "x-overflow": "drop-head", "x-max-length": 10_000});
    node.declare_queue(vhost.name(), "orders", declared.clone()).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    for (n, priority) in [(1, 1), (2, 10), (3, 5)] {
        client.enqueue(ship(n, priority)).await.unwrap();
    }
    assert_eq!(shipped(&client, 3).await, [2, 3, 1]);
    let mut found = arguments(&vhost, "orders").await;
    // A server may add its own.
    found.as_object_mut().unwrap().retain(|name, _| declared.get(name).is_some());
    assert_eq!(found, declared);
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_priority_is_refused_where_the_queue_that_is_there_ignores_it_on_every_version() {
    let (node, vhost) = (shared_node(), shared_vhost());
    node.declare_queue(vhost.name(), "orders", json!({"x-queue-type": "classic", "x-max-length": 1_000})).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    let error = client.enqueue(Enqueue::new(Plain { n: 1 }).priority(9)).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unsupported);
    let told = error.to_string();
    for part in ["priority 9", "queue `orders`", "without `x-max-priority`", "max_priority = 10", "4.3"] {
        assert!(told.contains(part), "no `{part}` in: {told}");
    }
    client.enqueue(Plain { n: 2 }).await.unwrap();
    // One that was declared with priorities honours them, whoever asks.
    let vhost = shared_vhost();
    node.declare_queue(vhost.name(), "orders", json!({"x-queue-type": "classic", "x-max-priority": 5})).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    client.enqueue(Enqueue::new(Plain { n: 1 }).priority(5)).await.unwrap();
    let told = client.enqueue(Enqueue::new(Plain { n: 1 }).priority(6)).await.unwrap_err().to_string();
    assert!(told.contains("priority 6") && told.contains("0 to 5"), "{told}");
}

#[tokio::test]
async fn a_queue_that_was_made_anew_as_asked_is_used_by_those_who_were_refused() {
    let (node, vhost) = (shared_node(), shared_vhost());
    node.declare_queue(vhost.name(), "orders", json!({"x-queue-type": "classic"})).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    client.enqueue(ship(1, 9)).await.unwrap_err();
    client.enqueue(Enqueue::new(Plain { n: 2 }).priority(9)).await.unwrap_err();
    node.delete_queue(vhost.name(), "orders").await;
    node.declare_queue(vhost.name(), "orders", json!({"x-queue-type": "classic", "x-max-priority": 10})).await;
    client.enqueue(Enqueue::new(Plain { n: 3 }).priority(9)).await.unwrap();
    client.enqueue(ship(4, 9)).await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn who_may_not_declare_uses_what_is_there_whatever_is_asked() {
    let (node, vhost) = (shared_node(), shared_vhost());
    node.declare_queue(vhost.name(), "orders", json!({"x-max-priority": 10})).await;
    node.declare_queue(vhost.name(), "orders_dlq", json!({"x-queue-type": "quorum"})).await;
    let user = format!("reader-{}", vhost.name());
    node.create_user(&user, "secret").await;
    node.set_permissions(&user, vhost.name(), "^$", r"^amq\.default$", ".*").await;
    let client = Client::connect(&vhost.url().replace("guest:guest", &format!("{user}:secret"))).await.unwrap();
    for (n, priority) in [(1, 1), (2, 9)] {
        client.enqueue(ship(n, priority)).await.unwrap();
    }
    let first = python(&vhost, r#"say(take("orders"))"#).await;
    assert_eq!(first["body"], r#"{"n":2}"#);
}

#[tokio::test]
async fn a_neighbours_priorities_are_honoured_in_a_queue_of_the_tutorial() {
    let vhost = shared_vhost();
    let script = r#"
channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 10})
for n, priority in [(1, 1), (2, 9), (3, None), (4, 5), (5, 255)]:
    publish({"n": n}, type="ship", priority=priority)
"#;
    python(&vhost, script).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    // What is above the highest counts as the highest, and what has none as 0.
    assert_eq!(shipped(&client, 5).await, [5, 2, 4, 1, 3]);
    client.close().await.unwrap();
}

#[tokio::test]
async fn our_priorities_are_honoured_by_a_neighbour() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    for (n, priority) in [(1, 0), (2, 10), (3, 5)] {
        client.enqueue(ship(n, priority)).await.unwrap();
    }
    client.enqueue(Ship { n: 4 }).await.unwrap();
    client.close().await.unwrap();
    let script = r#"
channel.queue_declare("orders", passive=True)
say([[json.loads(message["body"])["n"], message["properties"]["priority"]] for message in [take("orders") for _ in range(4)]])
"#;
    assert_eq!(python(&vhost, script).await, json!([[2, 10], [3, 5], [4, 4], [1, 0]]));
}

#[tokio::test]
async fn a_retry_keeps_its_priority_through_its_rung_and_back() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let (worker, _) = shipping(&client);
    let running = Running::start(worker);
    client.enqueue(ship(0, 8)).await.unwrap();
    let rung =
        async || shared_node().list_queues(vhost.name()).await.into_iter().find(|q| q.name == "orders_retry_5000");
    let waiting = eventually("it waits on its rung", async || rung().await.filter(|rung| rung.ready == 1)).await;
    assert_eq!(waiting.kind, "quorum", "a wait is replicated, whatever its queue is");
    running.stop().await;
    for (n, priority) in [(1, 5), (2, 9)] {
        client.enqueue(ship(n, priority)).await.unwrap();
    }
    eventually("it is back in its queue", async || {
        let orders = shared_node().queue_info(vhost.name(), "orders").await;
        (orders.ready == 3).then_some(())
    })
    .await;
    assert_eq!(shipped(&client, 3).await, [2, 0, 1]);
    client.close().await.unwrap();
}

#[tokio::test]
async fn what_is_given_back_to_a_classic_queue_is_not_blamed_and_keeps_its_priority() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    for n in 1..=20 {
        client.enqueue(ship(n, u8::try_from(n / 2).unwrap())).await.unwrap();
    }
    let broker = client.broker();
    for _ in 0..2 {
        let subscription = Subscription::new("orders".parse().unwrap(), NonZeroU16::new(30).unwrap());
        let (mut source, settler) = broker.consume(subscription).await.unwrap();
        let mut fetched = Vec::new();
        while fetched.len() < 20 {
            fetched.extend(soon("they came", source.next_batch(30)).await.unwrap());
        }
        assert!(fetched.iter().all(|delivery| delivery.starts == 0), "{fetched:?}");
        soon("it stopped", source.stop()).await.unwrap();
        // What was returned is owned until both halves are gone.
        drop((source, settler, fetched));
        eventually("all are back", async || {
            let orders = shared_node().queue_info(vhost.name(), "orders").await;
            (orders.ready == 20 && orders.consumers == 0).then_some(())
        })
        .await;
    }
    let numbers = shipped(&client, 20).await;
    assert!(numbers.iter().map(|n| n / 2).rev().is_sorted(), "{numbers:?}");
    let suspects = shared_node().queue_info(vhost.name(), "orders_suspects").await;
    assert_eq!(suspects.ready + suspects.unacked, 0);
    client.close().await.unwrap();
}
