//! What a handler can do, and what becomes of its job.

use std::time::Duration;

use worker_core::{
    Context, Ending, Enqueue, FailureKind, Handler, Job, JobOptions, JobResult, Registry, RetryPolicy, days,
    envelope::{Envelope, PAYLOAD_BYTES_MAX},
    seconds,
};
use worker_tests::sample::ENQUEUED_AT;

use crate::bench::{Act, Bench, End, Play, Running, acting};

fn fail() -> Act {
    Act::Fail("the server is busy".into())
}

/// The kind and the text of the failure that an execution was retried or dead-lettered with.
fn failure(ending: &Ending) -> (FailureKind, &str) {
    match ending {
        Ending::Retried { failure, .. } | Ending::DeadLettered { failure } => (failure.kind, &failure.message),
        _ => panic!("{ending:?} is no failure"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_returns_is_done_once() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::Work(1_500)]).await;
    bench.reported(1).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.runs().len(), 1);
    let reports = bench.reports();
    assert_eq!(reports[0].ending, Ending::Succeeded);
    assert_eq!(reports[0].elapsed, Duration::from_millis(1_500));
    assert_eq!((reports[0].attempt, reports[0].job.as_ref().unwrap().as_str()), (1, "play"));
    assert_eq!((report.settled, report.released, report.lost, report.is_clean()), (1, 0, 0, true));
    let stats = bench.stats("q").await;
    assert_eq!((stats.ready, stats.running.unwrap(), stats.delayed.unwrap(), stats.dead), (0, 0, 0, 0));
}

/// Before jitter the runs begin at 0, b, 3b and 7b; each pause is stretched by a quarter at most.
#[tokio::test(start_paused = true)]
async fn a_failing_job_is_retried_after_doubling_pauses_and_then_dead_lettered() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [fail()]).await;
    bench.finished(1).await;
    worker.stop().await;

    let begins = bench.log.begins_of("a");
    assert_eq!(begins.len(), 4, "three retries after the first run");
    for (n, pause) in [10, 20, 40].into_iter().enumerate() {
        let (pause, waited) = (seconds(pause), begins[n + 1] - begins[n]);
        assert!(waited >= pause, "retry {} after {waited:?}, before {pause:?}", n + 1);
        assert!(waited <= pause.mul_f64(1.25) + Duration::from_millis(1), "retry {} after {waited:?}", n + 1);
    }
    assert_eq!(bench.log.runs().iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let dead = bench.only_dead().await;
    assert_eq!((dead.attempts, dead.starts, dead.failure.kind), (4, 0, FailureKind::Error));
    assert_eq!(dead.failure.message, "the server is busy");
    let endings = bench.endings_of("a");
    assert!(matches!(
        *endings,
        [Ending::Retried { .. }, Ending::Retried { .. }, Ending::Retried { .. }, Ending::DeadLettered { .. }]
    ));
}

/// Clients that failed together must not come back together.
#[tokio::test(start_paused = true)]
async fn jobs_that_fail_together_are_retried_apart() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker().concurrency(100));
    for n in 0..100 {
        bench.enqueue::<Play>(&n.to_string(), [fail(), Act::Succeed]).await;
    }
    bench.finished(100).await;
    worker.stop().await;
    let mut begins: Vec<_> = bench.log.runs().iter().filter(|run| run.attempt == 2).map(|run| run.began).collect();
    begins.sort_unstable();
    let spread = begins[99] - begins[0];
    assert!(spread >= seconds(1), "a hundred retries within {spread:?}");
    begins.dedup();
    assert!(begins.len() > 50, "only {} different times", begins.len());
}

acting! {
    /// Retried often, with pauses that stop growing at a minute.
    Capped, "capped" in "q",
    JobOptions::DEFAULT.retry(RetryPolicy::new(9, seconds(10), seconds(60)))
}

