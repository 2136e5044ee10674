//! A run: the work and the faults side by side, then all is healed and must come to its end, then it is counted.

use std::{
    fs,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::{
    join, select,
    time::{Instant, sleep},
    try_join,
};
use tokio_util::sync::CancellationToken;

use super::{
    check::{Tally, check},
    crew::Slot,
    fate::STARTS_MAX,
    nemesis::{Deed, Scene, order},
    plan::{Fault, Place, Plan},
    record::{Reader, Record},
    report::{Report, duplicates_max, gone_max, innocent_max, resumed},
    stage::{PASSWORD, Stage},
};

/// How long all that is left may take when nothing bad happens any more: retries, suspects, a frozen worker's lease.
const DRAIN_MAX: Duration = Duration::from_secs(180);

/// How long a producer may wait for an answer: the 10 s that an enqueue has, and something for a busy machine.
const ANSWER_MS_MAX: u64 = 12_000;

/// How long a worker may finish what runs.
const GRACE: Duration = Duration::from_secs(10);

/// How long a SQLite worker keeps its jobs when it is frozen.
const LEASE_MS: u64 = 2_000;

/// The signal of which a worker dies by a job that kills it.
const SIGABRT: i32 = 6;

/// In every payload, and in nothing that anyone says.
pub const CANARY: &str = "canary-of-a-payload";

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Jobs that have ended, about.
    pub done: AtomicU64,
    /// Faults that were begun.
    pub faults: AtomicU64,
}

/// Runs a plan in an empty folder.
///
/// # Panics
///
/// When what a run needs cannot be had.
///
/// # Cancel safety
///
/// Cancel safe: what runs is killed.
pub async fn run(name: &str, plan: &Plan, seed: u64, folder: &Path, progress: Arc<Progress>) -> Report {
    let began = Instant::now();
    let stage = Stage::set(plan.place, folder).await;
    let broker = stage.version().await;
    let (workers, producers) = crews(name, plan, &stage.url(), folder);
    declare(&stage, plan, folder).await;
    let (end_work, end_production) = (CancellationToken::new(), CancellationToken::new());
    let scene = Scene {
        stage: &stage,
        workers: &workers,
        producers: &producers,
        folder,
        jobs: plan.jobs,
        gone: AtomicU64::new(0),
        frozen_ms_max: if plan.place == Place::File { 2 * LEASE_MS } else { 8_000 },
    };
    let mut problems = Vec::new();
    let producing = async {
        // Nobody is waited for who does nothing.
        select! {
            _ = join_all(producers.iter().map(|slot| slot.keep(&end_production))) => Ok(()),
            standstill = scene.until_done(u64::MAX) => standstill,
        }
    };
    let faults = order(&plan.faults, &mut Rng::with_seed(seed));
    let raging = scene.rage(faults, seed, |_| {
        progress.faults.fetch_add(1, Ordering::Relaxed);
    });
    let story = async {
        let raged = try_join!(raging, producing);
        end_production.cancel();
        producers.iter().for_each(Slot::kill);
        let deeds = raged.map_or_else(
            |standstill| {
                problems.push(standstill);
                Vec::new()
            },
            |(deeds, ())| deeds,
        );
        if !stage.drains(DRAIN_MAX).await {
            problems.push(format!("{} jobs were still there after {DRAIN_MAX:?} without a fault", stage.left().await));
        }
        end_work.cancel();
        deeds
    };
    let working = async {
        select! {
            _ = join_all(workers.iter().map(|slot| slot.keep(&end_work))) => {}
            () = ask_to_end(&workers, &end_work) => {}
        }
    };
    let (deeds, ()) = select! {
        both = async { join!(story, working) } => both,
        () = watch(&scene, &progress) => unreachable!("it watches for ever"),
    };
    let records = read(&workers, &producers, folder);
    let deletions = deeds.iter().filter(|deed| deed.fault == Fault::DeleteQueue);
    let deleted_at = deletions.map(|deed| deed.healed_at).max();
    let tally = check(&plan.mix, plan.jobs, records.iter().copied(), &stage.dead().await, deleted_at);
    let killed = (plan.mix.kills > 0).then_some(SIGABRT);
    problems.extend(workers.iter().flat_map(|slot| slot.ends(killed)));
    problems.extend(producers.iter().flat_map(|slot| slot.ends(None)));
    problems.extend(canaries(folder));
    let starts = |slots: &[Slot]| slots.iter().map(Slot::starts).sum::<usize>();
    let mut report = Report {
        plan: name.to_owned(),
        seed,
        broker,
        seconds: began.elapsed().as_secs_f64(),
        jobs: plan.jobs,
        faults: deeds.iter().fold(std::collections::BTreeMap::new(), |mut all, deed| {
            *all.entry(deed.fault.name()).or_default() += 1;
            all
        }),
        processes: starts(&workers) + starts(&producers),
        duplicates_max: duplicates_max(plan, &deeds, starts(&workers), &tally),
        innocent_max: innocent_max(plan, &deeds, starts(&workers)),
        resumed: resumed(&deeds, &records),
        gone_max: gone_max(plan, &deeds, scene.gone.load(Ordering::Relaxed)),
        tally,
        problems,
    };
    let more = problems_of(plan, &report, &deeds);
    report.problems.extend(more);
    report
}

