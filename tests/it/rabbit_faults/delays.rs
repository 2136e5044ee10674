//! Ten thousand waits of all lengths, over a node that dies among them.
//!
//! `cargo it ten_thousand_random_delays --nocapture` prints how late they were.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};
use worker_core::{Context, Enqueue, Handler, Job, JobResult, Registry, Worker};

use super::scene::{LONG, client, victim};
use crate::bench::Running;

const JOBS: usize = 10_000;

/// From the first delay to the last.
const DELAYS_MS: std::ops::Range<u64> = 100..30_000;

/// When the node dies, after the last enqueue.
const DIES_AFTER: Duration = Duration::from_secs(8);

/// How late a job may be on a machine that is busy with other tests. What is reached on a quiet one is printed.
const LATE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wake {
    n: usize,
}

impl Job for Wake {
    const NAME: &'static str = "wake";
    const QUEUE: &'static str = "wakes";
    type Return = ();
}

struct Begun(mpsc::Sender<(usize, Instant)>);

impl Handler for Wake {
    async fn run(self, cx: Context) -> JobResult<()> {
        cx.state::<Begun>()?.0.send((self.n, Instant::now())).await?;
        Ok(())
    }
}

/// The time below which so many hundredths of them are, in milliseconds.
fn percentile(late: &mut [Duration], hundredths: usize) -> f64 {
    late.sort_unstable();
    let at = (late.len() * hundredths / 100).min(late.len() - 1);
    late[at].as_secs_f64() * 1e3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_random_delays_over_a_killed_node_none_is_lost_and_none_early() {
    let victim = victim().await;
    let vhost = victim.node.fresh_vhost().await;
    let client = client(victim.node.amqp_port(), vhost.name(), |_| {}).await;
    let (begun, mut begins) = mpsc::channel(2 * JOBS);
    let worker = Worker::builder(&client).registry(Registry::new().with::<Wake>()).state(Begun(begun)).concurrency(64);
    let running = Running::start(worker);
    // Makes the levels, which a real program has for long.
    let first = (0..15).map(|level| Enqueue::new(Wake { n: JOBS }).delay(Duration::from_millis(1 << level)));
    for answer in client.enqueue_all(first).await {
        answer.unwrap();
    }
    victim.node.keep_new_queues().await;

    // The same every time.
    let mut random = fastrand::Rng::with_seed(7);
    let delays: Vec<_> = (0..JOBS).map(|_| Duration::from_millis(random.u64(DELAYS_MS))).collect();
    let mut due = Vec::with_capacity(JOBS);
    for (at, batch) in delays.chunks(500).enumerate() {
        let jobs = batch.iter().enumerate().map(|(n, delay)| Enqueue::new(Wake { n: at * 500 + n }).delay(*delay));
        let asked = Instant::now();
        for answer in client.enqueue_all(jobs).await {
            answer.unwrap();
        }
        // Not before it was asked for; a wait may begin as late as the answer.
        due.extend(batch.iter().map(|delay| (asked + *delay, Instant::now() + *delay)));
    }
    let enqueued = Instant::now();
    let mut starts: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut duplicates = 0;
    let mut note = |(n, at): (usize, Instant)| {
        if n < JOBS {
            duplicates += usize::from(starts.insert(n, at).is_some());
        }
        starts.len()
    };
    while enqueued.elapsed() < DIES_AFTER {
        if let Ok(Some(begin)) = timeout(Duration::from_millis(50), begins.recv()).await {
            note(begin);
        }
    }
    let down = Instant::now();
    victim.node.restart().await;
    let up = Instant::now();
    let rest = async { while note(begins.recv().await.expect("the worker lives")) < JOBS {} };
    timeout(LONG + LATE_MAX, rest).await.expect("all run in the end");
    running.stop().await;

    let (mut while_up, mut after) = (Vec::new(), Vec::new());
    for (n, at) in &starts {
        let (earliest, latest) = due[*n];
        assert!(*at >= earliest, "job {n} was {:?} early", earliest - *at);
        // What was on its way when the node died, or became due without it, could not start before it was back.
        if *at < down || earliest > up + Duration::from_secs(2) {
            while_up.push(at.saturating_duration_since(latest));
        } else {
            after.push(at.saturating_duration_since(latest.max(up)));
        }
    }
    println!("down for {:.1} s, {duplicates} started twice", (up - down).as_secs_f64());
    for (what, late) in [("while it was up", &mut while_up), ("after its return", &mut after)] {
        let [p50, p99, all] = [50, 99, 100].map(|hundredths| percentile(late, hundredths));
        println!("{what}: {} jobs, late by p50 {p50:.0} ms, p99 {p99:.0} ms, at most {all:.0} ms", late.len());
        assert!(all < LATE_MAX.as_secs_f64() * 1e3, "{what}: {all} ms");
    }
}
