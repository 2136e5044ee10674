//! A job that kills its worker ends after three starts, and takes nobody with it.

use worker_core::FailureKind;
use worker_tests::eventually::eventually_within;

use super::scene::{LONG, Scene};
use crate::system::crew::{Die, Mark};

#[tokio::test]
async fn a_job_that_aborts_is_dead_lettered_after_three_starts_and_no_neighbour_is() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    // In the middle of a thousand, so that there always are neighbours.
    crew.enqueue((0..500).map(|n| Mark { n, millis: 5 })).await;
    crew.enqueue([Die { n: 9_999 }]).await;
    crew.enqueue((500..1_000).map(|n| Mark { n, millis: 5 })).await;
    let mut deaths = 0;
    // As a service manager would: start it again when it has died.
    while scene.dead().await == 0 || crew.ended().len() < 1_000 {
        let worker = std::sync::Mutex::new(crew.worker(&[("WORKER_PREFETCH", "50")]));
        let died = eventually_within(LONG, "the worker died or all was done", || async {
            if !worker.lock().unwrap().is_running() {
                return Some(true);
            }
            (crew.ended().len() == 1_000 && scene.dead().await > 0).then_some(false)
        })
        .await;
        deaths += u32::from(died);
        assert!(deaths <= 3, "the job was started again after three starts");
    }
    assert_eq!(deaths, 3);
    assert_eq!(crew.starts()[&9_999], 3, "exactly three starts");
    let dead = crew.dead().await;
    assert_eq!(dead.len(), 1, "no neighbour is blamed: {dead:?}");
    assert_eq!((dead[0].failure.kind, dead[0].starts, dead[0].attempts), (FailureKind::Crashed, 3, 0));
}
