//! SIGTERM: what runs finishes, what waits goes back untouched, and the exit code says which.

use std::time::Instant;

use super::crew::{Crew, Grind, Hang, Mark, Seize};

#[tokio::test]
async fn fifty_running_jobs_finish_and_the_prefetched_go_back_untouched() {
    let crew = Crew::new().await;
    let mut worker = crew.worker(&[("WORKER_CONCURRENCY", "50"), ("WORKER_SHUTDOWN_GRACE", "10s")]);
    // The first fifty run for up to 2 s; the rest is prefetched behind them.
    crew.enqueue((0..50).map(|n| Mark { n, millis: 500 + 30 * n })).await;
    crew.enqueue((50..150).map(|n| Mark { n, millis: 1 })).await;
    crew.wait_for(50, "start").await;
    worker.signal("TERM");
    let signalled = Instant::now();
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(signalled.elapsed().as_secs() < 10, "out within the grace period");
    let started = crew.starts().len();
    assert_eq!(crew.count("end"), started, "everything that had started has finished");
    assert!(started >= 50);
    let stats = crew.stats().await;
    assert_eq!((stats.ready, stats.running, stats.dead), (150 - started as u64, 0, 0));

    let _second = crew.worker(&[]);
    crew.wait_until_done().await;
    let journal = crew.journal();
    assert!(journal.iter().all(|noted| noted.attempt == 1), "their attempts are unchanged");
    assert!(crew.starts().values().all(|starts| *starts == 1), "and none ran twice");
}

#[tokio::test]
async fn a_job_that_never_returns_is_released_at_the_end_and_the_exit_code_says_so() {
    let crew = Crew::new().await;
    let mut worker = crew.worker(&[("WORKER_SHUTDOWN_GRACE", "300ms")]);
    crew.enqueue([Hang { n: 1 }]).await;
    crew.enqueue([Mark { n: 2, millis: 1 }]).await;
    crew.wait_for(2, "start").await;
    worker.signal("TERM");
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(75), "{}", worker.log());
    let stats = crew.stats().await;
    assert_eq!((stats.ready, stats.running, stats.dead), (1, 0, 0), "it is back");

    let _second = crew.worker(&[]);
    crew.wait_for(3, "start").await;
    let again = crew.journal().into_iter().rfind(|noted| noted.n == 1).unwrap();
    assert_eq!(again.attempt, 1, "being cancelled is no failed attempt");
}

#[tokio::test]
async fn a_thread_that_outlives_the_grace_period_does_not_hold_up_the_exit() {
    let crew = Crew::new().await;
    let mut worker = crew.worker(&[("WORKER_SHUTDOWN_GRACE", "300ms")]);
    crew.enqueue([Grind { n: 1, millis: 600_000 }]).await;
    crew.wait_for(1, "start").await;
    worker.signal("INT");
    assert_eq!(worker.ended().await.code(), Some(75), "{}", worker.log());
    assert_eq!(crew.stats().await.ready, 1);
}

#[tokio::test]
async fn jobs_that_block_every_thread_of_the_runtime_do_not_hold_up_the_exit() {
    let crew = Crew::new().await;
    let mut worker = crew.worker(&[("WORKER_SHUTDOWN_GRACE", "300ms")]);
    let threads = std::thread::available_parallelism().unwrap().get();
    crew.enqueue((0..=threads as u64).map(|n| Seize { n })).await;
    crew.wait_for(threads, "start").await;
    worker.signal("TERM");
    assert_eq!(worker.ended().await.code(), Some(75), "{}", worker.log());
    assert!(worker.log().contains("not confirmed by the broker"), "{}", worker.log());
}
