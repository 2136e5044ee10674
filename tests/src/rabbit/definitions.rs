//! What an administrator makes: exchanges, and whole sets of definitions.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

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

    /// Declares a durable exchange to which no client may publish.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn declare_internal_exchange(&self, vhost: &str, name: &str) {
        let body = json!({"type": "fanout", "durable": true, "internal": true});
        self.api().ask("PUT", &format!("exchanges/{}/{}", escape(vhost), escape(name)), Some(&body)).await;
    }

    /// Imports definitions as RabbitMQ's own tool does.
    ///
    /// # Panics
    ///
    /// When it refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn import_definitions(&self, json: &str) {
        // From its standard input the tool of 4.3 cannot read where that is no terminal.
        let file = self.file("definitions.json", json);
        let mut tool: Command = self.program("/usr/lib/rabbitmq/bin/rabbitmqctl").into();
        tool.args(["--node", self.name(), "import_definitions"]).arg(file).stdin(Stdio::null()).kill_on_drop(true);
        let output = tool.output().await.expect("rabbitmqctl can be started");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "rabbitmqctl: {}", String::from_utf8_lossy(&said));
    }
}
