//! Quick jobs that share a task: none of them is any worse off for it.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use worker_core::{
    Context, Ending, Enqueue, FailureKind, Handler, Job, JobId, JobOptions, JobResult, Registry, RetryPolicy, State,
    WorkerBuilder,
};

use crate::bench::{Bench, Running};

/// How long a job keeps its thread that nobody frees.
const KEPT_MAX: Duration = Duration::from_secs(20);

/// A job whose type is quick, most of the time.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Mixed {
    Quick,
    Waits,
    Panics,
    /// Keeps its thread until [`Mixed::Frees`] has run.
    Keeps,
    Frees,
}

/// What ran, in which task, and what it found.
#[derive(Debug, Default)]
struct Seen {
    tasks: Mutex<HashMap<String, tokio::task::Id>>,
    is_free: Mutex<bool>,
    freed: Condvar,
}

impl Job for Mixed {
    const NAME: &'static str = "mixed";
    const QUEUE: &'static str = "q";
    const OPTIONS: JobOptions =
        JobOptions::DEFAULT.retry(RetryPolicy::new(0, Duration::from_secs(1), Duration::from_secs(1)));
    type Return = ();
}

impl Handler for Mixed {
    async fn run(self, cx: Context) -> JobResult {
        let seen: State<Seen> = cx.supply()?;
        let task = seen.tasks.lock().unwrap().insert(cx.id().to_string(), tokio::task::id());
        assert_eq!(task, None, "it ran before");
        match self {
            Self::Quick => {}
            Self::Waits => tokio::time::sleep(Duration::from_millis(10)).await,
            Self::Panics => panic!("as it does"),
            Self::Keeps => {
                let is_free = seen.is_free.lock().unwrap();
                let (is_free, _) = seen.freed.wait_timeout_while(is_free, KEPT_MAX, |is_free| !*is_free).unwrap();
                if !*is_free {
                    return Err("those behind it waited for it".into());
                }
            }
            Self::Frees => {
                *seen.is_free.lock().unwrap() = true;
                seen.freed.notify_all();
            }
        }
        Ok(())
    }
}

fn worker(bench: &Bench, seen: &Arc<Seen>) -> WorkerBuilder {
    bench.worker_of(Registry::new().with::<Mixed>()).state_arc(Arc::clone(seen)).concurrency(64)
}

fn job(name: &str, n: usize, job: Mixed) -> Enqueue<Mixed> {
    Enqueue::new(job).id(format!("{name}-{n}").parse::<JobId>().unwrap())
}

/// Has the worker learn that the type is quick.
async fn warm_up(bench: &Bench) {
    let quick = (0..16).map(|n| job("first", n, Mixed::Quick));
    assert!(bench.client.enqueue_all(quick).await.iter().all(Result::is_ok));
    bench.finished(16).await;
}

/// Enqueues these at once.
async fn enqueue(bench: &Bench, jobs: impl IntoIterator<Item = Mixed>) {
    let jobs = (0..).zip(jobs).map(|(n, job)| self::job("job", n, job));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
}

fn ending(bench: &Bench, n: usize) -> Ending {
    let endings = bench.endings_of(&format!("job-{n}"));
    let [ending] = &*endings else { panic!("job {n} did not run once: {endings:?}") };
    ending.clone()
}

/// In how many tasks these ran.
fn tasks(seen: &Seen, jobs: Range<usize>) -> usize {
    let tasks = seen.tasks.lock().unwrap();
    jobs.map(|n| tasks[&format!("job-{n}")]).collect::<HashSet<_>>().len()
}

#[tokio::test(start_paused = true)]
async fn jobs_that_share_a_task_end_each_in_its_own_way() {
    let (bench, _) = Bench::memory();
    let seen = Arc::new(Seen::default());
    let running = Running::start(worker(&bench, &seen));
    warm_up(&bench).await;
    let act = |n| match n {
        3 => Mixed::Panics,
        5 => Mixed::Waits,
        _ => Mixed::Quick,
    };
    enqueue(&bench, (0..8).map(act)).await;
    bench.finished(16 + 8).await;
    assert_eq!(tasks(&seen, 0..8), 1);
    for n in 0..8 {
        match (n, ending(&bench, n)) {
            (3, Ending::DeadLettered { failure }) => assert_eq!(failure.kind, FailureKind::Panic),
            (3, ending) => panic!("{ending:?}"),
            (_, ending) => assert_eq!(ending, Ending::Succeeded, "{n}"),
        }
    }
    let elapsed =
        |n| bench.reports().into_iter().find(|report| report.id.to_string() == format!("job-{n}")).unwrap().elapsed;
    assert_eq!((elapsed(4), elapsed(5), elapsed(6)), (Duration::ZERO, Duration::from_millis(10), Duration::ZERO));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_type_of_which_one_waited_has_a_task_for_each_job_again() {
    let (bench, _) = Bench::memory();
    let seen = Arc::new(Seen::default());
    let running = Running::start(worker(&bench, &seen));
    warm_up(&bench).await;
    enqueue(&bench, [Mixed::Waits]).await;
    bench.finished(16 + 1).await;
    let later = (1..9).map(|n| job("job", n, Mixed::Quick));
    assert!(bench.client.enqueue_all(later).await.iter().all(Result::is_ok));
    bench.finished(16 + 9).await;
    assert_eq!(tasks(&seen, 1..9), 8);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_for_a_neighbour_that_keeps_its_thread() {
    let (bench, _) = Bench::memory();
    let seen = Arc::new(Seen::default());
    let running = Running::start(worker(&bench, &seen));
    warm_up(&bench).await;
    enqueue(&bench, [Mixed::Keeps, Mixed::Frees].into_iter().chain((2..8).map(|_| Mixed::Quick))).await;
    bench.finished(16 + 8).await;
    (0..8).for_each(|n| assert_eq!(ending(&bench, n), Ending::Succeeded, "{n}"));
    running.stop().await;
}
