//! A task of Celery's that has come into a queue of ours.

use serde_json::json;
use worker_core::{
    FailureKind, Registry,
    broker::{Page, Selection},
    prelude::*,
};
use worker_tests::{
    eventually::eventually,
    rabbit::{shared_node, shared_vhost},
};

use crate::bench::Running;

#[job(queue = "celery")]
async fn add(x: i64, y: i64) -> JobResult<i64> {
    Ok(x + y)
}

#[tokio::test]
async fn a_task_of_celerys_is_a_dead_letter_with_the_reason_and_the_next_job_is_run() {
    let (node, vhost) = (shared_node(), shared_vhost());
    node.declare_queue(vhost.name(), "celery", json!({})).await;
    // As its protocol 2 has it: the name in a header, and where a result would go.
    let (id, reply_to) = ("2d7c1fd9-3a4f-4d27-b9b0-6c7e0a1b2c3d", "6f0a5e0e-0d1c-3a52-8f5b-1f2e3d4c5b6a");
    let properties = json!({
        "correlation_id": id, "reply_to": reply_to, "content_type": "application/json", "content_encoding": "utf-8",
        "delivery_mode": 2, "priority": 0,
        "headers": {"lang": "py", "task": "tasks.add", "id": id, "root_id": id, "retries": 0, "argsrepr": "(1, 2)"},
    });
    let body = json!([[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]);
    node.publish(vhost.name(), "celery", properties, &body.to_string()).await;

    let client = Client::connect(vhost.url()).await.unwrap();
    let running = Running::start(Worker::builder(&client).registry(Registry::new().with::<add>()));
    eventually("the task is a dead letter", async || {
        let queues = node.list_queues(vhost.name()).await;
        queues.iter().any(|queue| queue.name == "celery_dlq" && queue.ready == 1).then_some(())
    })
    .await;
    let inspector = client.broker().inspector().unwrap();
    let dead = inspector.dead(&Selection::default(), Page::first(10)).await.unwrap().jobs.remove(0);
    assert_eq!((dead.queue.as_str(), dead.failure.kind), ("celery", FailureKind::Undecodable));
    assert_eq!(dead.headers.get("task"), Some(&"tasks.add".into()));
    assert_eq!(client.call(add::new(1, 2)).timeout("20s").await.unwrap(), 3);
    running.stop().await;
    client.close().await.unwrap();
}
