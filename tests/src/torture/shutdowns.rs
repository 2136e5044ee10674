//! Workers that are asked to end (SIGTERM) in the middle of their work, over and over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use clap::ValueEnum;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    select,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    check::{Tally, check},
    crew::Slot,
    plan::{Name, Place},
    record::{Event, Reader, Record},
    report::Quantiles,
    run::{environment, producer},
    stage::Stage,
};
use crate::{eventually::eventually_within, rabbit::Alarm};

/// How many jobs run in a worker when it is asked to end.
pub const IN_FLIGHT: usize = 50;

/// How long a worker may finish what runs.
const GRACE: Duration = Duration::from_secs(5);

/// How much longer it may take where nobody answers to its acknowledgements.
const BEYOND: Duration = Duration::from_secs(5);

/// How long a worker may take until all of its slots are taken.
const FILLS_MAX: Duration = Duration::from_secs(60);

/// How long what is left may take.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// What is wrong with the server meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meanwhile {
    /// Nothing
    Nothing,
    /// It is short of memory, and takes no jobs
    Alarm,
    /// It is stopped, and answers to nobody
    Frozen,
    /// It is killed
    Dead,
}

/// What came out.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What was wrong with the server.
    pub meanwhile: Meanwhile,
    /// How many workers were asked to end.
    pub asked: usize,
    /// How many ended, by their exit codes.
    pub codes: BTreeMap<i32, usize>,
    /// How long that took, in milliseconds.
    pub took: Option<Quantiles>,
    /// Jobs that ran when their workers were asked to end.
    pub in_flight: usize,
    /// Those of them that did not come to their end in that worker.
    pub unfinished: usize,
    /// What became of all jobs.
    pub tally: Tally,
    /// What is not as promised.
    pub problems: Vec<String>,
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { meanwhile, asked, codes, took, in_flight, unfinished, tally, problems } = self;
        writeln!(f, "{asked} workers asked to end, {in_flight} jobs running; wrong with the server: {meanwhile:?}")?;
        let codes: Vec<_> = codes.iter().map(|(code, times)| format!("{code} ({times} times)")).collect();
        writeln!(f, "  exit codes: {}; jobs that did not finish in their worker: {unfinished}", codes.join(", "))?;
        if let Some(Quantiles { p50, p99, max, .. }) = took {
            writeln!(f, "  ended within {p50} ms (p50), {p99} ms (p99), {max} ms (max)")?;
        }
        let Tally { acknowledged, lost, duplicated, unexpected, .. } = tally;
        writeln!(f, "  acknowledged {acknowledged}, lost {lost}, unexpected {unexpected}, duplicated {duplicated}")?;
        super::report::verdict(f, problems)
    }
}

/// How one worker ended.
struct End {
    code: Option<i32>,
    took: Duration,
    in_flight: usize,
    unfinished: usize,
}

/// Asks `together` workers at once to end, `rounds` times, and counts.
///
/// # Panics
///
/// When what it needs cannot be had.
///
/// # Cancel safety
///
/// Cancel safe: what runs is killed.
pub async fn shutdowns(
    rounds: usize,
    together: usize,
    meanwhile: Meanwhile,
    folder: &Path,
    tell: impl Fn(usize),
) -> ShutdownReport {
    let mut plan = Name::Long.plan();
    // Enough for all workers: what runs, what is prefetched, and some more.
    plan.backlog = (together * IN_FLIGHT * 3) as u64;
    let stage = Stage::set(Place::Nodes(1), folder).await;
    let settings = environment(&plan, &stage.url(), GRACE);
    let workers: Vec<_> =
        (0..together).map(|n| Slot::new(folder, format!("worker-{n}"), &["work", "run"], &settings)).collect();
    let producer = producer(folder, 0, "long", 0..u64::MAX, &settings);
    let mut readers: Vec<_> = workers.iter().map(|slot| Reader::new(folder.join(&slot.name))).collect();
    // Before all others: RabbitMQ 3.10 was seen to end connections with an internal error (541) while eight workers
    // declared the same queues at once.
    declare(&workers[0], &folder.join("worker-0.log")).await;
    let stop = CancellationToken::new();
    let ending = async {
        let mut ends = Vec::new();
        for _ in 0..rounds {
            ends.extend(round(&stage, &workers, &mut readers, meanwhile).await);
            tell(ends.len());
        }
        ends
    };
    let ends = select! {
        ends = ending => ends,
        () = producer.keep(&stop) => unreachable!("it has more jobs than can be enqueued"),
    };
    producer.kill();
    // What a server could not be told of is done once more, and each worker takes one of those at a time.
    workers.iter().for_each(Slot::start);
    let has_drained = stage.drains(DRAIN_MAX).await;
    workers.iter().for_each(Slot::end);
    let last_ends = timeout(GRACE + BEYOND, join_all(workers.iter().map(Slot::ended))).await;
    let slots = workers.iter().chain([&producer]);
    let records: Vec<Record> =
        slots.flat_map(|slot| Reader::new(folder.join(&slot.name)).more().expect("the records can be read")).collect();
    let jobs = records.iter().filter(|record| record.event == Event::Tried).map(|record| record.n + 1).max();
    let tally = check(&plan.mix, jobs.unwrap_or_default(), records, &stage.dead().await, None);
    let mut report = report(meanwhile, &ends, tally);
    if !has_drained {
        report.problems.push(format!("{} jobs were left", stage.left().await));
    }
    if !last_ends.is_ok_and(|ends| ends.iter().all(std::process::ExitStatus::success)) {
        report.problems.push("not all workers with nothing to do ended well".into());
    }
    report
}

