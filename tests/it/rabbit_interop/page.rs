//! The programs on the page about the wire format, run as they stand there.

use std::{path::Path, process::Stdio};

use tokio::process::{Child, Command};
use worker_core::{
    Client, FailureKind, JobId,
    broker::{Page, Selection, Topology},
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::orders::{ShipOrder, Shop};

/// The page's program under this heading, started with the URL of `vhost`.
fn start(heading: &str, vhost: &Vhost) -> Child {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/wire-format.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let program = section.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program, vhost.url()]).stdin(Stdio::null()).kill_on_drop(true);
    python.spawn().unwrap()
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
