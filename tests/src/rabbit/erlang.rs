//! Erlang evaluated inside a node: for what the management API cannot do, or knows seconds later.

use std::{io::ErrorKind, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    time::{sleep, timeout},
};

use super::Node;
use crate::eventually::PATIENCE;

/// How often a node is called that takes no call, as when many call at once, and the pause between.
const CALLS: usize = 20;
const CALL_PAUSE: Duration = Duration::from_millis(100);

impl Node {
    /// Evaluates `expression` inside the node, and gives its value, which must have a form in JSON.
    ///
    /// It takes about 20 ms; `rabbitmqctl eval` would take a second.
    ///
    /// # Panics
    ///
    /// When it fails in any way.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: it may or may not be evaluated. This holds for all methods that change the node.
    pub async fn eval(&self, expression: &str) -> Value {
        for _ in 0..CALLS {
            if let Some(value) = self.call(expression).await {
                return value;
            }
            sleep(CALL_PAUSE).await;
        }
        panic!("nobody got through to the node to ask for {expression}")
    }

    /// Evaluates once; `None` where nothing was evaluated, because the node took no call.
    async fn call(&self, expression: &str) -> Option<Value> {
        let program = format!(
            "try begin {expression} end of V -> io:put_chars(rabbit_json:encode(V)) \
             catch C:R -> io:format(\"~0p\", [{{C, R}}]) end.\n"
        );
        let mut call: Command = self.program("/usr/bin/erl_call").into();
        call.args(["-n", self.name(), "-fetch_stdout", "-no_result_term", "-e"]);
        call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut call = call.spawn().expect("erl_call can be started");
        let output = timeout(PATIENCE, async {
            let mut stdin = call.stdin.take().expect("it is piped");
            match stdin.write_all(program.as_bytes()).await {
                // It ended without reading, and says why.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                written => written.expect("erl_call reads"),
            }
            drop(stdin);
            call.wait_with_output().await.expect("erl_call ends")
        })
        .await
        .unwrap_or_else(|_| panic!("the node did not answer to {expression}"));
        let answer = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        if complaint.contains("failed to connect") {
            return None;
        }
        let value = serde_json::from_str(&answer)
            .unwrap_or_else(|_| panic!("{expression}\ngave {answer:?} {complaint} (nothing at all: it is not Erlang)"));
        Some(value)
    }
}

/// `text` as an Erlang binary.
pub(super) fn binary(text: &str) -> String {
    format!("<<\"{}\"/utf8>>", text.replace('\\', "\\\\").replace('"', "\\\""))
}
