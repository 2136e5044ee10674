//! Scale out: what more worker processes and more shards give, on one node and on three.
//!
//! All of them share this machine, so where the limit is can be seen, and not what more machines give.

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use worker_core::Client;

use crate::{
    child::{Child, Role},
    measure::{Goal, Line, Sample},
    ours,
    stage::{Contest, Meter, Server, Stage},
};

const NODES: usize = 3;
const SHARDS: [u8; 2] = [1, 4];
const WORKERS: [usize; 3] = [1, 2, 4];

pub(crate) async fn out(stage: &Stage) -> Vec<Line> {
    let mut lines = on(stage, std::slice::from_ref(stage.server().await), stage.jobs(100_000, 1_000)).await;
    lines.extend(on(stage, &stage.cluster(NODES).await, stage.jobs(40_000, 400)).await);
    lines
}

/// Every number of workers with every number of shards, beside one worker on one queue.
async fn on(stage: &Stage, servers: &[Server], jobs: u64) -> Vec<Line> {
    let points: Vec<_> = SHARDS.iter().flat_map(|shards| WORKERS.map(|workers| (*shards, workers))).collect();
    let name = |(shards, workers): (u8, usize)| {
        let nodes = if servers.len() == 1 { "one node".into() } else { format!("{} nodes", servers.len()) };
        format!("{nodes}, shards: {shards}, workers: {workers}")
    };
    let mut contest = Contest::new(stage, "scale");
    for (shards, workers) in points.clone() {
        let measure = async move || vec![process(servers, jobs, shards, workers).await];
        contest = contest.side(name((shards, workers)), measure);
    }
    let results = contest.run().await;
    let Some((first, others)) = points.split_first() else { return Vec::new() };
    let line = |point| {
        let name_of_point = name(point);
        let line = Line::rate(name_of_point.clone(), Goal::None, results.of(&name_of_point, 0));
        results.beside(line, &name(*first), 0)
    };
    others.iter().copied().map(line).collect()
}

/// Jobs per second that wait already, from the moment when all workers are told to begin to the last settlement.
async fn process(servers: &[Server], jobs: u64, shards: u8, workers: usize) -> Sample {
    let vhost = servers[0].node.fresh_vhost().await;
    let client = Client::connect(vhost.url()).await.unwrap();
    ours::enqueue_sharded(&client, 0..jobs, shards).await;
    let url = |n: usize| servers[n % servers.len()].node.url(vhost.name());
    let mut children: Vec<_> = (0..workers).map(|n| Child::start(&url(n), Role::Serve { shards })).collect();
    join_all(children.iter_mut().map(Child::hear)).await;
    let pids: Vec<_> = children.iter().map(Child::pid).collect();
    let meter = Meter::of(&pids, servers);
    join_all(children.iter_mut().map(Child::begin)).await;
    settle(&mut children, jobs).await;
    let sample = meter.rate(jobs);
    join_all(children.into_iter().map(Child::end)).await;
    client.close().await.unwrap();
    sample
}

/// Waits until all workers together have settled so many.
async fn settle(children: &mut [Child], jobs: u64) {
    async fn tell(n: usize, child: &mut Child) -> (usize, u64, &mut Child) {
        (n, child.settled().await, child)
    }
    let mut settled = vec![0; children.len()];
    let mut telling: FuturesUnordered<_> = children.iter_mut().enumerate().map(|(n, child)| tell(n, child)).collect();
    while settled.iter().sum::<u64>() < jobs {
        let Some((n, told, child)) = telling.next().await else { return };
        settled[n] = told;
        telling.push(tell(n, child));
    }
}
