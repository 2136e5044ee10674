//! Scale out: what more worker processes and more shards give, on one node and on three.
//!
//! All of them share this machine, so where the limit is can be seen, and not what more machines give.

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use worker_core::Client;

use crate::{
    child::{Child, Role},
    jobs::{none_of, sharded},
    measure::{Goal, Line, Sample},
    ours::{self, Size},
    stage::{Contest, Meter, Server, Stage},
};

const NODES: usize = 3;
const SHARDS: [u8; 3] = [1, 2, 4];
const WORKERS: [usize; 3] = [1, 2, 4];

/// Figures of one measurement.
const PROCESSED: usize = 0;
const ENQUEUED: usize = 1;

pub(crate) async fn out(stage: &Stage) -> Vec<Line> {
    let mut lines = on(stage, std::slice::from_ref(stage.server().await), stage.jobs(100_000, 1_000)).await;
    lines.extend(on(stage, &stage.cluster(NODES).await, stage.jobs(40_000, 400)).await);
    lines
}

/// Every number of workers with every number of shards, beside one worker on one queue; and the same of enqueueing.
async fn on(stage: &Stage, servers: &[Server], jobs: u64) -> Vec<Line> {
    let points = SHARDS.iter().flat_map(|shards| WORKERS.map(|workers| (*shards, workers)));
    let nodes = if servers.len() == 1 { "one node".into() } else { format!("{} nodes", servers.len()) };
    let name = |(shards, workers): (u8, usize)| format!("{nodes}, shards: {shards}, workers: {workers}");
    let mut contest = Contest::new(stage, "scale");
    for (shards, workers) in points.clone() {
        contest = contest.side(name((shards, workers)), async move || measure(servers, jobs, shards, workers).await);
    }
    let results = contest.run().await;
    let first = name((SHARDS[0], WORKERS[0]));
    let line = |what: String, point, figure| {
        results.beside(Line::rate(what, Goal::None, results.of(&name(point), figure)), &first, figure)
    };
    let processed = points.skip(1).map(|point| line(name(point), point, PROCESSED));
    let enqueued = SHARDS[1..]
        .iter()
        .map(|shards| line(format!("{nodes}, shards: {shards}, enqueue_all"), (*shards, WORKERS[0]), ENQUEUED));
    processed.chain(enqueued).collect()
}

/// Jobs per second: from the moment when all workers are told to begin to the last settlement, and enqueued before.
async fn measure(servers: &[Server], jobs: u64, shards: u8, workers: usize) -> Vec<Sample> {
    let vhost = servers[0].node.fresh_vhost().await;
    let client = Client::connect(vhost.url()).await.unwrap();
    warm_up(&client, shards).await;
    let meter = Meter::of(&[std::process::id()], servers);
    ours::enqueue_sharded(&client, 0..jobs, shards).await;
    let enqueued = meter.rate(jobs);
    let url = |n: usize| servers[n % servers.len()].node.url(vhost.name());
    let mut children: Vec<_> = (0..workers).map(|n| Child::start(&url(n), Role::Serve { shards })).collect();
    join_all(children.iter_mut().map(Child::hear)).await;
    let pids: Vec<_> = children.iter().map(Child::pid).collect();
    let meter = Meter::of(&pids, servers);
    join_all(children.iter_mut().map(Child::begin)).await;
    let settled = until_settled(&mut children, jobs).await;
    let processed = meter.rate(jobs);
    join_all(children.into_iter().map(Child::end)).await;
    let left = client.broker().inspector().unwrap().queues(&[]).await.unwrap();
    assert!(settled == jobs && left.iter().all(|queue| queue.unfinished() == 0), "{settled} of {jobs}: {left:?}");
    client.close().await.unwrap();
    vec![processed, enqueued]
}

/// So that the queues are there, and those that a worker makes.
async fn warm_up(client: &Client, shards: u8) {
    const JOBS: u64 = 100;
    ours::enqueue_sharded(client, 0..JOBS, shards).await;
    let ran = none_of(JOBS);
    let done = ours::run(ours::worker(client, sharded(shards), &ran, Size::of_prefetch(64)), &ran).await;
    assert_eq!(done.settled, JOBS);
}

/// Waits until all workers together have settled so many; how many they have then.
async fn until_settled(children: &mut [Child], jobs: u64) -> u64 {
    async fn tell(n: usize, child: &mut Child) -> (usize, u64, &mut Child) {
        (n, child.hear_settled().await, child)
    }
    let mut settled = vec![0; children.len()];
    let mut telling: FuturesUnordered<_> = children.iter_mut().enumerate().map(|(n, child)| tell(n, child)).collect();
    while settled.iter().sum::<u64>() < jobs {
        let (n, told, child) = telling.next().await.expect("there is a worker");
        settled[n] = told;
        telling.push(tell(n, child));
    }
    settled.iter().sum()
}
