//! What an administrator makes: exchanges, and whole sets of definitions.

use std::process::Stdio;

use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{Node, api::escape};

impl Node {
    /// Declares a durable exchange.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn declare_exchange(&self, vhost: &str, name: &str, kind: &str) {
        let body = json!({"type": kind, "durable": true});
        self.api().ask("PUT", &format!("exchanges/{}/{}", escape(vhost), escape(name)), Some(&body)).await;
    }

    /// Imports definitions as RabbitMQ's own tool does, from its standard input.
    ///
    /// # Panics
    ///
    /// When it refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn import_definitions(&self, json: &str) {
        let mut tool: Command = self.program("/usr/lib/rabbitmq/bin/rabbitmqctl").into();
        tool.args(["--node", self.name(), "import_definitions"]);
        tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut tool = tool.spawn().expect("rabbitmqctl can be started");
        let mut stdin = tool.stdin.take().expect("it is piped");
        stdin.write_all(json.as_bytes()).await.expect("rabbitmqctl reads");
        drop(stdin);
        let output = tool.wait_with_output().await.expect("rabbitmqctl ends");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "rabbitmqctl: {}", String::from_utf8_lossy(&said));
    }
}
