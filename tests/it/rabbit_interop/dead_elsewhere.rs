//! Dead letters that others have an opinion about: another queue, a policy, a time to live.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker_core::{
    Client, Context, Enqueue, EnqueueErrorKind, Handler, Job, JobError, JobId, JobOptions, JobResult, Registry, Worker,
    broker::{Broker as _, DeadJob, Page, Selection, Topology},
    brokers::rabbitmq::{RabbitBroker, RabbitOptions},
    days,
    queue::QueueOptions,
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::neighbour::{python, text};
use crate::bench::Running;

macro_rules! failing {
    ($(#[$doc:meta])* $name:ident, $options:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name {}

        impl Job for $name {
            const NAME: &'static str = "fail";
            const QUEUE: &'static str = "orders";
            const OPTIONS: JobOptions = $options;
            type Return = ();
        }

        impl Handler for $name {
            async fn run(self, _: Context) -> JobResult<()> {
                Err(JobError::discard("out of stock"))
            }
        }
    };
}

failing! {
    /// Fails for good, with dead letters where they usually are.
    Fail, JobOptions::DEFAULT
}
failing! {
    /// The same, with dead letters where the neighbour has them.
    FailElsewhere, JobOptions::DEFAULT.dead_letter_queue("orders_dead")
}
failing! {
    /// The same, with dead letters that are deleted after a week.
    FailForAWeek, JobOptions::DEFAULT.dead_letter_ttl(days(7))
}

const DAY_MS: u64 = 86_400_000;

/// The tutorial's queue as it is found in many a shop: dead letters have another name, and a day.
const ELSEWHERE: &str = r#"
channel.exchange_declare("orders_dlx", exchange_type="direct", durable=True)
channel.queue_declare("orders_dead", durable=True, arguments={"x-message-ttl": 86400000})
channel.queue_bind("orders_dead", "orders_dlx", routing_key="orders")
channel.queue_declare("orders", durable=True, arguments={"x-dead-letter-exchange": "orders_dlx", "x-message-ttl": 3600000})
"#;

/// Takes a message of `orders` and rejects it, for the server to dead-letter.
const REJECT: &str = r#"
method, properties, body = next(channel.consume("orders", inactivity_timeout=20))
channel.basic_reject(method.delivery_tag, requeue=False)
channel.cancel()
"#;

/// Enqueues a job and runs a worker until it is done with it.
async fn fail<J: Handler>(client: &Client, vhost: &Vhost, job: J, id: &str) {
    client.enqueue(Enqueue::new(job).id(id.parse::<JobId>().unwrap())).await.unwrap();
    let running = Running::start(Worker::builder(client).registry(Registry::new().with::<J>()));
    eventually("the job left its queue", async || {
        let orders = shared_node().queue_info(vhost.name(), "orders").await;
        (orders.ready + orders.unacked == 0 && orders.consumers == 1).then_some(())
    })
    .await;
    running.stop().await;
}

async fn dead(client: &Client) -> Vec<DeadJob> {
    let inspector = client.broker().inspector().unwrap();
    let mut known = Selection::default();
    known.known = vec!["orders".parse().unwrap()];
    soon("the dead are listed", inspector.dead(&known, Page::first(10))).await.unwrap().jobs
}

async fn ready(vhost: &Vhost, queue: &str) -> Option<u64> {
    let queues = shared_node().list_queues(vhost.name()).await;
    queues.into_iter().find(|info| info.name == queue).map(|info| info.ready)
}

async fn ttl(vhost: &Vhost, queue: &str) -> Value {
    let arguments = shared_node().queue_info(vhost.name(), queue).await.arguments;
    arguments.get("x-message-ttl").cloned().unwrap_or_default()
}

#[tokio::test]
async fn dead_letters_go_where_the_neighbour_has_them_and_come_back_from_there() {
    let vhost = shared_vhost();
    python(&vhost, ELSEWHERE).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    fail(&client, &vhost, FailElsewhere {}, "ours").await;
    // What the server dead-letters by itself is among them.
    python(&vhost, &format!("publish({{}}, type=\"fail\", message_id=\"theirs\")\n{REJECT}")).await;
    eventually("the server has dead-lettered it", async || {
        (ready(&vhost, "orders_dead").await == Some(2)).then_some(())
    })
    .await;
    let found = dead(&client).await;
    let mut ids: Vec<_> = found.iter().map(|dead| (dead.id.to_string(), dead.queue.to_string())).collect();
    ids.sort();
    assert_eq!(ids, [("ours".to_owned(), "orders".to_owned()), ("theirs".to_owned(), "orders".to_owned())]);
    assert_eq!(ready(&vhost, "orders_dlq").await, None, "nothing of that name is made");
    assert_eq!(ttl(&vhost, "orders_dead").await, DAY_MS, "it is used as it is");
    let inspector = client.broker().inspector().unwrap();
    let mut all = Selection::default();
    all.known = vec!["orders".parse().unwrap()];
    assert_eq!(soon("they are replayed", inspector.replay(&all, 10)).await.unwrap(), 2);
    assert_eq!((ready(&vhost, "orders").await, ready(&vhost, "orders_dead").await), (Some(2), Some(0)));
    client.close().await.unwrap();

    // Whoever only looks is told where to.
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), shared_node().amqp_port())];
    options.vhost = vhost.name().to_owned();
    python(&vhost, REJECT).await;
    let broker = RabbitBroker::connect(options).await.unwrap();
    let asked = QueueOptions::default().dead_letter_queue("orders_dead".parse().unwrap());
    broker.know(&Topology::default().queue("orders".parse().unwrap(), asked));
    let stats = broker.inspector().unwrap().queues(&["orders".parse().unwrap()]).await.unwrap();
    assert_eq!((stats.len(), stats[0].dead), (1, 1));
    broker.close().await.unwrap();
}

