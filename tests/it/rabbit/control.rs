//! What the harness does to a node is what a client of another make meets.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use worker_tests::{
    eventually::{eventually, soon},
    python::python,
    rabbit::{Alarm, ConsumerInfo, Node},
};

/// Consumes `q` with a prefetch of 7 and settles nothing; says what happens to it.
///
/// It publishes all the time, to nobody: only a connection that does is told that it is blocked.
const CONSUMER: &str = r#"
import pika, sys
say = lambda *words: print(*words, flush=True)
try:
    connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
    connection.add_on_connection_blocked_callback(lambda *_: say("blocked"))
    connection.add_on_connection_unblocked_callback(lambda *_: say("unblocked"))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=7)
    channel.basic_consume("q", lambda *_: say("delivered"), consumer_tag="the-tag")
    def publish():
        # What has closed it `start_consuming` tells.
        if channel.is_open:
            channel.basic_publish("", "nobody", b"")
        connection.call_later(0.02, publish)
    publish()
    channel.start_consuming()
    say("cancelled")
except pika.exceptions.ProbableAuthenticationError:
    say("password")
except pika.exceptions.ProbableAccessDeniedError:
    say("permissions")
except (pika.exceptions.ConnectionClosed, pika.exceptions.ChannelClosed) as closed:
    say("closed", closed.reply_code)
"#;

struct Consumer {
    says: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Consumer {
    fn start(url: &str) -> Self {
        let mut python = Command::from(python());
        python.args(["-c", CONSUMER, url]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = python.spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { says, _process: process }
    }

    /// What it says next.
    async fn says(&mut self) -> String {
        let said = soon("the client said something", self.says.next_line()).await.unwrap();
        said.unwrap()
    }
}

#[tokio::test]
async fn a_client_meets_what_the_harness_does() {
    let node = Node::start().await;
    let vhost = node.fresh_vhost().await;
    node.declare_queue(vhost.name(), "q", json!({"x-queue-type": "quorum"})).await;
    node.publish(vhost.name(), "q", json!({}), "1").await;

    let mut client = Consumer::start(vhost.url());
    assert_eq!(client.says().await, "delivered");
    let queue = node.queue_info(vhost.name(), "q").await;
    assert_eq!((queue.ready, queue.unacked, queue.consumers), (0, 1, 1));
    let expected = ConsumerInfo { queue: "q".into(), tag: "the-tag".into(), prefetch: 7, active: true };
    assert_eq!(node.list_consumers(vhost.name()).await, [expected]);

    for alarm in [Alarm::Memory, Alarm::Disk] {
        node.set_alarm(alarm).await;
        assert_eq!(client.says().await, "blocked");
        node.clear_alarm(alarm).await;
        assert_eq!(client.says().await, "unblocked");
    }

    assert_eq!(node.close_connections_of("/").await, 0);
    assert_eq!(node.close_all_connections().await, 1);
    assert_eq!(client.says().await, "closed 320");
    eventually("its delivery came back", async || (node.queue_info(vhost.name(), "q").await.ready == 1).then_some(()))
        .await;

    let mut client = Consumer::start(vhost.url());
    assert_eq!(client.says().await, "delivered");
    node.delete_queue(vhost.name(), "q").await;
    assert_eq!(client.says().await, "cancelled");

    node.change_password("guest", "other").await;
    assert_eq!(Consumer::start(vhost.url()).says().await, "password");
    node.change_password("guest", "guest").await;
    node.clear_permissions("guest", vhost.name()).await;
    assert_eq!(Consumer::start(vhost.url()).says().await, "permissions");
}

#[tokio::test]
async fn a_consumer_that_settles_too_late_is_not_waited_for() {
    let node = Node::start().await;
    node.set_consumer_timeout(Duration::from_secs(1)).await;
    node.declare_queue("/", "q", json!({"x-queue-type": "quorum"})).await;
    node.publish("/", "q", json!({}), "1").await;
    let mut client = Consumer::start(&node.amqp_url());
    assert_eq!(client.says().await, "delivered");
    // Before 4.3 the whole channel is closed, since then the consumer alone is cancelled.
    let end = if node.version().await >= (4, 3) { "cancelled" } else { "closed 406" };
    assert_eq!(client.says().await, end);
}