/// Makes all queues, down to those for waits, before anything is harmed, as `topology apply` does for an operator: what a
/// server of 3.10 was just asked to make when it is killed or cut off is lost with it, which is not what is tested.
async fn declare(stage: &Stage, plan: &Plan, folder: &Path) {
    let Stage::Nodes(nodes) = stage else { return };
    let settings = environment(plan, &stage.url(), GRACE);
    let apply = Slot::new(folder, "topology".to_owned(), &["work", "topology", "apply"], &settings);
    apply.start();
    let ended = apply.ended().await;
    let log = || fs::read_to_string(folder.join("topology.log")).unwrap_or_default();
    assert!(ended.success(), "the queues could not be made: {ended}\n{}", log());
    for (node, _) in nodes {
        node.keep_new_queues().await;
    }
}

/// All processes of a plan, of which none runs yet.
fn crews(name: &str, plan: &Plan, url: &str, folder: &Path) -> (Vec<Slot>, Vec<Slot>) {
    let settings = environment(plan, url, GRACE);
    let workers =
        (0..plan.workers).map(|n| Slot::new(folder, format!("worker-{n}"), &["work", "run"], &settings)).collect();
    let share = plan.jobs.div_ceil(plan.producers as u64);
    let producers = (0..plan.producers)
        .map(|n| {
            let first = n as u64 * share;
            producer(folder, n, name, first..(first + share).min(plan.jobs), &settings)
        })
        .collect();
    (workers, producers)
}

/// A process that enqueues these jobs.
pub(super) fn producer(folder: &Path, n: usize, plan: &str, jobs: Range<u64>, settings: &[(&str, String)]) -> Slot {
    let (first, end) = (jobs.start.to_string(), jobs.end.to_string());
    Slot::new(folder, format!("producer-{n}"), &["produce", plan, "--first", &first, "--end", &end], settings)
}

