//! Somebody stands still for a while: the node, or a worker.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use worker_tests::eventually::eventually_within;

use super::scene::{LONG, Scene, produce, victim};
use crate::system::crew::Mark;

#[tokio::test]
async fn a_node_that_freezes_for_five_seconds_loses_nothing_and_leaves_no_job_behind() {
    let victim = victim().await;
    let scene = Scene::on(victim.node).await;
    let crew = &scene.crew;
    let _worker = scene.worker(&[]).await;
    let producing = produce(&crew.client, (0..1_500).map(|n| Mark { n, millis: 5 }));
    let freezing = async {
        scene.wait_for(300, "end").await;
        victim.node.freeze();
        // The fault itself; nothing is waited for.
        sleep(Duration::from_secs(5)).await;
        victim.node.thaw();
    };
    let (produced, ()) = tokio::join!(producing, freezing);
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 1_500, "lost nothing");
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - crew.ended().len();
    assert!(repeated <= 32 + produced.indeterminate, "{repeated} ran twice: {produced:?}");
}

#[tokio::test]
async fn a_worker_that_is_stopped_while_the_node_stands_still_is_out_in_time_and_loses_nothing() {
    let victim = victim().await;
    let scene = Scene::on(victim.node).await;
    let crew = &scene.crew;
    let settings = [("WORKER_SHUTDOWN_GRACE", "3s"), ("WORKER_CONCURRENCY", "5"), ("WORKER_PREFETCH", "40")];
    let mut worker = scene.worker(&settings).await;
    crew.enqueue((0..60).map(|n| Mark { n, millis: 300 })).await;
    scene.wait_for(5, "start").await;
    victim.node.freeze();
    worker.signal("TERM");
    let asked = Instant::now();
    worker.ended().await;
    let elapsed = asked.elapsed();
    victim.node.thaw();
    assert!(elapsed.as_millis() < 8_500, "out after {elapsed:?}:\n{}", worker.log());
    let finished = crew.count("end");
    let _second = scene.worker(&[("WORKER_CONCURRENCY", "50")]).await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 60, "lost nothing");
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - 60;
    assert!(repeated <= finished, "{repeated} ran twice, and {finished} were finished and not acknowledged");
}

#[tokio::test]
async fn a_frozen_worker_has_lost_its_jobs_and_cannot_settle_what_another_took() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let heartbeat = [("WORKER_RABBITMQ_HEARTBEAT", "1s")];
    let frozen = std::sync::Mutex::new(scene.worker(&heartbeat).await);
    crew.enqueue([Mark { n: 1, millis: 1_500 }]).await;
    scene.wait_for(1, "start").await;
    frozen.lock().unwrap().signal("STOP");
    let _other = crew.worker(&heartbeat);
    // The node gives it to another, while the first run is frozen in its middle.
    scene.wait_for(2, "start").await;
    frozen.lock().unwrap().signal("CONT");
    scene.wait_for(2, "end").await;
    scene.wait_until_done().await;
    eventually_within(LONG, "the frozen one said that it had lost the job", || async {
        frozen.lock().unwrap().log().contains("job lost").then_some(())
    })
    .await;
    let mut frozen = frozen.into_inner().unwrap();
    assert!(frozen.is_running(), "it lives, and goes on");
    assert_eq!(crew.count("start"), 2, "once each, and no more");
    assert_eq!(scene.dead().await, 0);
    crew.enqueue((10..110).map(|n| Mark { n, millis: 20 })).await;
    scene.wait_until_done().await;
    let again = crew.journal().iter().any(|noted| noted.n >= 10 && noted.pid == frozen.id());
    assert!(again, "the thawed worker takes jobs again:\n{}", frozen.log());
}