#[tokio::test]
async fn a_policy_dead_letters_what_the_server_drops_and_nothing_of_ours() {
    let (node, vhost) = (shared_node(), shared_vhost());
    python(
        &vhost,
        r#"
channel.queue_declare("graveyard", durable=True)
channel.queue_declare("orders", durable=True)
"#,
    )
    .await;
    let by_policy = json!({"dead-letter-exchange": "", "dead-letter-routing-key": "graveyard"});
    node.set_policy(vhost.name(), "^orders$", by_policy).await;
    let client = Client::connect(vhost.url()).await.unwrap();
    fail(&client, &vhost, Fail {}, "ours").await;
    assert_eq!(dead(&client).await.iter().map(|dead| dead.id.to_string()).collect::<Vec<_>>(), ["ours"]);
    assert_eq!(ready(&vhost, "graveyard").await, Some(0), "what a worker buries is published by it");
    python(&vhost, &format!("publish({{}}, message_id=\"theirs\")\n{REJECT}")).await;
    // It is where the policy says, which is not where we look: the guide says so.
    let buried = python(&vhost, r#"say(take("graveyard"))"#).await;
    assert_eq!(buried["properties"]["message_id"], "theirs");
    assert_eq!(text(&buried, "x-first-death-reason"), "rejected");
    assert_eq!(dead(&client).await.len(), 1);
    client.close().await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_kept_for_ever_or_as_long_as_a_job_asks() {
    for (asks, expected) in [(false, Value::Null), (true, json!(7 * DAY_MS))] {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        if asks {
            fail(&client, &vhost, FailForAWeek {}, "a").await;
        } else {
            fail(&client, &vhost, Fail {}, "a").await;
        }
        assert_eq!((ttl(&vhost, "orders_dlq").await, ttl(&vhost, "orders").await), (expected, Value::Null));
        assert_eq!(dead(&client).await.len(), 1);
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_letter_queue_that_keeps_them_for_another_time_is_an_error_with_both() {
    for (declared, told) in [(json!({}), "none"), (json!({"x-message-ttl": DAY_MS}), "86400000")] {
        let vhost = shared_vhost();
        shared_node().declare_queue(vhost.name(), "orders_dlq", declared.clone()).await;
        let client = Client::connect(vhost.url()).await.unwrap();
        let error = client.enqueue(FailForAWeek {}).await.unwrap_err();
        assert_eq!(error.kind(), EnqueueErrorKind::Refused);
        let expected = format!("queue `orders_dlq` exists with `x-message-ttl` = {told}, and 604800000 was asked for");
        assert!(error.to_string().contains(&expected) && error.to_string().contains("a policy"), "{error}");
        // Who asks for nothing uses it.
        client.enqueue(Fail {}).await.unwrap();
        client.close().await.unwrap();
    }
}
