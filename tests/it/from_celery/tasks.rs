//! Tasks, how they are enqueued, and their results.

use std::{error::Error, future::IntoFuture as _, time::SystemTime};

use futures_util::future::try_join_all;
use worker_core::{CallError, prelude::*};

/// Adds two numbers.
#[job(queue = "math")]
async fn add(x: i64, y: i64) -> JobResult<i64> {
    Ok(x.checked_add(y).ok_or("the sum is too large")?)
}

async fn enqueue_each_way(client: &Client, tonight: SystemTime) -> Result<(), Box<dyn Error>> {
    client.enqueue(add::new(1, 2)).await?; // add.delay(1, 2)
    client.enqueue(add::new(1, 2).delay(seconds(10))).await?; // countdown=10
    client.enqueue(add::new(1, 2).at(tonight)).await?; // eta=tonight
    client.enqueue(add::new(1, 2).expires_in(minutes(5))).await?; // expires=300
    client.enqueue(add::new(1, 2).priority(9)).await?; // priority=9
    client.enqueue(add::new(1, 2).id("sum-42".parse()?)).await?; // task_id="sum-42"
    client.enqueue(add::new(1, 2).header("tenant", "acme")).await?; // headers={"tenant": "acme"}
    Ok(())
}

async fn sums(client: &Client) -> Result<i64, CallError> {
    let sum = client.call(add::new(1, 2)).timeout("10s").await?; // add.delay(1, 2).get(timeout=10)
    let calls = (0..10).map(|n| client.call(add::new(n, n)).into_future());
    let sums = try_join_all(calls).await?; // group(add.s(n, n) for n in range(10))().get()
    Ok(sum + sums.iter().sum::<i64>())
}

mod tests {
    use worker_core::{Registry, brokers::memory::MemoryBroker, testing::TestQueue};

    use super::*;
    use crate::bench::{Bench, Running};

    fn registry() -> Registry {
        Registry::new().with::<add>()
    }

    #[tokio::test]
    async fn each_way_of_enqueueing_runs_the_job_when_it_is_due() {
        let mut t = TestQueue::builder().registry(registry()).build();
        let tonight = SystemTime::from(t.now()) + hours(8);
        enqueue_each_way(&t.client(), tonight).await.unwrap();
        let run = t.drain().await;
        assert_eq!(run.summary(), "7 succeeded, 0 retried, 0 dead");
        let mut starts: Vec<_> = run.executions().iter().map(|execution| execution.at).collect();
        starts.dedup();
        assert_eq!(starts, [seconds(0), seconds(10), hours(8)]);
        assert!(run.executions().iter().any(|execution| execution.id.to_string() == "sum-42"));
    }

    #[tokio::test]
    async fn what_has_expired_is_a_dead_letter_and_was_not_run() {
        let mut t = TestQueue::builder().registry(registry()).build();
        enqueue_each_way(&t.client(), SystemTime::from(t.now())).await.unwrap();
        t.advance(minutes(5) + seconds(1));
        let run = t.drain().await;
        assert_eq!(run.summary(), "6 succeeded, 0 retried, 1 dead");
        assert_eq!(t.dead_letters().await[0].failure.kind, worker_core::FailureKind::Expired);
    }

    #[tokio::test]
    async fn a_caller_gets_the_results_of_one_and_of_many() {
        let (bench, broker) = Bench::memory();
        let client = Client::new(broker as std::sync::Arc<MemoryBroker>);
        let running = Running::start(Worker::builder(&bench.client).registry(registry()));
        assert_eq!(sums(&client).await.unwrap(), 3 + 90);
        let error = client.call(add::new(i64::MAX, 1)).await.unwrap_err();
        assert!(error.to_string().contains("the sum is too large"), "{error}");
        running.stop().await;
    }
}
