//! Messages of programs that do not know the framework.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Node, api::escape, queue};

/// A message taken from a queue.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Message {
    /// Its body.
    pub payload: String,
    /// Its properties, `headers` among them.
    pub properties: Value,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: String,
    /// As what it was published.
    pub routing_key: String,
    /// How many were behind it.
    pub message_count: u64,
}

impl Node {
    /// Publishes a message to a queue with any properties, a JSON object.
    ///
    /// # Panics
    ///
    /// When the queue does not take it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn publish(&self, vhost: &str, queue: &str, properties: Value, payload: &str) {
        self.publish_to(vhost, "amq.default", queue, properties, payload).await;
    }

    /// The same to an exchange.
    ///
    /// # Panics
    ///
    /// When no queue takes it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn publish_to(&self, vhost: &str, exchange: &str, key: &str, properties: Value, payload: &str) {
        let body = json!({
            "properties": properties, "routing_key": key, "payload": payload, "payload_encoding": "string",
        });
        let path = format!("exchanges/{}/{}/publish", escape(vhost), escape(exchange));
        let answer = self.api().ask("POST", &path, Some(&body)).await;
        assert_eq!(answer["routed"], true, "no queue takes {key} of {exchange} in {vhost}");
    }

    /// Takes up to `count` messages from a queue; a body that is not UTF-8 is given in base64.
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn get(&self, vhost: &str, queue: &str, count: u32) -> Vec<Message> {
        let body = json!({"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"});
        let answer = self.api().ask("POST", &format!("{}/get", queue::path(vhost, queue)), Some(&body)).await;
        serde_json::from_value(answer).expect("messages have this form")
    }
}
