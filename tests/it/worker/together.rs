//! Quick jobs that share a task: none of them is any worse off for it.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
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
    /// Keeps its thread until one of the next two has run.
    Keeps,
    Frees,
    FreesLater,
}

/// What ran, in which task, and what it found.
#[derive(Debug, Default)]
struct Seen {
    tasks: Mutex<HashMap<String, tokio::task::Id>>,
    is_free: Mutex<bool>,
    freed: Condvar,
}

impl Seen {
    fn free(&self) {
        *self.is_free.lock().unwrap() = true;
        self.freed.notify_all();
    }
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
            Self::Frees => seen.free(),
            Self::FreesLater => {
                yield_now().await;
                seen.free();
            }
        }
        Ok(())
    }
}

fn worker(bench: &Bench, seen: &Arc<Seen>) -> WorkerBuilder {
    bench.worker_of(Registry::new().with::<Mixed>()).state_arc(Arc::clone(seen)).concurrency(64)
}

/// A worker of the memory broker that knows nothing of the type yet.
fn started() -> (Bench, Arc<Seen>, Running) {
    let (bench, _) = Bench::memory();
    let seen = Arc::new(Seen::default());
    let running = Running::start(worker(&bench, &seen));
    (bench, seen, running)
}

/// Enqueues these at once, the first as job `first`.
async fn enqueue(bench: &Bench, first: usize, jobs: impl IntoIterator<Item = Mixed>) {
    let id = |n| format!("job-{n}").parse::<JobId>().unwrap();
    let jobs = (first..).zip(jobs).map(|(n, job)| Enqueue::new(job).id(id(n)));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
}

/// Has the worker learn that the type is quick, by 16 jobs.
async fn warm_up(bench: &Bench, first: usize) {
    enqueue(bench, first, (0..16).map(|_| Mixed::Quick)).await;
    bench.finished(first + 16).await;
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
    let (bench, seen, running) = started();
    warm_up(&bench, 0).await;
    let act = |n| match n {
        19 => Mixed::Panics,
        21 => Mixed::Waits,
        _ => Mixed::Quick,
    };
    enqueue(&bench, 16, (16..24).map(act)).await;
    bench.finished(24).await;
    // Who waits ends a group, and those behind are another.
    assert_eq!((tasks(&seen, 16..22), tasks(&seen, 22..24), tasks(&seen, 16..24)), (1, 1, 2));
    for n in 16..24 {
        match (n, ending(&bench, n)) {
            (19, Ending::DeadLettered { failure }) => assert_eq!(failure.kind, FailureKind::Panic),
            (19, ending) => panic!("{ending:?}"),
            (_, ending) => assert_eq!(ending, Ending::Succeeded, "{n}"),
        }
    }
    let elapsed =
        |n| bench.reports().into_iter().find(|report| report.id.to_string() == format!("job-{n}")).unwrap().elapsed;
    assert_eq!((elapsed(20), elapsed(21), elapsed(22)), (Duration::ZERO, Duration::from_millis(10), Duration::ZERO));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_type_of_which_one_waited_has_a_task_for_each_job_again() {
    let (bench, seen, running) = started();
    warm_up(&bench, 0).await;
    enqueue(&bench, 16, [Mixed::Waits]).await;
    bench.finished(17).await;
    enqueue(&bench, 17, (0..8).map(|_| Mixed::Quick)).await;
    bench.finished(25).await;
    assert_eq!(tasks(&seen, 17..25), 8);
    running.stop().await;
}

/// A worker that takes the type for quick, and the number of the next job.
async fn sharing() -> (Bench, Arc<Seen>, Running, usize) {
    let (bench, seen, running) = started();
    // A busy machine may make one of them slow: as often as it takes.
    for first in (24..24_000).step_by(24) {
        warm_up(&bench, first - 24).await;
        enqueue(&bench, first - 8, (0..8).map(|_| Mixed::Quick)).await;
        bench.finished(first).await;
        if tasks(&seen, first - 8..first) == 1 {
            return (bench, seen, running, first);
        }
    }
    panic!("they never share a task");
}

/// Enqueues these for such a worker, and waits for their end.
async fn beside_one_that_keeps_its_thread(jobs: [Mixed; 8]) {
    let (bench, _, running, first) = sharing().await;
    enqueue(&bench, first, jobs).await;
    bench.finished(first + 8).await;
    (first..first + 8).for_each(|n| assert_eq!(ending(&bench, n), Ending::Succeeded, "{n}"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_has_ended_is_told_though_a_neighbour_keeps_their_thread() {
    let (bench, seen, running, first) = sharing().await;
    enqueue(&bench, first, [Mixed::Quick, Mixed::Keeps]).await;
    bench.finished(first + 1).await;
    assert_eq!(ending(&bench, first), Ending::Succeeded);
    seen.free();
    bench.finished(first + 2).await;
    assert_eq!(ending(&bench, first + 1), Ending::Succeeded, "it was freed, and so the other was told before");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_behind_a_neighbour_that_keeps_its_thread() {
    use Mixed::{Frees, Keeps, Quick};
    beside_one_that_keeps_its_thread([Keeps, Frees, Quick, Quick, Quick, Quick, Quick, Quick]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_goes_on_though_a_neighbour_keeps_their_thread() {
    use Mixed::{FreesLater, Keeps, Quick};
    beside_one_that_keeps_its_thread([Quick, FreesLater, Keeps, Quick, Quick, Quick, Quick, Quick]).await;
}
