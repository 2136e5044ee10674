//! A job that kills its worker ends after three starts, and takes nobody with it.

use super::crew::{Crew, Die, Mark};
use worker_core::FailureKind;

#[tokio::test]
async fn a_job_that_aborts_is_dead_lettered_after_three_starts_and_no_neighbour_is() {
    let crew = Crew::new().await;
    // In the middle of a thousand, so that there always are neighbours.
    crew.enqueue((0..500).map(|n| Mark { n, millis: 5 })).await;
    crew.enqueue([Die { n: 9_999 }]).await;
    crew.enqueue((500..1_000).map(|n| Mark { n, millis: 5 })).await;
    let mut deaths = 0;
    // As a service manager would: start it again when it has died.
    while crew.stats().await.dead == 0 || crew.count("end") < 1_000 {
        let mut worker = crew.worker(&[]);
        let died = worker_tests::eventually::eventually("the worker died or all was done", async || {
            if !worker.is_running() {
                return Some(true);
            }
            let stats = crew.stats().await;
            (stats.unfinished() == 0).then_some(false)
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
    let ended: std::collections::BTreeSet<_> =
        crew.journal().into_iter().filter(|noted| noted.event == "end").map(|noted| noted.n).collect();
    assert_eq!(ended.len(), 1_000);
}
