//! A server that is away for a while: what a worker costs that waits for it, and whether it goes on.

use std::{fmt, fs, path::Path, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::{
    crew::Slot,
    plan::{Name, Place},
    record::{Event, Reader},
    run::{environment, producer},
    stage::Stage,
};

/// What may happen within a minute: connections that are tried,
const ATTEMPTS_MAX: u64 = 40;
/// lines that are logged,
const LINES_MAX: usize = 60;
/// and how much of a processor is taken, in percent.
const PERCENT_MAX: f64 = 2.0;

/// How long it may take until a job runs, before and after.
const RUNS_MAX: Duration = Duration::from_secs(60);

/// Ticks of the processor's time in a second, on every Linux (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

/// What came out.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct AwayReport {
    /// How long the server was away, in seconds.
    pub seconds: u64,
    /// How often the worker tried to connect.
    pub attempts: u64,
    /// How many lines it logged.
    pub lines: usize,
    /// How much of a processor it took, in percent.
    pub percent: f64,
    /// How long it took until a job ran, after the port answered again, in milliseconds.
    pub resumed_ms: Option<u64>,
    /// What is not as promised.
    pub problems: Vec<String>,
}

impl fmt::Display for AwayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, attempts, lines, percent, resumed_ms, problems } = self;
        writeln!(f, "the server was away for {seconds} s")?;
        writeln!(f, "  {attempts} connections tried, {lines} lines logged, {percent:.2}% of a processor")?;
        if let Some(resumed) = resumed_ms {
            writeln!(f, "  a job that was enqueued then ran {resumed} ms after the port answered again")?;
        }
        super::report::verdict(f, problems)
    }
}

/// Takes the server away from a worker.
///
/// # Panics
///
/// When what it needs cannot be had.
///
/// # Cancel safety
///
/// Cancel safe: what runs is killed.
pub async fn away(seconds: u64, folder: &Path) -> AwayReport {
    let plan = Name::Long.plan();
    let stage = Stage::set(Place::Nodes(1), folder).await;
    let Stage::Nodes(nodes) = &stage else { unreachable!("it is a server") };
    let (node, proxy) = &nodes[0];
    let settings = environment(&plan, &stage.url(), RUNS_MAX);
    let worker = Slot::new(folder, "worker-0".into(), &["work", "run"], &settings);
    let log = folder.join("worker-0.log");
    let mut reader = Reader::new(folder.join(&worker.name));
    worker.start();
    let id = worker.id().expect("it was started");
    enqueue(folder, 0, &settings).await;
    timeout(RUNS_MAX, ended(&mut reader)).await.expect("a job runs while all is well");

    node.keep_new_queues().await;
    node.kill();
    let (attempts, lines_before, ticks_before) = (proxy.accepted(), lines(&log), ticks(id));
    sleep(Duration::from_secs(seconds)).await;
    let attempts = proxy.accepted() - attempts;
    let lines = lines(&log) - lines_before;
    let percent = (ticks(id) - ticks_before) / TICKS / seconds as f64 * 100.0;
    node.restart().await;
    let back = Instant::now();
    enqueue(folder, 1, &settings).await;
    let resumed = timeout(RUNS_MAX, ended(&mut reader)).await.ok().map(|()| back.elapsed());
    worker.kill();

    // Most of them are in the first moments.
    let minutes = (seconds as f64 / 60.0).max(1.0);
    let mut problems = Vec::new();
    if attempts as f64 > ATTEMPTS_MAX as f64 * minutes {
        problems.push(format!("{attempts} connections were tried; {ATTEMPTS_MAX} a minute may be"));
    }
    if lines as f64 > LINES_MAX as f64 * minutes {
        problems.push(format!("{lines} lines were logged; {LINES_MAX} a minute may be"));
    }
    if percent > PERCENT_MAX {
        problems.push(format!("{percent:.1}% of a processor was taken; {PERCENT_MAX}% may be"));
    }
    if resumed.is_none() {
        problems.push(format!("no job ran within {RUNS_MAX:?} after the server was back"));
    }
    let resumed_ms = resumed.and_then(|resumed| u64::try_from(resumed.as_millis()).ok());
    AwayReport { seconds, attempts, lines, percent, resumed_ms, problems }
}

/// Enqueues one job, by a process of its own.
async fn enqueue(folder: &Path, n: usize, settings: &[(&str, String)]) {
    let first = n as u64;
    let producer = producer(folder, n, "long", first..first + 1, settings);
    producer.start();
    assert!(producer.ended().await.success(), "a job can be enqueued");
}

/// Waits until a job has ended.
async fn ended(reader: &mut Reader) {
    let mut has_ended = || {
        let more = reader.more().expect("the records can be read");
        more.iter().any(|record| record.event == Event::Succeeded)
    };
    while !has_ended() {
        sleep(Duration::from_millis(10)).await;
    }
}

fn lines(log: &Path) -> usize {
    fs::read_to_string(log).expect("the log can be read").lines().count()
}

/// The processor's time that a process took so far: fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn ticks(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process lives");
    // The second field is a name, which may have spaces in it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field = |n: usize| after.split_whitespace().nth(n - 3).and_then(|field| field.parse::<f64>().ok());
    field(14).zip(field(15)).map_or(0.0, |(user, system)| user + system)
}
