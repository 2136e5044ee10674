//! Several nodes that are one server.

use std::process::Stdio;

use futures_util::future::join_all;
use tokio::process::Command;

use super::Node;
use crate::eventually::soon;

impl Node {
    /// Starts `count` nodes that know each other; a queue of one is on all.
    ///
    /// # Panics
    ///
    /// When one does not start or does not join.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what has started is killed.
    pub async fn start_cluster(count: usize) -> Vec<Self> {
        let nodes = join_all((0..count).map(|_| Self::start())).await;
        // One after the other: who joins asks those that are there.
        for node in &nodes[1..] {
            node.control(&["stop_app"]).await;
            node.control(&["join_cluster", nodes[0].name()]).await;
            node.control(&["start_app"]).await;
        }
        nodes
    }

    /// `rabbitmqctl`, for what nothing else can do; it takes a second.
    async fn control(&self, args: &[&str]) {
        let mut control: Command = self.program("/usr/lib/rabbitmq/bin/rabbitmqctl").into();
        control.args(["-n", self.name()]).args(args).stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("rabbitmqctl ended", control.output()).await.expect("rabbitmqctl can be started");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {args:?}: {told}\n{}", self.log());
    }
}
