//! Who is connected to a node, and who consumes.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Node, erlang::binary};

/// Someone who consumes a queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConsumerInfo {
    /// What it consumes.
    pub queue: String,
    /// Its name among its channel's consumers.
    pub tag: String,
    /// How many deliveries it may own.
    pub prefetch: u32,
    /// Whether it is given deliveries.
    pub active: bool,
}

impl Node {
    /// Closes every connection, as an operator can, and says how many there were.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn close_all_connections(&self) -> u64 {
        self.close_connections("true").await
    }

    /// Closes every connection to a virtual host, and says how many there were.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn close_connections_of(&self, vhost: &str) -> u64 {
        self.close_connections(&format!("(catch rabbit_reader:info(C, [vhost])) =:= [{{vhost, {}}}]", binary(vhost)))
            .await
    }

    async fn close_connections(&self, which: &str) -> u64 {
        let closed = self
            .eval(&format!(
                // One may have gone by itself since they were listed.
                "length([catch rabbit_networking:close_connection(C, <<\"closed by a test\">>)
                    || C <- rabbit_networking:connections(), {which}])"
            ))
            .await;
        closed.as_u64().expect("it is a length")
    }

    /// How many channels are open on a virtual host.
    ///
    /// # Panics
    ///
    /// When they cannot be counted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn count_channels(&self, vhost: &str) -> u64 {
        let code = format!(
            "length([C || C <- rabbit_channel:info_all([vhost]), lists:member({{vhost, {}}}, C)])",
            binary(vhost)
        );
        self.eval(&code).await.as_u64().expect("it is a length")
    }

    /// Takes deliveries from consumers that hold them for longer than this, unless they say otherwise.
    ///
    /// # Panics
    ///
    /// When the node does not obey.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn limit_consumers(&self, held: Duration) {
        let set = format!("begin application:set_env(rabbit, consumer_timeout, {}), true end", held.as_millis());
        assert_eq!(self.eval(&set).await, Value::Bool(true));
    }

    /// All consumers of a virtual host at this moment; without those who have only asked for one message, whom a
    /// quorum queue counts too while they have it.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list_consumers(&self, vhost: &str) -> Vec<ConsumerInfo> {
        let list = self
            .eval(&format!(
                "[#{{queue => element(4, proplists:get_value(queue_name, C)),
                     tag => proplists:get_value(consumer_tag, C),
                     prefetch => proplists:get_value(prefetch_count, C),
                     active => proplists:get_value(active, C)}} || C <- rabbit_amqqueue:consumers_all({}),
                     is_integer(proplists:get_value(prefetch_count, C))]",
                binary(vhost)
            ))
            .await;
        serde_json::from_value(list).expect("consumers have this form")
    }
}
