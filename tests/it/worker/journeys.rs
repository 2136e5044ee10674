//! Whole lives of jobs, on every broker: workers that come and go, in an orderly
//! way and otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use worker_core::{Ending, FailureKind, JobOptions, Registry, RetryPolicy, WorkerBuilder, broker::Broker};
use worker_tests::{
    eventually::eventually,
    fixture::{BrokerFixture, MemoryFixture, SqliteFixture, run, skipped},
};

use crate::bench::{Act, Bench, Running, acting};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

acting! {
    /// Fast enough for real time: retried twice after 20 and 40 ms, with half a second for each run.
    Quick, "quick" in "quick", JobOptions::DEFAULT.retry(RetryPolicy::new(2, ms(20), ms(40))).timeout(ms(500))
}
acting! {
    /// The same with all the time it wants.
    Patient, "patient" in "patient", JobOptions::DEFAULT.retry(RetryPolicy::new(2, ms(20), ms(40)))
}

/// A bench on a process of its own, and that process.
async fn open<F: BrokerFixture>(fx: &F) -> (Bench, Arc<F::Broker>) {
    let process = Arc::new(fx.open().await);
    (Bench::on(Arc::clone(&process) as _, fx.clock(), fx.patience()), process)
}

/// The same record, as a worker in another process writes it.
async fn beside<F: BrokerFixture>(fx: &F, bench: &Bench) -> (Bench, Arc<F::Broker>) {
    let process = Arc::new(fx.open().await);
    (bench.neighbour(Arc::clone(&process) as _), process)
}

fn worker(bench: &Bench) -> WorkerBuilder {
    bench.worker_of(Registry::new().with::<Quick>().with::<Patient>())
}

/// The final endings of each job: exactly one in a world without faults.
fn ends(bench: &Bench) -> BTreeMap<String, Vec<Ending>> {
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for report in bench.reports() {
        if matches!(report.ending, Ending::Succeeded | Ending::DeadLettered { .. }) {
            ends.entry(report.id.to_string()).or_default().push(report.ending);
        }
    }
    ends
}

/// How the job `n` acts, and whether it succeeds in the end.
fn story(n: usize) -> (Vec<Act>, Result<(), FailureKind>) {
    let fail = || Act::Fail("no".into());
    match n % 10 {
        0 => (vec![fail(), fail(), Act::Succeed], Ok(())),
        1 => (vec![fail()], Err(FailureKind::Error)),
        2 => (vec![Act::Snooze(30), Act::Snooze(10), Act::Work(1)], Ok(())),
        3 => (vec![Act::Discard("never".into())], Err(FailureKind::Discarded)),
        4 => (vec![Act::Panic("oh".into()), Act::RetryIn(30), Act::Succeed], Ok(())),
        5 if n < 20 => (vec![Act::Hang, Act::Succeed], Ok(())),
        6 => (vec![Act::Panic("oh".into())], Err(FailureKind::Panic)),
        _ => (vec![Act::Work(n as u64 % 5)], Ok(())),
    }
}

async fn every_job_comes_to_its_end_once<F: BrokerFixture>(fx: &F) {
    let (bench, _) = open(fx).await;
    let (other, _) = beside(fx, &bench).await;
    let workers = [Running::start(worker(&bench).concurrency(8)), Running::start(worker(&other).concurrency(8))];
    let count = 300;
    let jobs = (0..count).map(|n| Bench::job::<Quick>(&n.to_string(), story(n).0).header("n", n));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
    bench.finished(count).await;
    for worker in workers {
        let report = worker.stop().await;
        assert!(report.is_clean() && report.lost == 0 && report.settled > 0, "{report}");
    }
    let ends = ends(&bench);
    for n in 0..count {
        let (acts, expected) = story(n);
        let id = n.to_string();
        let [end] = &*ends[&id] else { panic!("{id} ended twice: {:?}", ends[&id]) };
        let ended = if let Ending::DeadLettered { failure } = end { Err(failure.kind) } else { Ok(()) };
        assert_eq!(ended, expected, "{id}");
        let runs = bench.log.begins_of(&id).len();
        assert!(runs == acts.len() || acts.len() == 1 && runs == 3, "{id} ran {runs} times for {acts:?}");
    }
    let dead: BTreeMap<_, _> = bench.dead().await.into_iter().map(|dead| (dead.id.to_string(), dead)).collect();
    for (id, dead) in &dead {
        let attempts = if dead.failure.kind == FailureKind::Discarded { 1 } else { 3 };
        assert_eq!((dead.attempts, dead.starts), (attempts, 0), "{id}");
        assert_eq!(dead.headers.get("n").unwrap().to_string(), *id);
    }
    let expected: BTreeSet<_> = (0..count).filter(|n| story(*n).1.is_err()).map(|n| n.to_string()).collect();
    assert!(dead.keys().eq(expected.iter()), "dead are those that should be");
    let stats = bench.stats("quick").await;
    assert_eq!((stats.ready, stats.running.unwrap(), stats.delayed.unwrap()), (0, 0, 0));
}

