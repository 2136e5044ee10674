//! The worker processes of the system tests: jobs that leave a trace of every
//! start and end in the file `CREW_JOURNAL`, however the process ends.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use worker_core::prelude::*;

fn main() -> ExitCode {
    App::new().main()
}

/// One line, in one write: it is whole even when the process is killed right after.
fn note(event: &str, n: u64, cx: &Context) -> io::Result<()> {
    let journal = std::env::var_os("CREW_JOURNAL").ok_or_else(|| io::Error::other("no CREW_JOURNAL"))?;
    let line = format!("{event} {n} {} {} {}\n", cx.attempt(), std::process::id(), cx.enqueued_at().unix_ms());
    OpenOptions::new().append(true).create(true).open(journal)?.write_all(line.as_bytes())
}

/// Takes a while.
#[job(queue = "crew", timeout = "1m")]
async fn mark(n: u64, millis: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Ok(note("end", n, &cx)?)
}

/// The same on the blocking pool.
#[job(queue = "crew", timeout = "1m")]
#[expect(clippy::disallowed_methods, reason = "a job that blocks its thread is the point")]
fn grind(n: u64, millis: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    std::thread::sleep(Duration::from_millis(millis));
    Ok(note("end", n, &cx)?)
}

/// Blocks a thread of the runtime and never lets go of it.
#[job(queue = "crew", timeout = "20m")]
async fn seize(n: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    let (_never, received) = std::sync::mpsc::sync_channel::<()>(0);
    Ok(received.recv()?)
}

/// Never ends.
#[job(queue = "crew", timeout = "20m")]
async fn hang(n: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    std::future::pending().await
}

/// Kills its process.
#[job(queue = "crew")]
async fn die(n: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    std::process::abort();
}

/// Always fails.
#[job(queue = "crew", max_retries = 3, backoff = "500ms..1m")]
async fn fail(n: u64, cx: Context) -> JobResult {
    note("start", n, &cx)?;
    Err(JobError::from(format!("attempt {} fails on purpose", cx.attempt())))
}
