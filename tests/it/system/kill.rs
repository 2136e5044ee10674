//! A worker that is killed loses nothing, and another has its jobs within a second.

use std::time::Instant;

use super::crew::{Crew, Mark};

#[tokio::test]
async fn every_job_of_a_thousand_runs_though_the_worker_is_killed_five_times() {
    let crew = Crew::new().await;
    crew.enqueue((0..1_000).map(|n| Mark { n, millis: 3 })).await;
    for kill in 1..=5 {
        let mut worker = crew.worker(&[]);
        crew.wait_for(kill * 120, "end").await;
        worker.kill();
    }
    let _last = crew.worker(&[]);
    crew.wait_until_done().await;
    let ended = crew
        .journal()
        .iter()
        .filter(|noted| noted.event == "end")
        .map(|noted| noted.n)
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ended.len(), 1_000, "every job ran to its end");
    assert_eq!(crew.dead().await, [], "and none was blamed");
    // Twice ran at most what a killed worker had begun and not settled: its prefetch, five times.
    let repeated = crew.starts().values().map(|starts| starts - 1).sum::<usize>();
    assert!(repeated <= 5 * 32, "{repeated} extra starts");
}

#[tokio::test]
async fn two_processes_share_the_work() {
    let crew = Crew::new().await;
    let workers = [crew.worker(&[]), crew.worker(&[])];
    worker_tests::eventually::eventually("both consume", async || {
        let queues = crew.inspector().queues(&[]).await.unwrap();
        queues.iter().any(|stats| stats.queue == "crew" && stats.consumers == 2).then_some(())
    })
    .await;
    crew.enqueue((0..400).map(|n| Mark { n, millis: 5 })).await;
    crew.wait_until_done().await;
    let journal = crew.journal();
    for worker in &workers {
        let share = journal.iter().filter(|noted| noted.event == "end" && noted.pid == worker.id()).count();
        assert!(share >= 40, "process {} ran {share} of 400 jobs", worker.id());
    }
    assert!(crew.starts().values().all(|starts| *starts == 1), "no job ran twice");
}

#[tokio::test]
async fn a_killed_workers_jobs_run_elsewhere_within_a_second() {
    let crew = Crew::new().await;
    let mut first = crew.worker(&[]);
    crew.enqueue((0..4).map(|n| Mark { n, millis: 600_000 })).await;
    crew.wait_for(4, "start").await;
    let second = crew.worker(&[]);
    worker_tests::eventually::eventually("the second consumes", async || {
        second.log().contains("worker started").then_some(())
    })
    .await;
    first.kill();
    let killed = Instant::now();
    // Suspects run one at a time: the first of the four says that all are taken over.
    crew.wait_for(5, "start").await;
    let elapsed = killed.elapsed();
    assert!(elapsed.as_millis() < 1_000, "taken over after {elapsed:?}");
    assert_eq!(crew.journal()[4].pid, second.id());
    assert_eq!(crew.journal()[4].attempt, 1, "a crash of the worker is no failed attempt");
}
