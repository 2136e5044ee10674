//! apalis on SQLite, as its README shows it. What is peculiar to 1.0.0:
//!
//! * Its setup sets `synchronous = OFF`, on one connection of the pool (`src/lib.rs`): what was `Ok` is lost with the
//!   machine's power. Here its pool has FULL, as the others have, and the setup has one of its own.
//! * What is done is written down by a query (`queries/task/ack.sql`) that, without statistics of the table, reads all
//!   jobs of the worker for each that is done: the time grows with the square of the jobs. So the database is analysed
//!   before the clock.
//! * A worker that has found nothing looks again at its next heartbeat, after 30 s; so it is given a strategy that
//!   looks every 50 ms (`poll_with_interval`, from its example `config.rs`).

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage};
use peer_common::{Clock, Counter, Failure, Measured, Peer, TEXT, Work};
use serde::{Deserialize, Serialize};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{sync::oneshot, time::sleep};

static COUNTER: Counter = Counter::new();

/// Jobs fetched at once; 10 by default. "Larger batches can improve throughput."
const BATCH: usize = 100;
/// Jobs pushed in one call.
const BULK: u64 = 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noop {
    n: u64,
    text: String,
}

async fn noop(job: Noop) -> Result<(), BoxDynError> {
    drop(job);
    COUNTER.ran();
    Ok(())
}

struct Apalis;

impl Peer for Apalis {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let setup = SqlitePoolOptions::new().max_connections(1).connect_with(options(work)).await?;
        SqliteStorage::setup(&setup).await?;
        setup.close().await;
        let mut backend = storage(work, &pool(work).await?);
        let clock = Clock::start();
        let mut next = 0;
        while next < work.jobs {
            let end = work.jobs.min(next + BULK);
            backend.push_bulk((next..end).map(|n| Noop { n, text: TEXT.into() }).collect()).await?;
            next = end;
        }
        Ok(clock.stop(work.jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        COUNTER.expect(work.jobs);
        analyse(work).await?;
        let pool = pool(work).await?;
        let clock = Clock::start();
        let backend = storage(work, &pool).poll_with_interval(Duration::from_millis(50));
        let worker = WorkerBuilder::new("peer").backend(backend).build(noop);
        let (tell, told) = oneshot::channel();
        let done = async move {
            COUNTER.all().await;
            // It writes down what is done in batches of its own; if it is stopped before, some are lost.
            while unfinished(&pool).await.map_err(WorkerError::BackendError)? > 0 {
                sleep(Duration::from_millis(2)).await;
            }
            // Nobody listens where the worker has failed.
            let _ = tell.send(Instant::now());
            Ok::<_, WorkerError>(())
        };
        worker.run_until(done).await?;
        Ok(clock.stop_at(work.jobs, told.await?))
    }

    async fn count(&self, work: &Work) -> Result<u64, Failure> {
        unfinished(&pool(work).await?).await
    }
}

/// Takes statistics as a SQLite without `SQLITE_ENABLE_STAT4` does: with the histogram, in which nobody has locked a
/// job yet, the bad plan stays.
async fn analyse(work: &Work) -> Result<(), Failure> {
    let own = SqlitePoolOptions::new().max_connections(1).connect_with(options(work)).await?;
    sqlx::raw_sql("ANALYZE; DELETE FROM sqlite_stat4").execute(&own).await?;
    own.close().await;
    Ok(())
}

async fn unfinished(pool: &SqlitePool) -> Result<u64, Failure> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status <> 'Done'").fetch_one(pool).await?;
    Ok(count.try_into()?)
}

fn storage(work: &Work, pool: &SqlitePool) -> SqliteStorage<Noop> {
    SqliteStorage::new(pool).with_config(Config::default().queue(&work.queue).batch_size(BATCH))
}

async fn pool(work: &Work) -> Result<SqlitePool, Failure> {
    Ok(SqlitePoolOptions::new().connect_with(options(work)).await?)
}

fn options(work: &Work) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(&work.url).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
}

fn main() -> ExitCode {
    peer_common::run(&Apalis)
}
