//! P6: what a SQLite file lets through with `synchronous=FULL`, beside a bare loop that commits in groups.

use std::time::Instant;

use tokio::task::spawn_blocking;

use crate::{
    bare::sqlite,
    measure::{Goal, Line, Sample},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Stage},
};

/// Tasks that each wait for their own enqueue.
const TASKS: u64 = 64;

const BARE: &str = "bare group commit";
const OURS: &str = "framework";

pub(crate) async fn throughput(stage: &Stage) -> Vec<Line> {
    let jobs = stage.jobs(200_000, 2_000);
    let of_tasks = jobs / 4 / TASKS * TASKS;
    let contest = Contest::new(stage, "P6");
    let contest = contest.side(BARE, async || bare(stage, jobs, of_tasks).await);
    let contest = contest.side(OURS, async || framework(stage, jobs, of_tasks).await);
    let results = contest.run().await;
    let line = |n: usize, what: &str, goal| results.beside(Line::rate(what, goal, results.of(OURS, n)), BARE, n);
    vec![
        line(0, "enqueue_all, then process: end to end", Goal::RatioAtLeast(0.50)),
        line(1, "enqueue_all", Goal::None),
        line(2, "process, one worker, 128 slots", Goal::None),
        line(3, "64 tasks, each awaiting its enqueue", Goal::RatioAtLeast(0.85)),
    ]
}

async fn bare(stage: &Stage, jobs: u64, of_tasks: u64) -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let mut db = sqlite::open(&path);
    let (both, first) = (stage.meter(), stage.meter());
    let began = Instant::now();
    let storing = spawn_blocking(move || {
        sqlite::store(&mut db, jobs);
        db
    });
    let mut db = storing.await.unwrap();
    let (enqueue, second, enqueued) = (first.rate(jobs), stage.meter(), began.elapsed());
    spawn_blocking(move || sqlite::work(&mut db, jobs)).await.unwrap();
    let process = second.rate_in(jobs, began.elapsed() - enqueued);
    let both = both.rate_in(jobs, began.elapsed());
    let meter = stage.meter();
    sqlite::store_from_tasks(&path, TASKS, of_tasks).await;
    vec![both, enqueue, process, meter.rate(of_tasks)]
}

async fn framework(stage: &Stage, jobs: u64, of_tasks: u64) -> Vec<Sample> {
    let site = Site::new(stage, Kind::Sqlite).await;
    let (both, first) = (stage.meter(), stage.meter());
    let began = Instant::now();
    ours::enqueue_all(&site.client, 0..jobs).await;
    let (enqueue, second, enqueued) = (first.rate(jobs), stage.meter(), began.elapsed());
    // How many it holds is left to it, as with everybody who sets nothing.
    let done = ours::process(&site.client, jobs, Size::of_slots(128)).await - began;
    let process = second.rate_in(jobs, done - enqueued);
    let both = both.rate_in(jobs, done);
    let meter = stage.meter();
    ours::enqueue_from_tasks(&site.client, TASKS, of_tasks).await;
    let tasks = meter.rate(of_tasks);
    site.close().await;
    vec![both, enqueue, process, tasks]
}
