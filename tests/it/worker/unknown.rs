//! Jobs that this worker does not know, and under which names it does.

use std::{sync::Arc, time::Duration};

use worker_core::{Ending, FailureKind, JobOptions, Registry, envelope::Envelope, hours, minutes, seconds};
use worker_tests::sample::ENQUEUED_AT;

use crate::bench::{Act, Bench, Limited, Other, Play, Running, acting};

acting! {
    /// Called `older` and `oldest` before.
    Renamed, "renamed" in "q", JobOptions::DEFAULT.aliases(&["older", "oldest"])
}

/// A job of this name, or without one, that would succeed.
pub(super) async fn enqueue_named(bench: &Bench, id: &str, name: Option<&str>, queue: &str) {
    let name = name.map(|name| name.parse().unwrap());
    let body = "{\"acts\":[\"Succeed\"]}";
    let envelope = Envelope::new(id.parse().unwrap(), queue.parse().unwrap(), name, body, ENQUEUED_AT);
    bench.client.broker().declare(&worker_core::broker::Topology::queues([queue.parse().unwrap()])).await.unwrap();
    bench.client.broker().enqueue(vec![envelope]).await.remove(0).unwrap();
}

fn only<J: worker_core::Handler>() -> Registry {
    Registry::new().with::<J>()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_job_is_offered_again_for_an_hour_and_then_dead_lettered() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(only::<Play>()));
    enqueue_named(&bench, "stranger", Some("stranger"), "q").await;
    bench.finished(1).await;
    let age = bench.log.now();
    let report = worker.stop().await;
    assert!((hours(1)..hours(1) + seconds(1)).contains(&age), "dead after {age:?}");

    let endings = bench.endings_of("stranger");
    let pauses: Vec<_> = endings
        .iter()
        .filter_map(|ending| if let Ending::Released { after } = ending { Some(*after) } else { None })
        .collect();
    assert!((50..100).contains(&pauses.len()), "{} deliveries", pauses.len());
    assert!(pauses[..pauses.len() - 1].is_sorted(), "the pauses grow: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= minutes(1)), "{pauses:?}");
    assert_eq!(report.released, pauses.len() as u64);
    assert!(bench.reports().iter().all(|report| report.attempt == 1), "no attempt counts");

    let dead = bench.only_dead().await;
    assert_eq!((dead.failure.kind, dead.attempts), (FailureKind::UnknownJob, 0));
    assert!(dead.failure.message.contains("`stranger`") && dead.failure.message.contains("play"), "{dead:?}");
}

#[tokio::test(start_paused = true)]
async fn patience_can_be_chosen() {
    let (bench, _) = Bench::memory();
    let patience = Duration::from_millis(4_200);
    let worker = Running::start(bench.worker_of(only::<Play>()).unknown_job_patience(patience));
    enqueue_named(&bench, "stranger", Some("stranger"), "q").await;
    bench.finished(1).await;
    assert_eq!(bench.log.now(), patience);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_patience_an_unknown_job_is_dead_at_once() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(only::<Play>()).unknown_job_patience(Duration::ZERO));
    enqueue_named(&bench, "stranger", Some("stranger"), "q").await;
    bench.finished(1).await;
    worker.stop().await;
    assert_eq!((bench.reports().len(), bench.log.now()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_job_is_run_by_a_worker_that_comes_later_and_knows_it() {
    let (bench, broker) = Bench::memory();
    let old = Running::start(bench.worker_of(only::<Play>()));
    bench.enqueue::<Renamed>("new", [Act::Succeed]).await;
    tokio::time::sleep(minutes(10)).await;
    let neighbour = bench.neighbour(Arc::new(broker.another_process()));
    let new = Running::start(neighbour.worker_of(only::<Renamed>()));
    bench.finished(1).await;
    assert!(bench.log.now() < minutes(12), "at {:?}", bench.log.now());
    assert_eq!(bench.log.runs()[0].attempt, 1);
    old.stop().await;
    new.stop().await;
    assert!(bench.dead().await.is_empty());
}

/// It was known in between, so the patience begins anew.
#[tokio::test(start_paused = true)]
async fn a_job_that_ran_in_between_is_waited_for_as_long_as_a_new_one() {
    let (bench, broker) = Bench::memory();
    let old = Running::start(bench.worker_of(only::<Play>()));
    bench.enqueue::<Renamed>("new", [Act::Fail("no".into()), Act::Succeed]).await;
    tokio::time::sleep(minutes(50)).await;
    let neighbour = bench.neighbour(Arc::new(broker.another_process()));
    let new = Running::start(neighbour.worker_of(only::<Renamed>()));
    bench.log.until("it runs", |runs| runs.first().is_some_and(|run| run.ended.is_some())).await;
    new.stop().await;
    // Rolled back for longer than what is left of the first hour.
    tokio::time::sleep(minutes(30)).await;
    assert!(bench.dead().await.is_empty(), "{:?}", bench.dead().await);
    let newer = Running::start(neighbour.worker_of(only::<Renamed>()));
    bench.finished(1).await;
    assert_eq!(bench.log.runs()[1].attempt, 2);
    old.stop().await;
    newer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unknown_jobs_hold_up_no_others() {
    let (bench, _) = Bench::memory();
    for n in 0..50 {
        enqueue_named(&bench, &format!("stranger{n}"), Some("stranger"), "q").await;
    }
    bench.enqueue::<Play>("known", [Act::Succeed]).await;
    let worker = Running::start(bench.worker_of(only::<Play>()).concurrency(1));
    bench.log.until("the known one runs", |runs| !runs.is_empty()).await;
    assert_eq!(bench.log.now(), Duration::ZERO);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_nameless_job_goes_to_the_only_job_of_its_queue() {
    let (bench, _) = Bench::memory();
    let registry = Registry::new().with::<Play>().with::<Other>();
    let worker = Running::start(bench.worker_of(registry));
    enqueue_named(&bench, "a", None, "q").await;
    enqueue_named(&bench, "b", None, "other").await;
    bench.finished(2).await;
    worker.stop().await;
    let mut ran: Vec<_> = bench.log.runs().iter().map(|run| (run.id.clone(), run.job.clone())).collect();
    ran.sort_unstable();
    assert_eq!(ran, [("a".into(), "play".into()), ("b".into(), "other".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_nameless_job_in_a_queue_of_two_is_unknown() {
    let (bench, _) = Bench::memory();
    let registry = Registry::new().with::<Play>().with::<Limited>();
    let worker = Running::start(bench.worker_of(registry).unknown_job_patience(seconds(1)));
    enqueue_named(&bench, "a", None, "q").await;
    bench.finished(1).await;
    worker.stop().await;
    let dead = bench.only_dead().await;
    assert_eq!((dead.failure.kind, dead.job), (FailureKind::UnknownJob, None));
    assert!(dead.failure.message.contains("limited, play"), "{}", dead.failure.message);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_known_under_its_former_names_and_from_its_former_queue() {
    let (bench, _) = Bench::memory();
    let worker = Running::start(bench.worker_of(only::<Renamed>()).queues(["q", "former"]));
    for (id, name, queue) in [("a", "older", "q"), ("b", "oldest", "q"), ("c", "renamed", "former")] {
        enqueue_named(&bench, id, Some(name), queue).await;
    }
    bench.finished(3).await;
    worker.stop().await;
    let runs = bench.log.runs();
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|run| run.job == "renamed"), "the handler sees its present name: {runs:?}");
}
