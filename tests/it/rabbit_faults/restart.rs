//! A node that dies under load, and comes back.

use std::time::Instant;

use worker_tests::eventually::eventually_within;

use super::scene::{LONG, Scene, produce, victim};
use crate::system::crew::Mark;

const JOBS: u64 = 10_000;

#[tokio::test]
async fn a_node_that_is_killed_in_the_middle_loses_nothing_and_the_worker_goes_on() {
    let victim = victim().await;
    let scene = Scene::on(victim.node).await;
    let crew = &scene.crew;
    let _worker = scene.worker(&[]).await;
    let mut other = scene.worker(&[("WORKER_SHUTDOWN_GRACE", "3s")]).await;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    scene.wait_for(1, "end").await;
    victim.node.keep_new_queues().await;

    // Something waits all the time, so that going on can be seen.
    let producing = produce(&crew.client, (1..JOBS).map(|n| Mark { n, millis: 10 }));
    let killing = async {
        scene.wait_for(4_000, "end").await;
        victim.node.kill();
        other.signal("TERM");
        let asked = Instant::now();
        let ending = async {
            let status = other.ended().await;
            assert!(asked.elapsed().as_secs() < 8, "out after {:?}:\n{}", asked.elapsed(), other.log());
            status
        };
        let (status, ()) = tokio::join!(ending, victim.node.restart());
        assert_eq!(status.code(), Some(0), "nothing was cancelled:\n{}", other.log());
        // How soon is measured by `cargo torture run resume`.
        let before = crew.count("end");
        eventually_within(LONG, "the worker went on", || async { (crew.count("end") > before).then_some(()) }).await;
    };
    let (produced, ()) = tokio::join!(producing, killing);

    scene.wait_until_done().await;
    assert_eq!(crew.ended().len() as u64, JOBS, "lost nothing");
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - crew.ended().len();
    // What the workers had not acknowledged, and what the producer had no confirm of.
    let bound = 2 * 32 + produced.indeterminate;
    assert!(repeated <= bound, "{repeated} ran twice, and {bound} may: {produced:?}");
}