async fn a_retry_is_never_early<F: BrokerFixture>(fx: &F) {
    let (bench, _) = open(fx).await;
    bench.enqueue::<Quick>("a", [Act::Fail("no".into())]).await;
    let worker = Running::start(worker(&bench));
    bench.finished(1).await;
    worker.stop().await;
    let begins = bench.log.begins_of("a");
    assert_eq!(begins.len(), 3);
    for (pair, pause) in begins.windows(2).zip([ms(20), ms(40)]) {
        let waited = pair[1] - pair[0];
        // Dates have whole milliseconds.
        assert!(waited + ms(2) >= pause && waited <= pause.mul_f64(1.25) + fx.lateness(), "{waited:?} for {pause:?}");
    }
}

async fn the_jobs_of_a_worker_that_died_are_run_by_another<F: BrokerFixture>(fx: &F) {
    let (bench, doomed) = open(fx).await;
    for n in 0..12 {
        bench.enqueue::<Patient>(&format!("job{n}"), [Act::Hang, Act::Succeed]).await;
    }
    let first = Running::start(worker(&bench).concurrency(4).prefetch(8));
    bench.log.until("four run", |runs| runs.len() == 4).await;
    fx.crash(&doomed).await;
    first.drop_in_the_middle().await;
    let begun: BTreeSet<_> = bench.log.runs().into_iter().map(|run| run.id).collect();

    let (other, _) = beside(fx, &bench).await;
    // Those that were not begun hang once more.
    let second = Running::start(worker(&other).concurrency(20));
    bench.log.until("the others run", |runs| runs.len() >= 16).await;
    eventually("the four are done", async || (ends(&bench).len() == 4).then_some(())).await;
    let report = second.abort_and_end().await;
    assert_eq!((report.settled, report.interrupted), (4, 8));
    assert!(ends(&bench).keys().eq(begun.iter()), "what was started by the dead worker has succeeded here");
    assert!(bench.log.runs().iter().all(|run| run.attempt == 1), "a death is no attempt");
    assert!(other.dead().await.is_empty());
}

async fn a_job_that_kills_its_workers_is_stopped_at_the_third<F: BrokerFixture>(fx: &F) {
    let (bench, _) = open(fx).await;
    bench.enqueue::<Patient>("killer", [Act::Hang]).await;
    for n in 0..5 {
        bench.enqueue::<Patient>(&format!("innocent{n}"), [Act::Work(10)]).await;
    }
    for starts in 1..=3 {
        let (victim, process) = beside(fx, &bench).await;
        let worker = Running::start(worker(&victim).concurrency(2));
        bench.log.until("the killer runs", |runs| runs.iter().filter(|run| run.id == "killer").count() == starts).await;
        fx.crash(&process).await;
        worker.drop_in_the_middle().await;
    }
    let survivor = Running::start(worker(&bench));
    let dead = eventually("the killer is dead", async || bench.dead().await.pop()).await;
    assert_eq!((dead.id.to_string().as_str(), dead.failure.kind, dead.starts), ("killer", FailureKind::Crashed, 3));
    // A worker that died before it could say so ran some of them to their end.
    eventually("the innocent are done", async || {
        let stats = bench.stats("patient").await;
        (stats.unfinished() == 0).then_some(())
    })
    .await;
    survivor.stop().await;
    assert_eq!(bench.dead().await.len(), 1);
    assert_eq!(bench.log.begins_of("killer").len(), 3);
}

async fn a_worker_that_was_frozen_finds_its_jobs_lost<F: BrokerFixture>(fx: &F) {
    let (bench, process) = open(fx).await;
    bench.enqueue::<Patient>("job", [Act::Work(6_000), Act::Succeed]).await;
    let (other, _) = beside(fx, &bench).await;
    // Frozen while the job runs: it goes to the other, and ends here too late.
    let frozen = Running::start(worker(&bench));
    bench.log.until("it runs", |runs| runs.len() == 1).await;
    if let Err(reason) = fx.freeze(&process).await {
        return skipped(&process.capabilities(), reason);
    }
    let healthy = Running::start(worker(&other));
    bench.finished(1).await;
    fx.thaw(&process).await;
    bench.reported(2).await;
    assert_eq!(bench.endings_of("job"), [Ending::Succeeded, Ending::Lost], "whoever owns it settles it");
    // Where time is virtual, the frozen one thaws at once and may be the one that gets it.
    let (healthy, frozen) = (healthy.stop().await, frozen.stop().await);
    assert_eq!((healthy.settled + frozen.settled, healthy.lost, frozen.lost), (1, 0, 1));
    assert_eq!(bench.stats("patient").await.ready, 0);
}

