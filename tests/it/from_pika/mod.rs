//! The tutorial of Pika: each of its programs on the same queues as its counterpart here, in both directions.
//!
//! The programs in Python are in `tests/python/tutorial`. What stands here above the tests of a file is what the
//! page `docs/guides/from-pika.md` shows; `page` compares both.

mod asynchronous;
mod basic;
mod configuration;
mod confirms;
mod exchanges;
mod health;
mod page;
mod pool;
mod priorities;
mod robust;
mod rpc;

use std::{
    io,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use tokio::process::Command;
use worker_core::{Client, Registry, Worker, WorkerBuilder};
use worker_tests::{
    eventually::{eventually, soon},
    python::python,
    rabbit::{QueueInfo, Vhost, shared_node},
};

use crate::bench::Running;

/// A program of the tutorial; its first argument is the URL of a virtual host as a rule.
fn tutorial(program: &str, args: &[&str]) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/tutorial").join(program);
    let mut python = Command::from(python());
    python.arg(file).args(args).stdin(Stdio::null()).kill_on_drop(true);
    python
}

/// Runs a program of the tutorial to its good end, and gives the lines that it printed.
async fn run(program: &str, args: &[&str]) -> Vec<String> {
    finish(tutorial(program, args)).await
}

/// Waits for the good end of a program, and gives the lines that it printed.
async fn finish(mut program: Command) -> Vec<String> {
    let output = soon("the program in Python ended", program.output()).await.unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}\n{said}{complaint}");
    said.lines().map(str::to_owned).collect()
}

/// The numbers in these lines, in their order.
fn numbers(lines: &[String]) -> Vec<i64> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

/// A queue in numbers, once it holds nothing and nobody holds anything of it.
async fn empty(vhost: &Vhost, queue: &str) -> QueueInfo {
    eventually(format!("`{queue}` became empty"), async || {
        let found = shared_node().queue_info(vhost.name(), queue).await;
        (found.ready + found.unacked == 0).then_some(found)
    })
    .await
}

/// What the shop of the tutorial sends, one below zero excepted; state of the jobs.
#[derive(Default)]
struct Parcels {
    tried: Mutex<Vec<i64>>,
}

impl Parcels {
    async fn send(&self, order_id: i64) -> io::Result<()> {
        self.tried.lock().unwrap().push(order_id);
        if order_id < 0 {
            return Err(io::Error::other(format!("order {order_id} does not exist")));
        }
        Ok(())
    }
}

/// A worker on the queues of a virtual host, and what it tried to send.
struct Shop {
    client: Client,
    parcels: Arc<Parcels>,
    running: Running,
}

impl Shop {
    async fn open(vhost: &Vhost, registry: Registry) -> Self {
        Self::open_as(vhost, registry, |worker| worker).await
    }

    /// The same with settings of its own.
    async fn open_as(vhost: &Vhost, registry: Registry, set: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        let client = Client::connect(vhost.url()).await.unwrap();
        let parcels = Arc::new(Parcels::default());
        let worker = Worker::builder(&client).registry(registry).state_arc(Arc::clone(&parcels));
        Self { running: Running::start(set(worker)), client, parcels }
    }

    /// What it has tried to send in the end, in its order.
    async fn tried(&self, count: usize) -> Vec<i64> {
        eventually(format!("{count} parcels were sent"), async || {
            let tried = self.parcels.tried.lock().unwrap();
            (tried.len() >= count).then(|| tried.clone())
        })
        .await
    }

    /// The same, sorted.
    async fn tried_sorted(&self, count: usize) -> Vec<i64> {
        let mut tried = self.tried(count).await;
        tried.sort_unstable();
        tried
    }

    async fn close(self) {
        self.running.stop().await;
        self.client.close().await.unwrap();
    }
}