/// The settings of all processes.
pub(super) fn environment(plan: &Plan, url: &str, grace: Duration) -> [(&'static str, String); 8] {
    [
        ("WORKER_BROKER_URL", url.to_owned()),
        ("WORKER_CONCURRENCY", plan.concurrency.to_string()),
        ("WORKER_PREFETCH", plan.prefetch.to_string()),
        ("WORKER_SHUTDOWN_GRACE", format!("{}ms", grace.as_millis())),
        ("WORKER_SQLITE_LEASE", format!("{LEASE_MS}ms")),
        // A worker that `main_from` starts does not see to it itself.
        ("RUST_MIN_STACK", (512 << 20).to_string()),
        ("TORTURE_BACKLOG", plan.backlog.to_string()),
        ("TORTURE_MUTANT", plan.mutant.map_or_else(String::new, |mutant| format!("{mutant:?}"))),
    ]
}

/// Tells all who run to end, over and over, once that is asked for: one that is just being started hears it then.
async fn ask_to_end(workers: &[Slot], end: &CancellationToken) {
    end.cancelled().await;
    loop {
        workers.iter().for_each(Slot::end);
        sleep(Duration::from_millis(50)).await;
    }
}

async fn watch(scene: &Scene<'_>, progress: &Progress) {
    loop {
        progress.done.store(scene.done(), Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
    }
}

/// What all processes did, in no order.
fn read(workers: &[Slot], producers: &[Slot], folder: &Path) -> Vec<Record> {
    let files = workers.iter().chain(producers).map(|slot| folder.join(&slot.name));
    files.flat_map(|file| Reader::new(file).more().expect("the records can be read")).collect()
}

/// Whether a log says what none may say.
fn canaries(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).expect("the folder can be read").map(|file| file.expect("so can each").path());
    let mut problems = Vec::new();
    for log in files.filter(|file| file.extension().is_some_and(|extension| extension == "log")) {
        let text = String::from_utf8_lossy(&fs::read(&log).expect("a log can be read")).into_owned();
        for (what, canary) in [("the password", PASSWORD), ("a payload", CANARY)] {
            if text.contains(canary) {
                problems.push(format!("{} says {what}", log.display()));
            }
        }
    }
    problems
}

/// What is not as promised, of what was counted.
fn problems_of(plan: &Plan, report: &Report, deeds: &[Deed]) -> Vec<String> {
    let Tally { lost, unexpected, conflicting, misjudged, overrun, duplicated, innocent, .. } = report.tally;
    let mut problems: Vec<_> = [
        ("lost", lost),
        ("unexpected", unexpected),
        ("both succeeded and dead", conflicting),
        ("ended as they were not meant to", misjudged),
        ("tried too often", overrun),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(what, count)| format!("{count} jobs: {what}"))
    .collect();
    let planned: usize = plan.faults.iter().map(|(_, times)| times).sum();
    if deeds.len() < planned {
        problems.push(format!("{} of {planned} faults were done", deeds.len()));
    }
    if report.tally.slowest_answer_ms > ANSWER_MS_MAX {
        let waited = report.tally.slowest_answer_ms;
        problems.push(format!("a producer was told nothing for {waited} ms, and an enqueue has 10 s"));
    }
    if report.tally.gone > report.gone_max {
        let (gone, max) = (report.tally.gone, report.gone_max);
        problems.push(format!("{gone} jobs are gone, and the queues that were deleted had {max} at most"));
    }
    if innocent > report.innocent_max {
        let max = report.innocent_max;
        problems.push(format!("{innocent} jobs were taken for killers and are not, and these faults can make {max}"));
    }
    if duplicated > report.duplicates_max {
        problems.push(format!("{duplicated} duplicates, and these faults can make {}", report.duplicates_max));
    }
    if plan.mix.kills > 0 {
        let Tally { killers_starts, .. } = &report.tally;
        if innocent > 0 {
            problems.push(format!("{innocent} jobs were taken for killers, and are not"));
        }
        if killers_starts.keys().any(|starts| *starts != STARTS_MAX) {
            problems.push(format!("killers were not started {STARTS_MAX} times each: {killers_starts:?}"));
        }
    }
    let percent = 100.0 * duplicated as f64 / report.jobs as f64;
    if let Some(max) = plan.duplicates_percent_max.filter(|max| percent > *max) {
        problems.push(format!("{percent:.2}% duplicates; the goal is {max}%"));
    }
    if let Some(((p50, p99), found)) = plan.resumes_ms_max.zip(report.resumed)
        && (found.p50 > p50 || found.p99 > p99)
    {
        problems.push(format!(
            "went on after {} ms (p50) and {} ms (p99); the goals are {p50} and {p99}",
            found.p50, found.p99
        ));
    }
    problems
}
