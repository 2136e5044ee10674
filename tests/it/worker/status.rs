//! What a worker says of itself while its broker fails.

use std::time::Duration;

use tokio::time::sleep;
use worker_core::{
    BrokerErrorKind::{Permanent, Transient},
    Intake, RunError, Worker, WorkerPhase, WorkerStatus, seconds,
};
use worker_tests::fault::{Call, Fault, first};

use crate::{
    bench::{Act, Bench, Play},
    gate::settle_down,
};

fn worker(bench: &Bench) -> (Worker, WorkerStatus) {
    let worker = bench.worker().queues(["q"]).concurrency(3).build().unwrap();
    let status = worker.status();
    (worker, status)
}

fn intake(status: &WorkerStatus) -> Intake {
    status.queues().remove(0).intake
}

fn is_failing(status: &WorkerStatus) -> bool {
    matches!(intake(status), Intake::Failing { error } if error == "the script says Transient")
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_subscribed_to_keeps_the_worker_starting() {
    let consumes = |call: Call<'_>| matches!(call, Call::Consume);
    let bench = Bench::faulty(first(consumes, [Fault::Refused(Transient); 5]));
    let (worker, status) = worker(&bench);
    assert_eq!(intake(&status), Intake::Pending);
    let seen = async {
        settle_down().await;
        assert_eq!((status.phase(), is_failing(&status), status.is_ready()), (WorkerPhase::Starting, true, false));
        assert_eq!(status.progress(seconds(1)).await, Ok(()), "the loop does not wait for the broker");
        status.reached(WorkerPhase::Serving).await;
        assert!(status.is_ready() && status.has_served());
    };
    worker.run(seen).await.unwrap();
    assert_eq!((status.phase(), intake(&status)), (WorkerPhase::Stopped, Intake::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_failed_and_waits_quietly_works_again() {
    let waits = |call: Call<'_>| matches!(call, Call::NextBatch);
    let bench = Bench::faulty(first(waits, [Fault::None, Fault::Refused(Transient), Fault::Refused(Transient)]));
    let (worker, status) = worker(&bench);
    let seen = async {
        bench.enqueue::<Play>("a", [Act::Succeed]).await;
        bench.finished(1).await;
        assert_eq!((status.phase(), is_failing(&status), status.is_ready()), (WorkerPhase::Serving, true, false));
        // Two pauses below half a second, and a second without an error. No job comes.
        sleep(Duration::from_millis(1_600)).await;
        assert_eq!((intake(&status), status.is_ready()), (Intake::Consuming, true));
    };
    worker.run(seen).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_failed_for_good_still_says_why_at_the_end() {
    let consumes = |call: Call<'_>| matches!(call, Call::Consume);
    let bench = Bench::faulty(first(consumes, [Fault::Refused(Permanent)]));
    let (worker, status) = worker(&bench);
    let ended = worker.run(std::future::pending()).await;
    assert!(matches!(ended, Err(RunError::Broker(_))));
    assert_eq!((status.phase(), status.has_served()), (WorkerPhase::Stopped, false));
    assert_eq!(intake(&status), Intake::Failing { error: "the script says Permanent".into() });
}

#[tokio::test(start_paused = true)]
async fn it_counts_what_runs_and_what_was_settled() {
    let (bench, _) = Bench::memory();
    let (worker, status) = worker(&bench);
    let seen = async {
        for id in ["a", "b", "c", "d"] {
            bench.enqueue::<Play>(id, [Act::Work(1_000)]).await;
        }
        bench.log.until("three run", |runs| runs.len() == 3).await;
        settle_down().await;
        let queue = status.queues().remove(0);
        assert_eq!((status.running(), status.slots(), status.settled()), (3, 3, 0));
        assert_eq!((queue.running, queue.slots, queue.queue.as_str()), (3, 3, "q"));
        bench.finished(4).await;
        settle_down().await;
        assert_eq!((status.running(), status.settled()), (0, 4));
    };
    worker.run(seen).await.unwrap();
}
