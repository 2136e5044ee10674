//! What one queue, one message or one neighbour's setting must not do to others.

use std::time::{Duration, Instant};

use serde_json::json;
use worker_core::{Enqueue, EnqueueErrorKind, FailureKind, Job};
use worker_tests::{eventually::eventually_within, rabbit::shared_node};

use super::{
    full::Parcel,
    scene::{LONG, QUEUE, Scene},
};
use crate::system::crew::Mark;

#[tokio::test]
async fn delayed_jobs_for_a_full_queue_hold_up_no_others() {
    let scene = Scene::new().await;
    let (crew, vhost) = (&scene.crew, scene.vhost.name());
    let full = json!({"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"});
    shared_node().declare_queue(vhost, Parcel::QUEUE, full).await;
    let _worker = scene.worker(&[]).await;
    let parcels = (0..300).map(|id| Enqueue::new(Parcel { id }).delay(Duration::from_millis(500)));
    for answer in crew.client.enqueue_all(parcels).await {
        answer.unwrap();
    }
    let began = Instant::now();
    let late = Enqueue::new(Mark { n: 1, millis: 0 }).delay(Duration::from_secs(2));
    crew.client.enqueue(late).await.unwrap();
    scene.wait_for(1, "end").await;
    assert!(began.elapsed() < Duration::from_secs(20), "after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_stop_gives_back_unmarked_what_its_full_queue_refuses() {
    let scene = Scene::new().await;
    let (crew, vhost) = (&scene.crew, scene.vhost.name());
    let full = json!({"x-queue-type": "quorum", "x-max-length": 12, "x-overflow": "reject-publish"});
    shared_node().declare_queue(vhost, QUEUE, full).await;
    let mut worker = scene.worker(&[("WORKER_CONCURRENCY", "1"), ("WORKER_PREFETCH", "8")]).await;
    crew.enqueue([Mark { n: 0, millis: 2_000 }]).await;
    scene.wait_for(1, "start").await;
    // More than it may hold is refused; a server that notices late may take one or two above.
    for n in 1..=12 {
        drop(crew.client.enqueue(Mark { n, millis: 0 }).await);
    }
    worker.signal("TERM");
    let asked = Instant::now();
    worker.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(9), "out after {:?}:\n{}", asked.elapsed(), worker.log());
    let second = scene.worker(&[]).await;
    scene.wait_until_done().await;
    assert_eq!(scene.dead().await, 0);
    assert!(!second.log().contains("came back from a worker that is gone"), "no suspects:\n{}", second.log());
    assert!((0..10).all(|n| crew.ended().contains(&n)), "{:?}", crew.ended());
}

#[tokio::test]
async fn a_message_that_asks_to_be_sent_to_other_queues_too_is_sent_once() {
    let scene = Scene::new().await;
    let (crew, vhost) = (&scene.crew, scene.vhost.name());
    let _worker = scene.worker(&[]).await;
    shared_node().declare_queue(vhost, "elsewhere", json!({})).await;
    // The producer's own copy goes to both; what becomes of it here, dead or retried, goes nowhere else.
    let properties = json!({"type": "mark", "headers": {"CC": ["elsewhere"]}});
    shared_node().publish(vhost, QUEUE, properties, "not a mark").await;
    eventually_within(LONG, "it is dead", || async { (scene.dead().await == 1).then_some(()) }).await;
    assert_eq!(scene.depth("elsewhere").await, 1, "the producer's copy alone");
    let refused = crew.client.enqueue(Enqueue::new(Mark { n: 1, millis: 0 }).header("CC", "elsewhere")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), EnqueueErrorKind::Invalid, "{refused}");
}

#[tokio::test]
async fn dead_letters_outlive_being_looked_at_in_a_queue_of_others_with_a_limit() {
    let scene = Scene::new().await;
    let (crew, vhost) = (&scene.crew, scene.vhost.name());
    let limited = json!({"x-queue-type": "quorum", "x-delivery-limit": 3});
    shared_node().declare_queue(vhost, "crew_dlq", limited).await;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    let worker = scene.worker(&[]).await;
    for n in 0..20 {
        shared_node().publish(vhost, QUEUE, json!({"type": "mark", "message_id": format!("dead-{n}")}), "{}").await;
    }
    eventually_within(LONG, "all are dead", || async { (scene.dead().await == 20).then_some(()) }).await;
    for _ in 0..10 {
        let dead = crew.dead().await;
        assert_eq!(dead.len(), 20, "none is lost by being looked at");
        assert!(dead.iter().all(|dead| dead.failure.kind == FailureKind::Undecodable), "{dead:?}");
    }
    drop(worker);
}
