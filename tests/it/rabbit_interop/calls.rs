//! Calls between neighbours: the tutorial's RPC client calls our job, and we call its server.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use worker_core::{CallError, Client, FailureKind, Job, Registry, Worker, prelude::*};
use worker_tests::{
    eventually::{eventually, eventually_within},
    rabbit::shared_node,
    rabbit::shared_vhost,
};

use super::neighbour::python;
use crate::bench::Running;

/// The tutorial's own: it waits on a queue that the server names.
const RPC_CLIENT: &str = r#"
import uuid

class RpcClient:
    def __init__(self):
        result = channel.queue_declare(queue='', exclusive=True)
        self.callback_queue = result.method.queue
        channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)

    def on_response(self, ch, method, props, body):
        if self.corr_id == props.correlation_id:
            self.response = (json.loads(body), props.headers or {}, props.content_type)

    def call(self, n, queue, **properties):
        self.response = None
        self.corr_id = str(uuid.uuid4())
        properties = {"reply_to": self.callback_queue, "correlation_id": self.corr_id, **properties}
        channel.basic_publish(exchange='', routing_key=queue, properties=pika.BasicProperties(**properties),
                              body=json.dumps({"n": n}), mandatory=True)
        while self.response is None:
            connection.process_data_events(time_limit=20)
        return self.response
"#;

/// The tutorial's server, for a few calls.
const RPC_SERVER: &str = r#"
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def on_request(ch, method, props, body):
    n = json.loads(body)["n"]
    ch.basic_publish(exchange='', routing_key=props.reply_to,
                     properties=pika.BasicProperties(correlation_id=props.correlation_id), body=str(fib(n)))
    ch.basic_ack(delivery_tag=method.delivery_tag)
    on_request.left -= 1
    if on_request.left == 0:
        ch.stop_consuming()

on_request.left = 3
channel.queue_declare(queue='rpc_queue')
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue='rpc_queue', on_message_callback=on_request)
channel.start_consuming()
"#;

#[job(queue = "fibonacci")]
async fn fibonacci(n: u64) -> JobResult<u64> {
    if n > 90 {
        return Err(format!("{n} is too much").into());
    }
    Ok((0..n).fold((0, 1), |(a, b), _| (b, a + b)).0)
}

/// What a caller must know of a server that is written in another language.
#[derive(Serialize, Deserialize)]
struct Fib {
    n: u64,
}

impl Job for Fib {
    const NAME: &'static str = "fib";
    const QUEUE: &'static str = "rpc_queue";
    type Return = JobResult<u64>;
}

async fn fibonacci_worker(url: &str) -> (Client, Running) {
    let client = Client::connect(url).await.unwrap();
    let worker = Worker::builder(&client).registry(Registry::new().with::<fibonacci>());
    client.declare(&worker_core::broker::Topology::queues(["fibonacci".parse().unwrap()])).await.unwrap();
    (client, Running::start(worker))
}

#[tokio::test]
async fn the_tutorials_client_calls_a_job_of_ours() {
    let vhost = shared_vhost();
    let (client, running) = fibonacci_worker(vhost.url()).await;
    let said = python(&vhost, &format!("{RPC_CLIENT}\nsay(RpcClient().call(30, 'fibonacci'))")).await;
    assert_eq!(said, json!([832_040, {}, "application/json"]));
    // A failure: its text in the body, its kind in a header; and no second attempt.
    let said = python(&vhost, &format!("{RPC_CLIENT}\nsay(RpcClient().call(91, 'fibonacci'))")).await;
    let failure = json!({"error": {"kind": "error", "message": "91 is too much"}});
    assert_eq!(said, json!([failure, {"x-failure-kind": "error"}, "application/json"]));
    running.stop().await;
    let left = shared_node().queue_info(vhost.name(), "fibonacci_dlq").await;
    assert_eq!(left.ready + left.unacked, 0, "its caller has the failure");
    client.close().await.unwrap();
}

