//! The programs on the pages about the wire format and about calls, run as they stand there.

use std::{path::Path, process::Stdio};

use tokio::process::{Child, Command};
use worker_core::{
    Client, FailureKind, JobId, Registry, Worker,
    broker::{Page, Selection, Topology},
    prelude::*,
};
use worker_tests::{
    eventually::{eventually, soon},
    python::python,
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::orders::{ShipOrder, Shop};
use crate::bench::Running;

/// The page's program under this heading, as a command with the URL of `vhost`.
fn program(page: &str, heading: &str, vhost: &Vhost) -> Command {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides").join(page);
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let program = section.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let mut python = Command::from(python());
    python.args(["-c", program, vhost.url()]).stdin(Stdio::null()).kill_on_drop(true);
    python
}

fn start(heading: &str, vhost: &Vhost) -> Child {
    program("wire-format.md", heading, vhost).spawn().unwrap()
}

#[job(queue = "calculator")]
async fn divide(a: f64, b: f64) -> JobResult<f64> {
    Ok(a / b)
}

#[tokio::test]
async fn the_caller_of_the_page_gets_its_reply() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    client.declare(&Topology::queues(["calculator".parse().unwrap()])).await.unwrap();
    let running = Running::start(Worker::builder(&client).registry(Registry::new().with::<divide>()));
    let mut caller = program("calls.md", "Neighbours on RabbitMQ", &vhost);
    let said = soon("the caller ended", caller.output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "(0.5, None)", "{said:?}");
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test]
async fn the_producer_of_the_page_enqueues_a_job() {
    let vhost = shared_vhost();
    let mut shop = Shop::open(&vhost).await;
    eventually("the queue was declared", async || {
        shared_node().list_queues(vhost.name()).await.iter().any(|queue| queue.name == "orders").then_some(())
    })
    .await;
    let mut producer = start("A producer in Python", &vhost);
    assert!(soon("the producer ended", producer.wait()).await.unwrap().success());
    let seen = shop.sees().await;
    assert_eq!((seen.order, seen.id.len()), (ShipOrder { order_id: 1_001 }, 36));
    assert!(seen.traceparent.unwrap().starts_with("00-"));
    shop.close().await;
}

#[tokio::test]
async fn the_worker_of_the_page_does_fails_and_buries_jobs_of_ours() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    client.broker().declare(&Topology::queues(["orders".parse().unwrap()])).await.unwrap();
    for (order_id, id) in [(1, "fine"), (-1, "fails")] {
        let job = worker_core::Enqueue::new(ShipOrder { order_id }).id(id.parse::<JobId>().unwrap());
        client.enqueue(job.header("tenant", "acme")).await.unwrap();
    }
    let _worker = start("A worker in Python", &vhost);
    let inspector = client.broker().inspector().unwrap();
    let dead = eventually("the job was dead-lettered", async || {
        let page = inspector.dead(&Selection::default(), Page::first(10)).await.unwrap();
        page.jobs.into_iter().next()
    })
    .await;
    assert_eq!((dead.id.to_string(), dead.attempts, dead.failure.kind), ("fails".into(), 2, FailureKind::Error));
    assert_eq!(dead.failure.message, "order -1 does not exist");
    assert_eq!((dead.headers.get("tenant"), dead.queue.as_str()), (Some(&"acme".into()), "orders"));
    let orders = shared_node().queue_info(vhost.name(), "orders").await;
    assert_eq!(orders.ready, 0, "the other one is done");
    client.close().await.unwrap();
}
