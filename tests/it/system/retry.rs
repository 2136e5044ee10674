//! A job that fails for ever: its pauses, its end, and its replay.

use std::fs;

use worker_core::{FailureKind, broker::Selection};

use super::crew::{Crew, Fail};

#[tokio::test]
async fn a_job_that_always_fails_runs_four_times_with_doubling_pauses_and_again_when_replayed() {
    let crew = Crew::new().await;
    let worker = crew.worker(&[]);
    crew.enqueue([Fail { n: 1 }]).await;
    let mut at = Vec::new();
    for attempt in 1..=4 {
        crew.wait_for(attempt, "start").await;
        at.push(std::time::Instant::now());
    }
    crew.wait_until_done().await;
    // Base 500 ms: the runs begin at 0, b, 3b, 7b, each pause up to a quarter longer;
    // the last margin is for a busy machine.
    for (n, pause) in [500_u64, 1_000, 2_000].into_iter().enumerate() {
        let waited = u64::try_from((at[n + 1] - at[n]).as_millis()).unwrap();
        assert!((pause - 20..pause * 5 / 4 + 400).contains(&waited), "pause {} took {waited} ms", n + 1);
    }
    let dead = crew.dead().await;
    let [job] = &*dead else { panic!("one dead letter, not {dead:?}") };
    assert_eq!((job.attempts, job.failure.kind), (4, FailureKind::Error));
    assert_eq!(job.failure.message, "attempt 4 fails on purpose");

    assert_eq!(crew.inspector().replay(&Selection::default(), 10).await.unwrap(), 1);
    crew.wait_for(8, "start").await;
    let attempts: Vec<_> = crew.journal().iter().map(|noted| noted.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 1, 2, 3, 4], "a replay starts again from the beginning");
    assert!(!worker.log().contains("job lost"));
}

#[tokio::test]
async fn the_folder_of_the_workers_is_gone_when_the_last_has_left() {
    let crew = Crew::new().await;
    let mut worker = crew.worker(&[]);
    crew.enqueue([Fail { n: 1 }]).await;
    crew.wait_for(1, "start").await;
    assert_eq!(fs::read_dir(crew.path("jobs.db-workers")).unwrap().count(), 1);
    worker.signal("TERM");
    assert_eq!(worker.ended().await.code(), Some(0));
    assert!(!crew.path("jobs.db-workers").exists());
}
