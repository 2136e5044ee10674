//! Throughput on SQLite beside a bare `rusqlite` loop, in turn, as a ratio.
//!
//! `cargo bench-ratio [JOBS [ROUNDS]]` prints a table: per row the median of
//! the bare loop and of the framework, the median of the ratios taken pair by
//! pair, and how far the pairs lie apart. A spread above 30% means that the
//! machine was too busy to judge.
//!
//! The bare loop is the best we could write with the same library and the same
//! durability (write-ahead log, `synchronous=FULL`): one table, one index, as
//! many rows in a transaction as the framework has.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use worker_core::{
    Client, Registry, Worker,
    brokers::sqlite::{SqliteBroker, SqliteOptions},
};
use worker_tests::noop::{Noop, Ran};

/// Rows in one of the bare loop's transactions.
const GROUP: usize = 1_000;

/// Tasks that each wait for their own enqueue.
const TASKS: u64 = 64;

/// What each side reaches, in jobs per second.
#[derive(Clone, Copy)]
struct Rates {
    enqueue: f64,
    tasks: f64,
    process: f64,
    end_to_end: f64,
}

/// One of the rates.
type RateOf = fn(&Rates) -> f64;

#[tokio::main]
async fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(jobs), Ok(rounds)) = (numbers.next().unwrap_or(Ok(100_000)), numbers.next().unwrap_or(Ok(5))) else {
        eprintln!("usage: throughput [JOBS [ROUNDS]]");
        return ExitCode::from(2);
    };
    println!("{jobs} jobs of about 120 bytes, {rounds} rounds, SQLite {}, synchronous=FULL", rusqlite::version());
    let mut pairs = Vec::new();
    for round in 0..rounds.max(1) {
        let pair = (bare(jobs).await, framework(jobs).await);
        eprintln!(
            "round {}: bare {:.0}/s, framework {:.0}/s end to end",
            round + 1,
            pair.0.end_to_end,
            pair.1.end_to_end
        );
        pairs.push(pair);
    }
    println!("\n{:<44} {:>10} {:>12} {:>7} {:>8}", "", "bare/s", "framework/s", "ratio", "spread");
    let rows: [(&str, RateOf); 4] = [
        ("enqueue_all", |rates| rates.enqueue),
        ("64 tasks, each awaiting enqueue", |rates| rates.tasks),
        ("process, one worker, 128 slots", |rates| rates.process),
        ("enqueue_all, then process", |rates| rates.end_to_end),
    ];
    for (name, rate) in rows {
        let bare = median(pairs.iter().map(|pair| rate(&pair.0)));
        let ours = median(pairs.iter().map(|pair| rate(&pair.1)));
        let ratios: Vec<_> = pairs.iter().map(|pair| rate(&pair.1) / rate(&pair.0)).collect();
        let (low, high) =
            ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
        let ratio = median(ratios.iter().copied());
        println!("{name:<44} {bare:>10.0} {ours:>12.0} {ratio:>7.2} {:>7.0}%", 100.0 * (high - low) / ratio);
    }
    ExitCode::SUCCESS
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(jobs: u64, time: Duration) -> f64 {
    jobs as f64 / time.as_secs_f64()
}