#[tokio::test(start_paused = true)]
async fn the_pauses_stop_growing_at_their_cap() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(Registry::new().with::<Capped>()));
    bench.enqueue::<Capped>("a", [fail()]).await;
    bench.finished(1).await;
    worker.stop().await;
    let begins = bench.log.begins_of("a");
    assert_eq!(begins.len(), 10);
    for pair in begins.windows(2).skip(3) {
        let pause = pair[1] - pair[0];
        assert!((seconds(60)..=Duration::from_millis(75_001)).contains(&pause), "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_succeeds_at_last_is_done() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [fail(), fail(), fail(), Act::Succeed]).await;
    bench.finished(1).await;
    let report = worker.stop().await;
    assert_eq!(bench.endings_of("a").last(), Some(&Ending::Succeeded));
    assert_eq!(report.settled, 4);
    assert!(bench.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_discarded_job_is_dead_at_once() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::Discard("no such user".into())]).await;
    bench.finished(1).await;
    worker.stop().await;
    assert_eq!(bench.log.runs().len(), 1);
    let dead = bench.only_dead().await;
    assert_eq!((dead.attempts, dead.failure.kind), (1, FailureKind::Discarded));
    assert_eq!(dead.failure.message, "no such user");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_chooses_its_pause_gets_it_exactly_and_its_attempts_count() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::RetryIn(90_000)]).await;
    bench.finished(1).await;
    worker.stop().await;
    let begins = bench.log.begins_of("a");
    assert_eq!(begins.iter().map(|begin| begin.as_secs()).collect::<Vec<_>>(), [0, 90, 180, 270]);
    let dead = bench.only_dead().await;
    assert_eq!((dead.attempts, dead.failure.kind, &*dead.failure.message), (4, FailureKind::Error, "not now"));
}