async fn jobs_that_end_while_the_storage_is_busy_are_settled_when_it_is_not<F: BrokerFixture>(fx: &F) {
    let (bench, process) = open(fx).await;
    for n in 0..5 {
        bench.enqueue::<Patient>(&n.to_string(), [Act::Work(50)]).await;
    }
    let worker = Running::start(worker(&bench));
    bench.log.until("they run", |runs| runs.len() == 5).await;
    let obstruction = match fx.obstruct() {
        Ok(obstruction) => obstruction,
        Err(reason) => return skipped(&process.capabilities(), reason),
    };
    bench.log.until("they end", |runs| runs.iter().all(|run| run.ended.is_some())).await;
    fx.pass(ms(200)).await;
    assert!(bench.reports().is_empty(), "nothing is said before it is true");
    drop(obstruction);
    bench.finished(5).await;
    assert_eq!((worker.stop().await.settled, bench.log.runs().len()), (5, 5));
}

async fn restarts_lose_nothing_and_repeat_only_what_they_interrupt<F: BrokerFixture>(fx: &F) {
    let (bench, _) = open(fx).await;
    let count = 200;
    let jobs = (0..count).map(|n| Bench::job::<Patient>(&n.to_string(), [Act::Work(n % 9)]));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
    let mut interrupted = 0;
    for round in 0..9 {
        let (process, _) = beside(fx, &bench).await;
        let worker = Running::start(worker(&process).concurrency(6));
        fx.pass(ms(15)).await;
        match round % 3 {
            0 => interrupted += worker.stop().await.interrupted,
            1 => interrupted += worker.abort_and_end().await.interrupted,
            _ => {
                let before = bench.log.runs().iter().filter(|run| run.ended.is_none()).count();
                worker.drop_in_the_middle().await;
                interrupted += before as u64 + 6;
            }
        }
    }
    let last = Running::start(worker(&bench));
    eventually("all are done", async || {
        let stats = bench.stats("patient").await;
        (stats.unfinished() == 0).then_some(())
    })
    .await;
    assert!(last.stop().await.is_clean());
    let runs = bench.log.runs();
    assert!(runs.len() as u64 <= count + interrupted, "{} runs, {interrupted} interrupted", runs.len());
    let ran: BTreeSet<_> = runs.iter().map(|run| &run.id).collect();
    assert_eq!(ran.len() as u64, count);
    assert!(runs.iter().all(|run| run.attempt == 1), "a restart is no attempt");
    assert!(ends(&bench).values().all(|ends| ends.len() == 1));
    assert!(bench.dead().await.is_empty());
}

async fn the_highest_priority_runs_first<F: BrokerFixture>(fx: &F) {
    let (bench, process) = open(fx).await;
    if !process.capabilities().priorities {
        return skipped(&process.capabilities(), "it has no priorities");
    }
    for (n, level) in [4, 0, 31, 5, 31, 4].into_iter().enumerate() {
        bench.enqueue_as(Bench::job::<Quick>(&format!("{level}-{n}"), [Act::Work(1)]).priority(level)).await;
    }
    let worker = Running::start(worker(&bench).concurrency(1));
    bench.finished(6).await;
    worker.stop().await;
    let order: Vec<_> = bench.log.runs().into_iter().map(|run| run.id).collect();
    assert_eq!(order, ["31-2", "31-4", "5-3", "4-0", "4-5", "0-1"]);
}

async fn two_thousand_jobs_are_done_by_two_workers_each_once<F: BrokerFixture>(fx: &F) {
    let (bench, _) = open(fx).await;
    let (other, _) = beside(fx, &bench).await;
    let workers = [Running::start(worker(&bench)), Running::start(worker(&other))];
    let answers =
        bench.client.enqueue_all((0..2_000).map(|n| Bench::job::<Quick>(&n.to_string(), [Act::Succeed]))).await;
    assert!(answers.iter().all(Result::is_ok));
    bench.finished(2_000).await;
    let mut settled = 0;
    for worker in workers {
        settled += worker.stop().await.settled;
    }
    assert_eq!((settled, bench.log.runs().len(), ends(&bench).len()), (2_000, 2_000, 2_000));
}

macro_rules! journeys {
    ($($journey:ident)*) => {
        mod memory {$(
            #[test]
            fn $journey() {
                super::run::<super::MemoryFixture<true>>(super::$journey);
            }
        )*}
        mod sqlite {$(
            #[test]
            fn $journey() {
                super::run::<super::SqliteFixture>(super::$journey);
            }
        )*}
    };
}

journeys! {
    every_job_comes_to_its_end_once
    a_retry_is_never_early
    the_jobs_of_a_worker_that_died_are_run_by_another
    a_job_that_kills_its_workers_is_stopped_at_the_third
    a_worker_that_was_frozen_finds_its_jobs_lost
    jobs_that_end_while_the_storage_is_busy_are_settled_when_it_is_not
    restarts_lose_nothing_and_repeat_only_what_they_interrupt
    the_highest_priority_runs_first
    two_thousand_jobs_are_done_by_two_workers_each_once
}
