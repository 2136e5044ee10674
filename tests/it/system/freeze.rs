//! A worker that was stopped for longer than its lease has lost its jobs, and knows it.

use std::{fs, path::Path};

use worker_tests::eventually::eventually;

use super::crew::{Crew, Mark};

#[tokio::test]
async fn a_frozen_worker_cannot_complete_what_another_has_taken_over() {
    let crew = Crew::new().await;
    let lease = [("WORKER_SQLITE_LEASE", "1s")];
    let mut frozen = crew.worker(&lease);
    crew.enqueue([Mark { n: 1, millis: 1_500 }]).await;
    crew.wait_for(1, "start").await;
    frozen.signal("STOP");
    let _other = crew.worker(&lease);
    // It is started again elsewhere, while the first run is frozen in its middle.
    crew.wait_for(2, "start").await;
    frozen.signal("CONT");
    // Both run to their end; one of them counts.
    crew.wait_for(2, "end").await;
    crew.wait_until_done().await;
    eventually("the frozen one said that it had lost the job", async || {
        frozen.log().contains("job lost").then_some(())
    })
    .await;
    assert!(frozen.is_running(), "it lives, and goes on");
    assert_eq!(crew.dead().await, []);
    // And it works on as before.
    crew.enqueue((10..60).map(|n| Mark { n, millis: 20 })).await;
    crew.wait_until_done().await;
    let again = crew.journal().iter().any(|noted| noted.n >= 10 && noted.pid == frozen.id());
    assert!(again, "the thawed worker takes jobs again");
}

#[tokio::test]
async fn processes_that_were_frozen_together_do_not_take_each_other_for_dead() {
    let (crew, clock) = (Crew::new().await, Crew::new().await);
    let settings = [("WORKER_SQLITE_LEASE", "2s"), ("WORKER_CONCURRENCY", "1"), ("WORKER_PREFETCH", "1")];
    let [first, second] = [crew.worker(&settings), crew.worker(&settings)];
    let _clock_worker = clock.worker(&[]);
    crew.enqueue([1, 2].map(|n| Mark { n, millis: 8_000 })).await;
    crew.wait_for(2, "start").await;
    second.signal("STOP");
    // It has seen the last sign of life of the second.
    rounds(&crew, 2).await;
    first.signal("STOP");
    // Longer than the lease, as somebody else measures it.
    clock.enqueue([Mark { n: 0, millis: 3_000 }]).await;
    clock.wait_for(1, "end").await;
    first.signal("CONT");
    rounds(&crew, 2).await;
    second.signal("CONT");
    crew.wait_for(2, "end").await;
    crew.wait_until_done().await;
    assert_eq!(crew.count("start"), 2, "{}{}", first.log(), second.log());
}

/// Waits until a worker has shown life this often, and has looked for that of others in between.
async fn rounds(crew: &Crew, count: u64) {
    let beats = || ["1", "2"].map(|holder| beat(&crew.path("jobs.db-workers").join(holder)));
    let since = beats();
    let moved = || beats().iter().zip(since).any(|(beat, since)| *beat >= since + count);
    eventually("a worker showed life", async || moved().then_some(())).await;
}

/// The sign of life in a worker's file; 0 where it has none any more.
fn beat(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap_or_default();
    bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
}
