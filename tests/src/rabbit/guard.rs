//! A small shell process that starts a node, signals it, and outlives the test process by a moment.
//!
//! It reads orders from a pipe. The pipe's other end is in the test process
//! alone, so it is at its end when that process is, even by SIGKILL: then the
//! guard kills the node and removes its folder.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Answers every order with the node's process id, or an empty line when there is no node.
///
/// `wait` after a KILL, so that its ports are free when the order is answered.
const SCRIPT: &str = r#"
folder=$1
shift
while read -r order; do
    case $order in
        START) "$@" </dev/null >>"$folder/log/output" 2>&1 & node=$! ;;
        KILL) [ -z "$node" ] || { kill -KILL "$node"; wait "$node"; node=; } ;;
        *) kill "-$order" "$node" ;;
    esac
    echo "$node"
done
[ -z "$node" ] || { kill -KILL "$node"; wait "$node"; }
rm -rf -- "$folder"
"#;

/// What a guard is told to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Start,
    Kill,
    Freeze,
    Thaw,
    Stop,
}

/// The guard of one node.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    /// `None` only while it is dropped.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Guard {
    /// A guard that will start `node`, which works in `folder`.
    ///
    /// `node` must become the server's process without forking, so that signals reach it.
    pub(super) fn new(folder: &Path, node: &Command) -> Self {
        let mut guard = Command::new("sh");
        guard.args(["-c", SCRIPT, "guard"]).arg(folder).arg(node.get_program()).args(node.get_args());
        // A group of its own: Ctrl-C is for the tests, and the guard learns of it by their end.
        guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = guard.spawn().expect("there is a shell");
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, orders, answers }
    }

    /// Gives an order, waits until it is done (milliseconds), and says which process the node is now.
    pub(super) fn order(&mut self, order: Order) -> Option<u32> {
        let word = match order {
            Order::Start => "START",
            Order::Kill => "KILL",
            Order::Freeze => "STOP",
            Order::Thaw => "CONT",
            Order::Stop => "TERM",
        };
        writeln!(self.orders.as_mut().expect("it is dropped last"), "{word}").expect("the guard reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the guard answers");
        assert!(answer.ends_with('\n'), "the guard has ended before the tests");
        answer.trim().parse().ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Nothing can be done about a guard that was killed.
        drop(self.process.wait());
    }
}