#[tokio::test]
async fn the_tutorials_client_calls_a_job_of_ours_over_direct_reply_to() {
    let vhost = shared_vhost();
    let (client, running) = fibonacci_worker(vhost.url()).await;
    let script = r#"
got = []
channel.basic_consume('amq.rabbitmq.reply-to', lambda ch, m, p, body: got.append(json.loads(body)), auto_ack=True)
channel.basic_publish('', 'fibonacci', json.dumps({"n": 10}), pika.BasicProperties(reply_to='amq.rabbitmq.reply-to'))
while not got:
    connection.process_data_events(time_limit=20)
say(got)
"#;
    assert_eq!(python(&vhost, script).await, json!([55]));
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn we_call_the_tutorials_server() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let calling = async {
        // A client declares what is missing, and the server's queue is not durable: it comes first.
        eventually("the server waits", async || {
            let queues = shared_node().list_queues(vhost.name()).await;
            queues.iter().any(|queue| queue.name == "rpc_queue").then_some(())
        })
        .await;
        for (n, value) in [(10, 55), (0, 0), (20, 6_765)] {
            assert_eq!(client.call(Fib { n }).timeout("20s").await.unwrap(), value);
        }
    };
    tokio::join!(python(&vhost, RPC_SERVER), calling);
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_is_gone_costs_the_worker_nothing_and_its_failure_is_kept() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    client.declare(&worker_core::broker::Topology::queues(["fibonacci".parse().unwrap()])).await.unwrap();
    // Two callers that do not wait: their queues go with the script's connection.
    let script = format!(
        "{RPC_CLIENT}\ngone = RpcClient().callback_queue\nfor n in (10, 91):\n    channel.basic_publish('', 'fibonacci', \
         json.dumps({{'n': n}}), pika.BasicProperties(reply_to=gone, correlation_id='c', message_id=str(n)))"
    );
    python(&vhost, &script).await;
    let worker = Worker::builder(&client).registry(Registry::new().with::<fibonacci>());
    let running = Running::start(worker);
    let inspector = client.broker().inspector().unwrap();
    let dead = eventually("the failure is among the dead", async || {
        let page = inspector.dead(&Default::default(), worker_core::broker::Page::first(10)).await.unwrap();
        page.jobs.into_iter().next()
    })
    .await;
    assert_eq!((dead.id.to_string().as_str(), dead.failure.kind), ("91", FailureKind::Error));
    // It still works.
    assert_eq!(client.call(fibonacci::new(10)).timeout("20s").await.unwrap(), 55);
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_reply_goes_into_no_queue_that_was_not_allowed() {
    let vhost = shared_vhost();
    let (client, running) = fibonacci_worker(vhost.url()).await;
    let script = r#"
channel.queue_declare("secrets", durable=True)
channel.basic_publish('', 'fibonacci', json.dumps({"n": 10}), pika.BasicProperties(reply_to='secrets', correlation_id='c'))
"#;
    python(&vhost, script).await;
    eventually("the job has run", async || {
        let queue = shared_node().queue_info(vhost.name(), "fibonacci").await;
        (queue.ready + queue.unacked == 0).then_some(())
    })
    .await;
    running.stop().await;
    let secrets = shared_node().queue_info(vhost.name(), "secrets").await;
    assert_eq!(secrets.ready, 0, "it was run as a job that nobody waits for");
    client.close().await.unwrap();
}

/// Addresses that the server cannot make sense of: it ends the connection on which they are used.
#[tokio::test]
async fn an_address_that_no_server_has_written_costs_no_job_and_no_neighbour() {
    let vhost = shared_vhost();
    let (client, running) = fibonacci_worker(vhost.url()).await;
    // One that is refused by its look, and one that looks right: a process of a node that is not there.
    let script = r#"
import base64
got = []
channel.basic_consume('amq.rabbitmq.reply-to', lambda ch, m, p, body: got.append(json.loads(body)), auto_ack=True)
channel.queue_declare("mirror", durable=True)
channel.basic_publish('', 'mirror', b'', pika.BasicProperties(reply_to='amq.rabbitmq.reply-to'))
own = take("mirror")["properties"]["reply_to"]
process, key = own.removeprefix("amq.rabbitmq.reply-to.").split(".")
bytes_ = bytearray(base64.b64decode(process))
at = bytes_.index(b"@") + 1
bytes_[at:at + 3] = b"999"
elsewhere = "amq.rabbitmq.reply-to." + base64.b64encode(bytes(bytes_)).decode() + "." + key
garbage = "amq.rabbitmq.reply-to.g1h2." + key
for reply_to in ["amq.rabbitmq.reply-to.x.y", elsewhere, garbage]:
    for body in [b'[]', b'{"n": 91}', b'{"n": 3}']:
        channel.basic_publish('', 'fibonacci', body, pika.BasicProperties(reply_to=reply_to, correlation_id='c'))
"#;
    python(&vhost, script).await;
    // Its neighbours are answered, and each hostile job has its end.
    for n in 0..20 {
        client.call(fibonacci::new(n)).timeout("60s").await.unwrap();
    }
    eventually_within(Duration::from_secs(120), "the queue is empty", async || {
        let queues = shared_node().list_queues(vhost.name()).await;
        let jobs = queues.iter().filter(|queue| !queue.name.ends_with("_dlq"));
        (jobs.map(|queue| queue.ready + queue.unacked).sum::<u64>() == 0).then_some(())
    })
    .await;
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_connection_is_cut_is_lost_at_once_and_the_next_one_is_answered() {
    let vhost = shared_vhost();
    let (server, running) = fibonacci_worker(vhost.url()).await;
    let proxy = worker_tests::rabbit::Proxy::start(shared_node().amqp_port()).await;
    let url = vhost.url().replace(&format!(":{}", shared_node().amqp_port()), &format!(":{}", proxy.port()));
    let client = Client::connect(&url).await.unwrap();
    assert_eq!(client.call(fibonacci::new(9)).timeout("20s").await.unwrap(), 34);
    // Nobody works on this queue.
    let waiting = client.clone();
    let mut calls = JoinSet::new();
    calls.spawn(async move { waiting.call(Fib { n: 1 }).timeout("100s").await });
    eventually("the call waits in its queue", async || {
        let queues = shared_node().list_queues(vhost.name()).await;
        queues.iter().any(|queue| queue.name == "rpc_queue" && queue.ready == 1).then_some(())
    })
    .await;
    proxy.cut().await;
    let error = worker_tests::eventually::soon("the call ends", calls.join_next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    assert!(error.to_string().contains("it may have run"), "{error}");
    assert_eq!(client.call(fibonacci::new(9)).timeout("20s").await.unwrap(), 34);
    running.stop().await;
    drop(server);
}
