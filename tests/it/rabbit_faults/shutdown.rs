//! SIGTERM: what runs finishes, and what waits goes back as if it had never been here.

use std::time::Instant;

use worker_tests::rabbit::shared_node;

use super::scene::{QUEUE, Scene};
use crate::system::crew::Mark;

/// What a worker says of a job that a worker before it may have died of.
const SUSPECTED: &str = "came back from a worker that is gone";

#[tokio::test]
async fn fifty_running_jobs_finish_and_the_prefetched_come_back_as_first_deliveries() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let settings = [("WORKER_CONCURRENCY", "50"), ("WORKER_PREFETCH", "120"), ("WORKER_SHUTDOWN_GRACE", "10s")];
    let mut worker = scene.worker(&settings).await;
    // The first fifty run for up to 2 s; the rest is prefetched behind them.
    crew.enqueue((0..50).map(|n| Mark { n, millis: 500 + 30 * n })).await;
    crew.enqueue((50..150).map(|n| Mark { n, millis: 1 })).await;
    scene.wait_for(50, "start").await;
    worker.signal("TERM");
    let signalled = Instant::now();
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(signalled.elapsed().as_secs() < 10, "out within the grace period");
    let started = crew.starts().len();
    assert_eq!(crew.count("end"), started, "everything that had started has finished");
    assert!(started >= 50);
    let info = shared_node().queue_info(scene.vhost.name(), QUEUE).await;
    assert_eq!((info.ready, info.unacked), (150 - started as u64, 0));

    let second = scene.worker(&[]).await;
    scene.wait_until_done().await;
    assert!(!second.log().contains(SUSPECTED), "{}", second.log());
    assert_eq!(crew.ended().len(), 150);
    assert!(crew.journal().iter().all(|noted| noted.attempt == 1), "their attempts are unchanged");
    assert!(crew.starts().values().all(|starts| *starts == 1), "and none ran twice");
}

#[tokio::test]
async fn ten_rolling_restarts_with_prefetched_jobs_make_no_suspects_and_no_dead_letters() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    // One long job at a time: two hundred are always prefetched and not started.
    crew.enqueue((0..400).map(|n| Mark { n, millis: 150 })).await;
    let settings = [("WORKER_CONCURRENCY", "1"), ("WORKER_PREFETCH", "200")];
    for restart in 1..=10 {
        let mut worker = scene.worker(&settings).await;
        scene.wait_for(restart, "start").await;
        worker.signal("TERM");
        assert_eq!(worker.ended().await.code(), Some(0), "{}", worker.log());
        assert!(!worker.log().contains(SUSPECTED), "restart {restart}:\n{}", worker.log());
    }
    let last = scene.worker(&[("WORKER_CONCURRENCY", "100"), ("WORKER_PREFETCH", "200")]).await;
    scene.wait_until_done().await;
    assert!(!last.log().contains(SUSPECTED), "{}", last.log());
    assert_eq!(crew.ended().len(), 400);
    assert!(crew.starts().values().all(|starts| *starts == 1), "none ran twice");
    assert_eq!(scene.dead().await, 0);
}
