//! A process that enqueues its share of the jobs, whatever comes.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;
use worker_core::{Client, EnqueueError, EnqueueErrorKind};
use worker_tests::torture::{
    nemesis::allowed,
    plan::{Name, Plan},
    record::{Event, Reader, Record, Writer, count},
    run::CANARY,
};

use crate::jobs::toil;

/// Enqueued at once.
const BATCH: u64 = 100;

/// The pause after an error, and while enough waits.
const PAUSE: Duration = Duration::from_millis(50);

/// Enqueues the jobs from `first` to `end`, without those that a process before this one has tried.
///
/// # Errors
///
/// The records cannot be kept, or the broker refuses a job.
pub(crate) async fn produce(name: Name, first: u64, end: u64, records: PathBuf) -> Result<(), String> {
    let mut plan = name.plan();
    if let Some(backlog) = env::var("TORTURE_BACKLOG").ok().and_then(|backlog| backlog.parse().ok()) {
        plan.backlog = backlog;
    }
    // What was tried and not answered stays open: its producer is gone.
    let tried = Reader::new(records.clone()).more().map_err(|error| error.to_string())?;
    let next = tried.iter().filter(|record| record.event == Event::Tried).map(|record| record.n + 1).max();
    let writer = Writer::append(&records).map_err(|error| error.to_string())?;
    let client = loop {
        match Client::from_env().await {
            Ok(client) => break client,
            // The server is away for longer than a start waits for it.
            Err(error) => eprintln!("{error}"),
        }
        sleep(PAUSE).await;
    };
    let folder = records.parent().unwrap_or_else(|| Path::new("."));
    let mut from = next.unwrap_or(first);
    while from < end {
        let to = end.min(from + BATCH);
        wait_for_room(&plan, from - first, folder).await;
        enqueue(&client, &plan, from..to, &writer).await?;
        from = to;
    }
    client.close().await.map_err(|error| error.to_string())
}

/// Waits until few enough jobs wait, of which each that ran has made two records, and until it is allowed.
async fn wait_for_room(plan: &Plan, mine: u64, folder: &Path) {
    let room = || (count(folder, "worker").unwrap_or_default() / 2).saturating_add(plan.backlog);
    while mine.saturating_mul(plan.producers as u64) >= room().min(allowed(folder)) {
        sleep(PAUSE).await;
    }
}

/// Enqueues until the broker has taken each, trying again under the same ids.
async fn enqueue(client: &Client, plan: &Plan, jobs: std::ops::Range<u64>, writer: &Writer) -> Result<(), String> {
    let note = |event, of: &[u64]| {
        writer.write(of.iter().map(|&n| Record::now(event, n, 0))).map_err(|error| error.to_string())
    };
    let mut open: Vec<u64> = jobs.collect();
    let make =
        |&n: &u64| toil::new(n, plan.mix.fate(n), plan.mix.millis(n), format!("{CANARY} {n}")).bundle(plan.bundle);
    note(Event::Tried, &open)?;
    let mut answers = client.enqueue_all(open.iter().map(make)).await;
    loop {
        let (mut taken, mut unknown, mut not_taken, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut still_open = Vec::new();
        for (n, answer) in open.into_iter().zip(answers) {
            match answer {
                Ok(_) => taken.push(n),
                Err(error) => {
                    match error.kind() {
                        EnqueueErrorKind::Indeterminate => unknown.push(n),
                        // Unroutable: its queue was deleted a moment ago, and is declared anew by the next try.
                        EnqueueErrorKind::Unavailable | EnqueueErrorKind::Unroutable => not_taken.push(n),
                        _ => return Err(error.to_string()),
                    }
                    still_open.push(n);
                    again.push(EnqueueError::into_job(error).ok_or("an error without its job")?);
                }
            }
        }
        note(Event::Acknowledged, &taken)?;
        note(Event::Unknown, &unknown)?;
        note(Event::NotTaken, &not_taken)?;
        open = still_open;
        if open.is_empty() {
            return Ok(());
        }
        sleep(PAUSE).await;
        note(Event::Tried, &open)?;
        answers = client.enqueue_all(again).await;
    }
}
