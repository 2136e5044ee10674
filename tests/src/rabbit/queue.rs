//! Queues, looked at and made from outside.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Node, api::escape, erlang::binary};

/// What a queue holds at this moment.
///
/// The management API would say what it was up to 5 s ago, so the queue itself is asked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// `quorum`, `classic` or `stream`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it was declared with.
    pub arguments: Map<String, Value>,
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Messages that are delivered and not settled.
    pub unacked: u64,
    /// Messages that have left the queue as dead and have not arrived; quorum queues with `at-least-once` only.
    pub dead_lettering: u64,
    /// Those who consume it.
    pub consumers: u64,
    /// The node that serves it: its leader's, of a quorum queue.
    pub leader: String,
}

/// What a queue has, as `{ready, unacked, dead_lettering}`.
///
/// The query runs on the queue's state machine; `rabbit_amqqueue:info` would
/// give numbers of the last tick. It is asked again where it fails, because
/// after a restart it meets the state of an older version for a moment.
const COUNTS: &str = "
    Query = fun(State) ->
        {Dead, _} = rabbit_fifo:query_stat_dlx(State),
        {rabbit_fifo:query_messages_ready(State), rabbit_fifo:query_messages_checked_out(State), Dead}
    end,
    Ask = fun Again(Pid, Times) -> case ra:local_query(Pid, Query) of
        {ok, {_, Found}, _} -> Found;
        _ when Times > 0 -> timer:sleep(50), Again(Pid, Times - 1)
    end end,
    Counts = fun(Q) -> case amqqueue:get_type(Q) of
        rabbit_quorum_queue -> Ask(amqqueue:get_pid(Q), 200);
        _ ->
            [{_, Ready}, {_, Unacked}] = rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged]),
            {Ready, Unacked, 0}
    end end,";

/// A queue as JSON.
const INFO: &str = "
    Info = fun(Q) ->
        {Ready, Unacked, Dead} = Counts(Q),
        {ok, _, Consumers} = rabbit_amqqueue:stat(Q),
        #{name => element(4, amqqueue:get_name(Q)),
          type => case amqqueue:get_type(Q) of
              rabbit_quorum_queue -> quorum; rabbit_classic_queue -> classic; rabbit_stream_queue -> stream end,
          arguments => maps:from_list([{Key, Value} || {Key, _, Value} <- amqqueue:get_arguments(Q)]),
          leader => case amqqueue:get_pid(Q) of {_, Leader} -> Leader; Pid -> node(Pid) end,
          ready => Ready, unacked => Unacked, dead_lettering => Dead, consumers => Consumers}
    end,";

impl Node {
    /// Declares a durable queue with any arguments, a JSON object.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn declare_queue(&self, vhost: &str, name: &str, arguments: Value) {
        let body = json!({"durable": true, "arguments": arguments});
        self.api().ask("PUT", &path(vhost, name), Some(&body)).await;
    }

    /// Sets by a policy what queues whose name matches `pattern` do, beside what they were declared with.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn set_policy(&self, vhost: &str, pattern: &str, definition: Value) {
        let body = json!({"pattern": pattern, "definition": definition, "apply-to": "queues"});
        self.api().ask("PUT", &format!("policies/{}/tests", escape(vhost)), Some(&body)).await;
    }

    /// Makes the quorum queues that were just declared survive [`kill`](Self::kill).
    ///
    /// RabbitMQ keeps the list of them (Ra's directory, a `dets` table) in
    /// memory for up to 3 s. A queue that is not in the file when the node is
    /// killed comes back empty, confirmed messages or not; in 3.10 it has no
    /// leader either, and never serves again. Whoever kills a node so soon
    /// tests that, not what became of the messages.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn keep_new_queues(&self) {
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()], ok").await;
    }

    /// Deletes a queue with all that is in it, while others use it.
    ///
    /// # Panics
    ///
    /// When there is none.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn delete_queue(&self, vhost: &str, name: &str) {
        self.api().ask("DELETE", &path(vhost, name), None).await;
    }

    /// A queue in numbers.
    ///
    /// # Panics
    ///
    /// When there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn queue_info(&self, vhost: &str, name: &str) -> QueueInfo {
        let found = self.list_queues(vhost).await.into_iter().find(|queue| queue.name == name);
        found.unwrap_or_else(|| panic!("there is no queue {name} in {vhost}"))
    }

    /// All queues of a virtual host in numbers, by name.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list_queues(&self, vhost: &str) -> Vec<QueueInfo> {
        let vhost = binary(vhost);
        let list = self.eval(&format!("{COUNTS} {INFO} [Info(Q) || Q <- rabbit_amqqueue:list({vhost})]")).await;
        let mut queues: Vec<QueueInfo> = serde_json::from_value(list).expect("queues have this form");
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }
}

pub(super) fn path(vhost: &str, queue: &str) -> String {
    format!("queues/{}/{}", escape(vhost), escape(queue))
}
