//! Jobs that fail on purpose: one shows retries, the other the dead-letter queue.

use worker_core::prelude::*;

/// Fails twice, then succeeds.
#[job(queue = "trouble", max_retries = 3, backoff = "200ms..2s")]
pub(crate) async fn flaky(cx: Context) -> JobResult {
    match cx.attempt() {
        attempt @ 1..=2 => Err(format!("attempt {attempt} fails on purpose, the next may not").into()),
        _ => Ok(()),
    }
}

/// Always fails, and ends in the dead-letter queue.
#[job(queue = "trouble", max_retries = 2, backoff = "100ms..1s")]
pub(crate) async fn poison() -> JobResult {
    Err("this job always fails, on purpose".into())
}

#[cfg(test)]
mod tests {
    use worker_core::{Registry, testing::TestQueue};

    use super::*;

    #[tokio::test]
    async fn flaky_succeeds_at_its_third_attempt_and_poison_never_does() {
        let mut t = TestQueue::builder().registry(Registry::new().with::<flaky>().with::<poison>()).build();
        t.client().enqueue(flaky::new()).await.unwrap();
        t.client().enqueue(poison::new()).await.unwrap();
        assert_eq!(t.drain().await.summary(), "1 succeeded, 4 retried, 1 dead");
    }
}
