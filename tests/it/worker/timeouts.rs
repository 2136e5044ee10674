//! The time a job has, and what a handler can know of it.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use worker_core::{
    Context, Ending, Enqueue, FailureKind, Handler, Job, JobOptions, JobResult, Registry, Timestamp, seconds,
};

use crate::{
    bench::{Act, Bench, End, Play, Running},
    gate::{Blocking, Gate, advance, settle_down},
};

fn kinds(endings: &[Ending]) -> Vec<Option<FailureKind>> {
    let kind = |ending: &Ending| match ending {
        Ending::Retried { failure, .. } | Ending::DeadLettered { failure } => Some(failure.kind),
        _ => None,
    };
    endings.iter().map(kind).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_too_long_is_cancelled_at_its_timeout_and_retried() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::Hang, Act::Work(31_000), Act::Work(29_999)]).await;
    bench.finished(1).await;
    worker.stop().await;
    let runs = bench.log.runs();
    let lasted: Vec<_> = runs.iter().map(|run| (run.ended.unwrap().0 - run.began, run.ended.unwrap().1)).collect();
    let whole = (seconds(30), End::Cancelled);
    assert_eq!(lasted, [whole, whole, (Duration::from_millis(29_999), End::Itself)], "each attempt has all the time");
    let timed_out = Some(FailureKind::TimedOut);
    assert_eq!(kinds(&bench.endings_of("a")), [timed_out, timed_out, None]);
    let Ending::Retried { failure, .. } = &bench.endings_of("a")[0] else { panic!("retried") };
    assert_eq!(failure.message, "it ran longer than its timeout of 30s");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_hangs_frees_its_slot_at_its_timeout() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("hangs", [Act::Hang]).await;
    bench.enqueue::<Play>("next", [Act::Succeed]).await;
    let worker = Running::start(bench.worker().concurrency(1));
    bench.reported(2).await;
    worker.stop().await;
    assert_eq!(bench.log.begins_of("next"), [seconds(30)]);
}

fn with_blocking(bench: &Bench, gate: &Arc<Gate>) -> worker_core::WorkerBuilder {
    bench.worker_of(Registry::new().with::<Blocking>().with::<Play>()).state_arc(Arc::clone(gate))
}

/// A thread cannot be stopped: settling earlier would let the job run twice at once.
#[tokio::test(start_paused = true)]
async fn a_blocking_job_that_runs_too_long_keeps_its_slot_until_its_thread_returns() {
    let (bench, _) = Bench::memory();
    let gate = Gate::closed();
    bench.enqueue_as(Enqueue::new(Blocking {}).id("blocks".parse().unwrap())).await;
    bench.enqueue::<Play>("next", [Act::Succeed]).await;
    let worker = Running::start(with_blocking(&bench, &gate).concurrency(1));
    gate.entered(1).await;
    advance(seconds(31)).await;
    assert_eq!((bench.reports().len(), bench.log.runs().len()), (0, 0), "neither settled nor its slot given away");
    advance(seconds(1_000)).await;
    assert_eq!((bench.reports().len(), bench.log.runs().len()), (0, 0));
    gate.open();
    bench.reported(2).await;
    assert_eq!(kinds(&bench.endings_of("blocks")), [Some(FailureKind::TimedOut)], "although its thread returned well");
    assert_eq!(bench.endings_of("next"), [Ending::Succeeded]);
    // The next attempt is in time.
    bench.finished(2).await;
    worker.stop().await;
    assert_eq!(bench.endings_of("blocks").last(), Some(&Ending::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn blocking_jobs_leave_the_others_their_threads() {
    let (bench, _) = Bench::memory();
    let gate = Gate::closed();
    for _ in 0..3 {
        bench.enqueue_as(Enqueue::new(Blocking {})).await;
    }
    let worker = Running::start(with_blocking(&bench, &gate).concurrency(4));
    gate.entered(3).await;
    bench.enqueue::<Play>("beside", [Act::Succeed]).await;
    bench.reported(1).await;
    assert_eq!(bench.endings_of("beside"), [Ending::Succeeded]);
    gate.open();
    bench.finished(4).await;
    assert!(worker.stop().await.is_clean());
}

/// What a handler saw of its context.
#[derive(Debug, PartialEq)]
struct Seen {
    id: String,
    job: String,
    queue: String,
    attempt: u32,
    enqueued_at: Timestamp,
    tenant: Option<String>,
    remaining: [Duration; 2],
    stopping: [bool; 4],
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Curious {}

impl Job for Curious {
    const NAME: &'static str = "curious";
    const QUEUE: &'static str = "other";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.timeout(seconds(100)).aliases(&["nosy"]);
    type Return = ();
}

impl Handler for Curious {
    async fn run(self, cx: Context) -> JobResult {
        let stopping = cx.stopping();
        let (first, before) = (cx.remaining(), [stopping.is_cancelled(), cx.should_stop()]);
        stopping.cancelled().await;
        let seen = Seen {
            id: cx.id().to_string(),
            job: cx.job().to_string(),
            queue: cx.queue().to_string(),
            attempt: cx.attempt(),
            enqueued_at: cx.enqueued_at(),
            tenant: cx.header("tenant").and_then(|value| value.as_str()).map(str::to_owned),
            remaining: [first, cx.remaining()],
            stopping: [before[0], before[1], stopping.is_cancelled(), cx.should_stop()],
        };
        cx.state::<mpsc::Sender<Seen>>()?.send(seen).await?;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_sees_its_job_its_time_and_the_end_of_its_worker() {
    let (bench, _) = Bench::memory();
    let (seen, mut was_seen) = mpsc::channel::<Seen>(1);
    let enqueued_at = bench.clock.now();
    let job = Enqueue::new(Curious {}).id("job-7".parse().unwrap()).header("tenant", "żółw").delay(seconds(5));
    bench.enqueue_as(job).await;
    let worker = Running::start(bench.worker_of(Registry::new().with::<Curious>()).state(seen));
    advance_to_its_middle().await;
    assert!(worker.stop().await.is_clean());
    let expected = Seen {
        id: "job-7".into(),
        job: "curious".into(),
        queue: "other".into(),
        attempt: 1,
        enqueued_at,
        tenant: Some("żółw".into()),
        remaining: [seconds(100), seconds(60)],
        stopping: [false, false, true, true],
    };
    assert_eq!(was_seen.recv().await, Some(expected));
}

/// Five seconds until the job is due, forty seconds into it.
async fn advance_to_its_middle() {
    tokio::time::sleep(seconds(45)).await;
    settle_down().await;
}
