//! Erlang evaluated inside a node: for what the management API cannot do, or knows seconds later.

use std::process::Stdio;

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::Node;
use crate::eventually::PATIENCE;

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
            stdin.write_all(program.as_bytes()).await.expect("erl_call reads");
            drop(stdin);
            call.wait_with_output().await.expect("erl_call ends")
        })
        .await
        .unwrap_or_else(|_| panic!("the node did not answer to {expression}"));
        let answer = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&answer).unwrap_or_else(|_| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            panic!("{expression}\ngave {answer:?} {complaint} (nothing at all: it is not Erlang)")
        })
    }
}

/// `text` as an Erlang binary.
pub(super) fn binary(text: &str) -> String {
    format!("<<\"{}\"/utf8>>", text.replace('\\', "\\\\").replace('"', "\\\""))
}