async fn framework(jobs: u64) -> Rates {
    let folder = tempfile::tempdir().unwrap();
    let broker = SqliteBroker::open(folder.path().join("jobs.db"), SqliteOptions::default()).await.unwrap();
    let client = Client::new(Arc::new(broker));

    let started = Instant::now();
    for answer in client.enqueue_all((0..jobs).map(Noop::new)).await {
        answer.unwrap();
    }
    let enqueued = started.elapsed();
    let processed = process(&client, jobs).await;

    let (started, each) = (Instant::now(), jobs / 4 / TASKS);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let client = client.clone();
        tasks.spawn(async move {
            for n in 0..each {
                client.enqueue(Noop::new(task * each + n)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let tasks = rate(each * TASKS, started.elapsed());
    client.close().await.unwrap();
    Rates {
        enqueue: rate(jobs, enqueued),
        tasks,
        process: rate(jobs, processed),
        end_to_end: rate(jobs, enqueued + processed),
    }
}

async fn process(client: &Client, jobs: u64) -> Duration {
    let ran = Arc::new(Ran::none_of(jobs));
    let registry = Registry::new().with::<Noop>();
    let worker =
        Worker::builder(client).registry(registry).state_arc(Arc::clone(&ran)).concurrency(128).build().unwrap();
    let started = Instant::now();
    // The run ends when the last acknowledgement is on the disk.
    let report = worker.run(ran.all.notified()).await.unwrap();
    assert_eq!((report.settled, ran.count()), (jobs, jobs));
    started.elapsed()
}

async fn bare(jobs: u64) -> Rates {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (enqueued, processed) = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || bare_bulk(&path, jobs)).await.unwrap()
    };
    let tasks = bare_tasks(&path, jobs / 4).await;
    Rates {
        enqueue: rate(jobs, enqueued),
        tasks,
        process: rate(jobs, processed),
        end_to_end: rate(jobs, enqueued + processed),
    }
}

fn bare_open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.pragma_update(None, "synchronous", "full").unwrap();
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS jobs (seq INTEGER PRIMARY KEY, queue TEXT NOT NULL, state INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL);
         CREATE INDEX IF NOT EXISTS jobs_ready ON jobs (queue, seq) WHERE state = 0;",
    )
    .unwrap();
    db
}

fn bare_insert(db: &Connection, job: &Noop) {
    let id = worker_core::JobId::new().to_string();
    let body = serde_json::to_vec(job).unwrap();
    let mut insert =
        db.prepare_cached("INSERT INTO jobs (queue, state, id, body) VALUES ('default', 0, ?1, ?2)").unwrap();
    insert.execute(params![id, body]).unwrap();
}

fn bare_bulk(path: &Path, jobs: u64) -> (Duration, Duration) {
    let mut db = bare_open(path);
    let started = Instant::now();
    let mut n = 0;
    while n < jobs {
        let group = db.transaction().unwrap();
        for _ in 0..GROUP.min((jobs - n) as usize) {
            bare_insert(&group, &Noop::new(n));
            n += 1;
        }
        group.commit().unwrap();
    }
    let enqueued = started.elapsed();

    let started = Instant::now();
    let mut done = 0;
    while done < jobs {
        let group = db.transaction().unwrap();
        let claimed: Vec<(i64, Vec<u8>)> = group
            .prepare_cached(
                "UPDATE jobs SET state = 1 WHERE seq IN (SELECT seq FROM jobs WHERE queue = 'default' AND state = 0 ORDER BY seq LIMIT 100)
                 RETURNING seq, body",
            )
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (seq, body) in &claimed {
            let job: Noop = serde_json::from_slice(body).unwrap();
            std::hint::black_box(job);
            group.prepare_cached("DELETE FROM jobs WHERE seq = ?1").unwrap().execute([seq]).unwrap();
        }
        group.commit().unwrap();
        done += claimed.len() as u64;
    }
    (enqueued, started.elapsed())
}

/// As many tasks as the framework has, one thread that commits what has come together.
async fn bare_tasks(path: &Path, jobs: u64) -> f64 {
    let (sender, mut received) = mpsc::channel::<(Noop, oneshot::Sender<()>)>(1_024);
    let path = path.to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        let mut db = bare_open(&path);
        let mut waiting = Vec::new();
        while received.blocking_recv_many(&mut waiting, GROUP) > 0 {
            let group = db.transaction().unwrap();
            waiting.iter().for_each(|(job, _)| bare_insert(&group, job));
            group.commit().unwrap();
            for (_, answer) in waiting.drain(..) {
                answer.send(()).unwrap();
            }
        }
    });
    let (started, each) = (Instant::now(), jobs / TASKS);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let sender = sender.clone();
        tasks.spawn(async move {
            for n in 0..each {
                let (answer, answered) = oneshot::channel();
                sender.send((Noop::new(task * each + n), answer)).await.unwrap();
                answered.await.unwrap();
            }
        });
    }
    drop(sender);
    tasks.join_all().await;
    let reached = rate(each * TASKS, started.elapsed());
    writer.await.unwrap();
    reached
}
