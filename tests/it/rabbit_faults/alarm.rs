//! A node that takes no messages, because it is short of memory.

use std::time::{Duration, Instant};

use worker_core::EnqueueErrorKind;
use worker_tests::rabbit::Alarm;

use super::scene::{Scene, again, client, victim};
use crate::system::crew::{Crew, Mark};

#[tokio::test]
async fn during_an_alarm_enqueues_fail_by_its_name_and_what_runs_is_acknowledged() {
    let victim = victim().await;
    let patience = Duration::from_secs(2);
    let scene =
        Scene::through(victim.node, victim.node.amqp_port(), |options| options.confirm_timeout = patience).await;
    let crew = &scene.crew;
    let mut worker = scene.worker(&[("WORKER_SHUTDOWN_GRACE", "2s")]).await;
    crew.enqueue((0..10).map(|n| Mark { n, millis: 1_000 })).await;
    scene.wait_for(10, "start").await;
    victim.node.set_alarm(Alarm::Memory).await;

    // The first is written before the node says that it takes nothing, the second is not.
    let mut left = Vec::new();
    for (n, kind) in [(20, EnqueueErrorKind::Indeterminate), (21, EnqueueErrorKind::Unavailable)] {
        let asked = Instant::now();
        let error = crew.client.enqueue(Mark { n, millis: 0 }).await.unwrap_err();
        assert!(asked.elapsed() < patience + Duration::from_secs(1), "after {:?}", asked.elapsed());
        let text = error.to_string();
        assert!(text.contains("takes no messages") && text.contains("memory"), "{text}");
        assert_eq!(error.kind(), kind, "{text}");
        left.push(error);
    }
    // Who comes anew hears the same, whatever it does first.
    let other = client(victim.node.amqp_port(), scene.vhost.name(), |options| options.confirm_timeout = patience).await;
    let asked = Instant::now();
    let error = other.enqueue(Mark { n: 22, millis: 0 }).await.unwrap_err();
    assert!(asked.elapsed() < patience + Duration::from_secs(1), "after {:?}: {error}", asked.elapsed());
    assert!(error.to_string().contains("memory"), "{error}");

    // Acknowledged meanwhile: nothing but what was enqueued last is left.
    scene.wait_for(10, "end").await;
    worker_tests::eventually::eventually_within(super::scene::LONG, "what ran was acknowledged", || async {
        (scene.depth(super::scene::QUEUE).await == 0).then_some(())
    })
    .await;
    worker.signal("TERM");
    let asked = Instant::now();
    assert_eq!(worker.ended().await.code(), Some(0), "{}", worker.log());
    assert!(asked.elapsed() < Duration::from_secs(7), "out after {:?}:\n{}", asked.elapsed(), worker.log());

    victim.node.clear_alarm(Alarm::Memory).await;
    for error in left {
        crew.client.enqueue(again(error)).await.unwrap();
    }
    let _worker = scene.worker(&[]).await;
    scene.wait_until_done().await;
    assert!([20, 21].iter().all(|n| crew.ended().contains(n)), "nothing is lost after it");
}

#[tokio::test]
async fn a_worker_that_is_stopped_during_an_alarm_is_out_in_time_and_loses_nothing() {
    let victim = victim().await;
    let scene = Scene::on(victim.node).await;
    let crew: &Crew = &scene.crew;
    let settings = [("WORKER_SHUTDOWN_GRACE", "3s"), ("WORKER_CONCURRENCY", "5"), ("WORKER_PREFETCH", "40")];
    let mut worker = scene.worker(&settings).await;
    crew.enqueue((0..60).map(|n| Mark { n, millis: 1_000 })).await;
    scene.wait_for(5, "start").await;
    victim.node.set_alarm(Alarm::Memory).await;
    worker.signal("TERM");
    let asked = Instant::now();
    let status = worker.ended().await;
    let elapsed = asked.elapsed();
    victim.node.clear_alarm(Alarm::Memory).await;
    assert!(elapsed < Duration::from_millis(8_500), "out after {elapsed:?}:\n{}", worker.log());
    assert!([Some(0), Some(75)].contains(&status.code()), "{status:?}");
    let _second = scene.worker(&[("WORKER_CONCURRENCY", "50")]).await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 60, "lost nothing");
    assert_eq!(scene.dead().await, 0);
}
