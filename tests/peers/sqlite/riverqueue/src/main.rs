//! River, its Rust client, on SQLite, as its example `sqlite.rs` shows it: WAL, and `synchronous` is FULL by default.
//!
//! What is not the default: how many jobs run at once, and the pause between two fetches, of which its documentation
//! says that it limits throughput (`QueueConfig::with_fetch_cooldown`; 100 ms).

use std::{process::ExitCode, time::Duration};

use peer_common::{Clock, Counter, Failure, Measured, Peer, TEXT, Work};
use riverqueue::{
    Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers,
    migrate::SqliteMigrator,
    sqlx::{
        self, SqlitePool,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

static COUNTER: Counter = Counter::new();

/// Jobs that run at once, and that one fetch claims.
const WORKERS: usize = 1_000;
/// The shortest that it takes.
const COOLDOWN: Duration = Duration::from_millis(1);
/// Jobs inserted in one call.
const BULK: u64 = 1_000;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    n: u64,
    text: String,
}

async fn noop(_: WorkContext, job: Job<Noop>) -> Result<WorkOutcome, std::io::Error> {
    drop(job);
    COUNTER.ran();
    Ok(WorkOutcome::Complete)
}

struct River;

impl Peer for River {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let pool = pool(work).await?;
        SqliteMigrator::new(pool.clone()).migrate_up().await?;
        let mut workers = Workers::new();
        workers.add_fn(noop)?;
        let client = Client::builder(pool).workers(workers).build()?;
        let clock = Clock::start();
        let mut next = 0;
        while next < work.jobs {
            let end = work.jobs.min(next + BULK);
            client.insert_many((next..end).map(|n| Noop { n, text: TEXT.into() })).await?;
            next = end;
        }
        Ok(clock.stop(work.jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        COUNTER.expect(work.jobs);
        let pool = pool(work).await?;
        let mut workers = Workers::new();
        workers.add_fn(noop)?;
        let clock = Clock::start();
        let queue = QueueConfig::new(WORKERS).with_fetch_cooldown(COOLDOWN).with_fetch_poll_interval(COOLDOWN);
        let client = Client::builder(pool.clone()).workers(workers).queue("default", queue).build()?;
        let mut run = client.start()?;
        COUNTER.all().await;
        // It writes down what is done in batches of its own.
        while unfinished(&pool).await? > 0 {
            sleep(Duration::from_millis(2)).await;
        }
        let measured = clock.stop(work.jobs);
        run.stop().await?;
        pool.close().await;
        Ok(measured)
    }

    async fn count(&self, work: &Work) -> Result<u64, Failure> {
        unfinished(&pool(work).await?).await
    }
}

async fn unfinished(pool: &SqlitePool) -> Result<u64, Failure> {
    let query = "SELECT count(*) FROM river_job WHERE state <> 'completed'";
    let count: i64 = sqlx::query_scalar(query).fetch_one(pool).await?;
    Ok(count.try_into()?)
}

async fn pool(work: &Work) -> Result<SqlitePool, Failure> {
    let options = SqliteConnectOptions::new()
        .filename(&work.url)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5));
    Ok(SqlitePoolOptions::new().connect_with(options).await?)
}

fn main() -> ExitCode {
    peer_common::run(&River)
}
