//! A worker process that is killed loses nothing.

use super::scene::Scene;
use crate::system::crew::Mark;

#[tokio::test]
async fn every_job_of_a_thousand_runs_though_the_worker_is_killed_five_times() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    crew.enqueue((0..1_000).map(|n| Mark { n, millis: 3 })).await;
    for kill in 1..=5 {
        let mut worker = crew.worker(&[]);
        scene.wait_for(kill * 120, "end").await;
        worker.kill();
    }
    let _last = crew.worker(&[]);
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 1_000, "every job ran to its end");
    assert_eq!(scene.dead().await, 0, "and none was blamed");
    // Twice ran at most what a killed worker had begun and not settled: its prefetch, five times.
    let repeated = crew.starts().values().map(|starts| starts - 1).sum::<usize>();
    assert!(repeated <= 5 * 32, "{repeated} extra starts");
}
