//! `rusqlite` alone: one table, one index, one writer, and a group of jobs in every transaction.
//!
//! The durability is the framework's: a write-ahead log and `synchronous=FULL`.

use std::{
    hint::black_box,
    path::Path,
    sync::mpsc as threads,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
};
use worker_core::JobId;
use worker_tests::noop::Noop;

/// Rows in one transaction at most.
const GROUP: usize = 1_000;

/// Rows claimed and deleted in one transaction.
const CLAIMED: usize = 100;

/// The table, made where it is missing.
pub(crate) fn open(path: &Path) -> Connection {
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

fn insert(db: &Connection, job: &Noop) {
    let id = JobId::new().to_string();
    let body = serde_json::to_vec(job).unwrap();
    let mut insert =
        db.prepare_cached("INSERT INTO jobs (queue, state, id, body) VALUES ('default', 0, ?1, ?2)").unwrap();
    insert.execute(params![id, body]).unwrap();
}

/// Stores jobs in groups.
pub(crate) fn store(db: &mut Connection, jobs: u64) {
    let mut n = 0;
    while n < jobs {
        let group = db.transaction().unwrap();
        for _ in 0..GROUP.min((jobs - n) as usize) {
            insert(&group, &Noop::new(n));
            n += 1;
        }
        group.commit().unwrap();
    }
}

/// Claims, decodes and deletes jobs until so many are done.
pub(crate) fn work(db: &mut Connection, jobs: u64) {
    let mut done = 0;
    while done < jobs {
        let group = db.transaction().unwrap();
        let claimed = claim(&group, CLAIMED);
        for (seq, body) in &claimed {
            black_box(serde_json::from_slice::<Noop>(body).unwrap());
            group.prepare_cached("DELETE FROM jobs WHERE seq = ?1").unwrap().execute([seq]).unwrap();
        }
        group.commit().unwrap();
        done += claimed.len() as u64;
    }
}

fn claim(db: &Connection, most: usize) -> Vec<(i64, Vec<u8>)> {
    let mut claim = db
        .prepare_cached(
            "UPDATE jobs SET state = 1 WHERE seq IN (SELECT seq FROM jobs WHERE queue = 'default' AND state = 0 ORDER BY seq LIMIT ?1)
             RETURNING seq, body",
        )
        .unwrap();
    let claimed = claim.query_map([most as i64], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    claimed.map(Result::unwrap).collect()
}

/// So many tasks that each wait for their own job to be stored, and one thread that commits what has come together.
pub(crate) async fn store_from_tasks(path: &Path, tasks: u64, jobs: u64) {
    let (sender, mut received) = mpsc::channel::<(Noop, oneshot::Sender<()>)>(1_024);
    let path = path.to_owned();
    let writer = spawn_blocking(move || {
        let mut db = open(&path);
        let mut waiting = Vec::new();
        while received.blocking_recv_many(&mut waiting, GROUP) > 0 {
            let group = db.transaction().unwrap();
            waiting.iter().for_each(|(job, _)| insert(&group, job));
            group.commit().unwrap();
            for (_, answer) in waiting.drain(..) {
                answer.send(()).unwrap();
            }
        }
    });
    let mut storing = JoinSet::new();
    for task in 0..tasks {
        let sender = sender.clone();
        storing.spawn(async move {
            for n in 0..jobs / tasks {
                let (answer, answered) = oneshot::channel();
                sender.send((Noop::new(task * (jobs / tasks) + n), answer)).await.unwrap();
                answered.await.unwrap();
            }
        });
    }
    storing.join_all().await;
    drop(sender);
    writer.await.unwrap();
}

/// How long each of so many jobs takes, one at a time, from its insert to the thread that has claimed it.
#[expect(clippy::disallowed_methods, reason = "the pause between two jobs is part of what is measured")]
pub(crate) fn latencies(path: &Path, jobs: usize, pause: Duration) -> Vec<Duration> {
    let (stored, waiting) = threads::sync_channel::<()>(1);
    let (begun, began) = threads::sync_channel::<Instant>(1);
    let mut db = open(path);
    let consumer = {
        let mut db = open(path);
        thread::spawn(move || {
            while waiting.recv().is_ok() {
                let group = db.transaction().unwrap();
                let claimed = claim(&group, 1);
                group.commit().unwrap();
                black_box(serde_json::from_slice::<Noop>(&claimed[0].1).unwrap());
                begun.send(Instant::now()).unwrap();
                db.execute("DELETE FROM jobs WHERE seq = ?1", [claimed[0].0]).unwrap();
            }
        })
    };
    let mut times = Vec::new();
    for n in 0..jobs {
        thread::sleep(pause);
        let called = Instant::now();
        let group = db.transaction().unwrap();
        insert(&group, &Noop::new(n as u64));
        group.commit().unwrap();
        stored.send(()).unwrap();
        times.push(began.recv().unwrap() - called);
    }
    drop(stored);
    consumer.join().unwrap();
    times
}
