//! A worker that was stopped for longer than its lease has lost its jobs, and knows it.

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
