//! How late a delayed job starts on RabbitMQ; `cargo it how_late --nocapture` prints it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use worker_core::{Client, Context, Enqueue, Handler, Job, JobError, JobResult, Registry, Worker, seconds};
use worker_tests::{eventually::soon, rabbit::shared_vhost};

use crate::bench::Running;

/// Jobs for each kind of wait, enqueued one after the other so that they are not due as one.
const EACH: usize = 20;

/// The longest that a job may be late where several suites share a machine.
const LATE_MAX: Duration = Duration::from_secs(3);

const RETRY: Duration = seconds(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Alarm {
    kind: String,
    number: usize,
}

impl Job for Alarm {
    const NAME: &'static str = "alarm";
    const QUEUE: &'static str = "alarms";
    type Return = ();
}

/// Which alarm began, and when.
struct Begun(mpsc::Sender<(Alarm, u32, Instant)>);

impl Handler for Alarm {
    async fn run(self, cx: Context) -> JobResult<()> {
        let retries = self.kind == "retry 5s" && cx.attempt() == 1;
        cx.state::<Begun>()?.0.send((self, cx.attempt(), Instant::now())).await?;
        if retries { Err(JobError::retry_in(RETRY, "again")) } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_late_a_delayed_job_starts() {
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    let (begun, mut begins) = mpsc::channel(16 * EACH);
    let worker = Worker::builder(&client).registry(Registry::new().with::<Alarm>()).state(Begun(begun)).concurrency(64);
    let running = Running::start(worker);
    let mut due = BTreeMap::new();
    // The first of each only makes the queues in which the others wait.
    for number in 0..=EACH {
        for (kind, delay) in [("50ms", 50), ("1s", 1_000), ("3s", 3_000), ("retry 5s", 0)] {
            let (delay, job) = (Duration::from_millis(delay), Alarm { kind: kind.into(), number });
            due.insert((kind.to_owned(), number), Instant::now() + delay);
            let job = Enqueue::new(job);
            client.enqueue(if delay.is_zero() { job } else { job.delay(delay) }).await.unwrap();
        }
    }
    let mut late: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    while late.values().map(Vec::len).sum::<usize>() < 4 * EACH {
        let (Alarm { kind, number }, attempt, at) = soon("an alarm began", begins.recv()).await.unwrap();
        let key = (kind.clone(), number);
        if kind == "retry 5s" && attempt == 1 {
            due.insert(key, at + RETRY);
        } else if number > 0 {
            let lateness = at.checked_duration_since(due[&key]).unwrap_or_else(|| panic!("{kind} {number} was early"));
            late.entry(kind).or_default().push(lateness);
        }
    }
    for (kind, mut late) in late {
        late.sort_unstable();
        let (median, longest) = (late[late.len() / 2], late[late.len() - 1]);
        println!("{kind:>8}: p50 {:>6.1} ms, max {:>6.1} ms", median.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3);
        assert!(longest < LATE_MAX, "{kind} was {longest:?} late");
    }
    running.stop().await;
    client.close().await.unwrap();
}