#[tokio::test(start_paused = true)]
async fn a_snoozed_job_comes_back_when_it_said_and_its_attempts_do_not_count() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    let snooze = || Act::Snooze(60_000);
    let mut acts: Vec<_> = std::iter::repeat_with(snooze).take(20).collect();
    acts.extend([fail(), snooze(), Act::Succeed]);
    bench.enqueue::<Play>("a", acts).await;
    bench.finished(1).await;
    let report = worker.stop().await;
    let runs = bench.log.runs();
    let begins: Vec<_> = runs.iter().take(21).map(|run| run.began).collect();
    assert_eq!(begins, (0..21).map(|n| seconds(60) * n).collect::<Vec<_>>());
    let attempts: Vec<_> = runs.iter().map(|run| run.attempt).collect();
    assert_eq!(attempts[..21], [1; 21]);
    assert_eq!(attempts[21..], [2, 2], "the one failure counts");
    assert_eq!((report.settled, report.released), (2, 21));
    assert!(matches!(bench.endings_of("a")[0], Ending::Released { after } if after == seconds(60)));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_put_off_by_no_time_is_no_hot_loop() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    let mut acts: Vec<_> = std::iter::repeat_with(|| Act::Snooze(0)).take(20).collect();
    acts.push(Act::Succeed);
    bench.enqueue::<Play>("a", acts).await;
    bench.finished(1).await;
    assert_eq!(bench.log.now(), seconds(2));
    assert_eq!(worker.stop().await.released, 20);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_with_its_text() {
    for (act, text) in [
        (Act::Panic("index out of bounds".into()), "index out of bounds"),
        (Act::PanicFormatted("row 7 is gone".into()), "row 7 is gone"),
        (Act::PanicWithNumber, "the handler panicked without a text"),
    ] {
        let (bench, _) = Bench::memory();
        let worker = bench.start();
        bench.enqueue::<Play>("a", [act.clone(), Act::Succeed]).await;
        bench.finished(1).await;
        worker.stop().await;
        let endings = bench.endings_of("a");
        assert_eq!(failure(&endings[0]), (FailureKind::Panic, text));
        assert_eq!(endings[1..], [Ending::Succeeded], "the worker lives on after {act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_whose_value_panics_too_costs_the_attempt_only() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue::<Play>("a", [Act::PanicTwice, Act::Succeed]).await;
    bench.enqueue::<Play>("b", [Act::Succeed]).await;
    bench.finished(2).await;
    let report = worker.stop().await;
    assert_eq!(failure(&bench.endings_of("a")[0]).0, FailureKind::Panic);
    assert_eq!((report.settled, report.is_clean()), (3, true));
}

/// Stores a body under the name of a job without asking whether it fits.
async fn enqueue_raw(bench: &Bench, id: &str, name: Option<&str>, body: &'static str) {
    let (id, name) = (id.parse().unwrap(), name.map(|name| name.parse().unwrap()));
    let envelope = Envelope::new(id, "q".parse().unwrap(), name, body, ENQUEUED_AT);
    bench.client.broker().enqueue(vec![envelope]).await.remove(0).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_fit_is_dead_at_once_and_says_why() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("good", [Act::Succeed]).await;
    for (id, body) in [("text", "no JSON"), ("shape", "{\"acts\":7}"), ("empty", ""), ("bytes", "\u{0}")] {
        enqueue_raw(&bench, id, Some("play"), body).await;
    }
    let worker = bench.start();
    bench.finished(5).await;
    worker.stop().await;
    assert_eq!(bench.log.runs().len(), 1, "only the good one ran");
    let dead = bench.dead().await;
    assert_eq!(dead.len(), 4);
    for dead in dead {
        assert_eq!((dead.failure.kind, dead.attempts), (FailureKind::Undecodable, 1), "{dead:?}");
        assert!(dead.failure.message.starts_with("the payload does not fit the job: "), "{}", dead.failure.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_of_others_that_is_larger_than_a_worker_takes_is_dead_unread() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("good", [Act::Succeed]).await;
    let acts = r#"{"acts":["Succeed"]}"#;
    for (id, bytes) in [("fits", PAYLOAD_BYTES_MAX), ("larger", PAYLOAD_BYTES_MAX + 1)] {
        let body = format!("{acts}{}", " ".repeat(bytes - acts.len())).into_bytes();
        let envelope = Envelope::new(id.parse().unwrap(), "q".parse().unwrap(), "play".parse().ok(), body, ENQUEUED_AT);
        bench.client.broker().enqueue(vec![envelope]).await.remove(0).unwrap();
    }
    let worker = bench.start();
    bench.finished(3).await;
    worker.stop().await;
    let dead = bench.only_dead().await;
    assert_eq!((dead.id.to_string(), dead.failure.kind), ("larger".to_owned(), FailureKind::Undecodable));
    let said = "its payload has 1048577 bytes; this worker takes up to 1048576, which WORKER_PAYLOAD_MAX changes";
    assert_eq!(dead.failure.message, said);
}

/// A payload whose reading panics: user code, like the handler itself.
#[derive(serde::Serialize)]
struct Trap;

impl<'de> serde::Deserialize<'de> for Trap {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("reading it panics")
    }
}

impl Job for Trap {
    const NAME: &'static str = "trap";
    const QUEUE: &'static str = "q";
    type Return = ();
}

impl Handler for Trap {
    async fn run(self, _: Context) -> JobResult {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_payload_is_read_is_a_failed_attempt() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(Registry::new().with::<Trap>().with::<Play>()));
    bench.enqueue_as(Enqueue::new(Trap)).await;
    bench.enqueue::<Play>("good", [Act::Succeed]).await;
    bench.finished(2).await;
    worker.stop().await;
    let dead = bench.only_dead().await;
    assert_eq!(
        (dead.failure.kind, dead.attempts, &*dead.failure.message),
        (FailureKind::Panic, 4, "reading it panics")
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_expired_before_its_start_is_dead_without_running() {
    let (bench, _) = Bench::memory();
    bench.enqueue::<Play>("long", [Act::Work(20_000)]).await;
    bench.enqueue_as(Bench::job::<Play>("in_time", [Act::Succeed]).expires_in(Duration::from_millis(20_001))).await;
    bench.enqueue_as(Bench::job::<Play>("at_the_date", [Act::Succeed]).expires_in(seconds(20))).await;
    bench.enqueue_as(Bench::job::<Play>("delayed", [Act::Succeed]).delay(seconds(60)).expires_in(seconds(59))).await;
    let worker = Running::start(bench.worker().concurrency(1));
    bench.finished(4).await;
    let report = worker.stop().await;
    assert_eq!(bench.log.runs().iter().map(|run| &*run.id).collect::<Vec<_>>(), ["long", "in_time"]);
    let dead = bench.dead().await;
    assert_eq!(dead.iter().map(|dead| dead.id.to_string()).collect::<Vec<_>>(), ["at_the_date", "delayed"]);
    assert!(dead.iter().all(|dead| (dead.failure.kind, dead.attempts) == (FailureKind::Expired, 0)), "{dead:?}");
    assert_eq!(report.settled, 4);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_comes_after_the_expiry_date_is_dead_with_the_attempts_it_had() {
    let (bench, _) = Bench::memory();
    bench.enqueue_as(Bench::job::<Play>("a", [fail()]).expires_in(seconds(15))).await;
    let worker = bench.start();
    bench.finished(1).await;
    worker.stop().await;
    let dead = bench.only_dead().await;
    assert_eq!((dead.failure.kind, dead.attempts), (FailureKind::Expired, 2), "two ran, the third came too late");
}

#[tokio::test(start_paused = true)]
async fn a_started_job_may_run_beyond_its_expiry_date() {
    let (bench, _) = Bench::memory();
    bench.enqueue_as(Bench::job::<Play>("a", [Act::Work(20_000)]).expires_in(seconds(1))).await;
    let worker = bench.start();
    bench.finished(1).await;
    worker.stop().await;
    assert_eq!(bench.endings_of("a"), [Ending::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_runs_when_it_is_due() {
    let (bench, _) = Bench::memory();
    let worker = bench.start();
    bench.enqueue_as(Bench::job::<Play>("year", [Act::Succeed]).delay(days(366))).await;
    bench.enqueue_as(Bench::job::<Play>("hour", [Act::Succeed]).delay(seconds(3_600))).await;
    bench.finished(2).await;
    worker.stop().await;
    let begins: Vec<_> = bench.log.runs().iter().map(|run| (run.id.clone(), run.began)).collect();
    assert_eq!(begins, [("hour".into(), seconds(3_600)), ("year".into(), days(366))]);
}

#[tokio::test(start_paused = true)]
async fn observers_see_every_ending_once() {
    let (bench, _) = Bench::memory();
    let (count, counted) = std::sync::mpsc::sync_channel(100);
    let worker = Running::start(bench.worker().observe(move |report| count.send(report.id.to_string()).unwrap()));
    bench.enqueue::<Play>("succeeded", [Act::Work(1_000)]).await;
    bench.enqueue::<Play>("retried", [fail(), Act::Succeed]).await;
    bench.enqueue::<Play>("released", [Act::Snooze(5), Act::Succeed]).await;
    bench.enqueue::<Play>("dead", [Act::Discard("no".into())]).await;
    bench.enqueue_as(Bench::job::<Play>("expired", [Act::Succeed]).delay(seconds(2)).expires_in(seconds(1))).await;
    bench.finished(5).await;
    worker.stop().await;
    assert_eq!(counted.iter().count(), 7, "both observers are told");
    assert_eq!(bench.reports().len(), 7);
    assert_eq!(bench.endings_of("succeeded"), [Ending::Succeeded]);
    assert!(matches!(*bench.endings_of("retried"), [Ending::Retried { .. }, Ending::Succeeded]));
    assert!(matches!(*bench.endings_of("released"), [Ending::Released { .. }, Ending::Succeeded]));
    assert!(matches!(*bench.endings_of("dead"), [Ending::DeadLettered { .. }]));
    assert!(matches!(*bench.endings_of("expired"), [Ending::DeadLettered { .. }]));
    assert!(bench.log.runs().iter().all(|run| matches!(run.ended, Some((_, End::Itself)))));
}