/// Lets a worker declare all queues, and end.
async fn declare(worker: &Slot, log: &Path) {
    worker.start();
    let started = || std::fs::read_to_string(log).is_ok_and(|log| log.contains("worker started"));
    eventually_within(FILLS_MAX, "a worker started", || async { started().then_some(()) }).await;
    worker.end();
    worker.ended().await;
}

/// Starts all workers, asks them to end when each is full, and waits until they have.
async fn round(stage: &Stage, workers: &[Slot], readers: &mut [Reader], meanwhile: Meanwhile) -> Vec<End> {
    let Stage::Nodes(nodes) = stage else { unreachable!("it is a server") };
    let node = &nodes[0].0;
    let full = join_all(workers.iter().zip(readers).map(async |(worker, reader)| {
        worker.start();
        let mut running = BTreeSet::new();
        let filled = timeout(FILLS_MAX, async {
            while running.len() < IN_FLIGHT {
                sleep(Duration::from_millis(5)).await;
                follow(reader, &mut running);
            }
        });
        filled.await.expect("a worker's slots are taken");
        (worker, reader, running)
    }))
    .await;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Alarm => node.set_alarm(Alarm::Memory).await,
        Meanwhile::Frozen => node.freeze(),
        Meanwhile::Dead => {
            node.keep_new_queues().await;
            node.kill();
        }
    }
    let ends = join_all(full.into_iter().map(async |(worker, reader, mut running)| {
        follow(reader, &mut running);
        let in_flight = running.len();
        worker.end();
        let asked = Instant::now();
        let status = timeout(2 * (GRACE + BEYOND), worker.ended()).await;
        let took = asked.elapsed();
        if status.is_err() {
            worker.kill();
            worker.ended().await;
        }
        follow(reader, &mut running);
        End { code: status.ok().and_then(|status| status.code()), took, in_flight, unfinished: running.len() }
    }))
    .await;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Alarm => node.clear_alarm(Alarm::Memory).await,
        Meanwhile::Frozen => node.thaw(),
        Meanwhile::Dead => node.restart().await,
    }
    ends
}

/// Follows which jobs run in a worker.
fn follow(reader: &mut Reader, running: &mut BTreeSet<u64>) {
    for record in reader.more().expect("the records can be read") {
        match record.event {
            Event::Started => drop(running.insert(record.n)),
            Event::Succeeded | Event::Failed => drop(running.remove(&record.n)),
            _ => {}
        }
    }
}

fn report(meanwhile: Meanwhile, ends: &[End], tally: Tally) -> ShutdownReport {
    let mut problems = Vec::new();
    let well = meanwhile == Meanwhile::Nothing;
    let within = if well { GRACE } else { GRACE + BEYOND };
    let late = ends.iter().filter(|end| end.took > within).count();
    if late > 0 {
        problems.push(format!("{late} workers took longer than {within:?}"));
    }
    let died = ends.iter().filter(|end| end.code.is_none()).count();
    if died > 0 {
        problems.push(format!("{died} workers did not end by themselves"));
    }
    let unfinished = ends.iter().map(|end| end.unfinished).sum();
    if unfinished > 0 {
        problems.push(format!("{unfinished} jobs that ran did not come to their end"));
    }
    let mut codes = BTreeMap::new();
    for code in ends.iter().filter_map(|end| end.code) {
        *codes.entry(code).or_default() += 1;
    }
    if well && codes.keys().any(|code| *code != 0) {
        problems.push(format!("workers that finished all ended with another code than 0: {codes:?}"));
    }
    if !tally.is_valid() {
        problems.push("not every job came to the one end that was meant for it".into());
    }
    let finished: usize = ends.iter().map(|end| end.in_flight - end.unfinished).sum();
    let duplicates_max = match meanwhile {
        Meanwhile::Nothing => 0,
        Meanwhile::Alarm | Meanwhile::Frozen | Meanwhile::Dead => finished as u64 + tally.unknown,
    };
    if tally.duplicated > duplicates_max {
        problems.push(format!("{} duplicates, and there may be {duplicates_max}", tally.duplicated));
    }
    ShutdownReport {
        meanwhile,
        asked: ends.len(),
        codes,
        took: Quantiles::of(ends.iter().filter_map(|end| u64::try_from(end.took.as_millis()).ok()).collect()),
        in_flight: ends.iter().map(|end| end.in_flight).sum(),
        unfinished,
        tally,
        problems,
    }
}
