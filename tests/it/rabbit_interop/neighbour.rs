//! A neighbour in another language: a few lines of Python, run to their end.

use serde_json::Value;
use tokio::process::Command;
use worker_tests::{eventually::soon, rabbit::Vhost};

/// What every script has: a connection, a channel, and a way to look at a message.
const PRELUDE: &str = r#"
import datetime, json, sys, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()

def say(value):
    print(json.dumps(value, default=str), flush=True)

def tutorial():
    "The queues of the tutorial: what is rejected in `orders` goes to `orders_dlq` for a day."
    channel.exchange_declare("orders_dlx", exchange_type="direct", durable=True)
    channel.queue_declare("orders_dlq", durable=True, arguments={"x-message-ttl": 86400000})
    channel.queue_bind("orders_dlq", "orders_dlx", routing_key="orders_dlq")
    channel.queue_declare("orders", durable=True, arguments={
        "x-dead-letter-exchange": "orders_dlx", "x-dead-letter-routing-key": "orders_dlq"})

def publish(body, **properties):
    body = body if isinstance(body, bytes) else json.dumps(body)
    channel.basic_publish("", "orders", body, pika.BasicProperties(**properties), mandatory=True)

def take(queue):
    "Consumes one message, and says what it is."
    method, properties, body = next(channel.consume(queue, inactivity_timeout=20))
    assert method is not None, "nothing came from " + queue
    channel.basic_ack(method.delivery_tag)
    channel.cancel()
    found = {name: value for name, value in vars(properties).items() if value is not None}
    headers = found.pop("headers", None) or {}
    found["headers"] = {name: [type(value).__name__, value] for name, value in headers.items()}
    age = None
    if "x-retry-timestamp" in headers:
        # RFC 3339, as the standard library reads it.
        date = datetime.datetime.fromisoformat(headers["x-retry-timestamp"].replace("Z", "+00:00"))
        age = (datetime.datetime.now(datetime.timezone.utc) - date).total_seconds()
    return {"properties": found, "body": body.decode(), "age": age}
"#;

/// Runs `script` behind the prelude, on the queues of `vhost`; gives what it said last.
pub(super) async fn python(vhost: &Vhost, script: &str) -> Value {
    let mut python = Command::from(worker_tests::python::python());
    python.args(["-c", &format!("{PRELUDE}\n{script}\nconnection.close()"), vhost.url()]).kill_on_drop(true);
    let output = soon("the neighbour ended", python.output()).await.unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{said}{complaint}");
    said.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
}

/// The header `name` of a message that was taken: its type in Python, and its value.
pub(super) fn header(message: &Value, name: &str) -> (String, Value) {
    let found = &message["properties"]["headers"][name];
    assert!(found.is_array(), "no header `{name}` in {message:#}");
    (found[0].as_str().unwrap().to_owned(), found[1].clone())
}

/// The text of a header.
pub(super) fn text(message: &Value, name: &str) -> String {
    let (kind, value) = header(message, name);
    assert_eq!(kind, "str", "`{name}` of {message:#}");
    value.as_str().unwrap().to_owned()
}
