//! Whole runs decided by a seed: the real worker on the memory broker, and on the RabbitMQ broker over a simulated
//! server, in virtual time, with everything going wrong that can.
//!
//! A seed decides the jobs and what their handlers do, when the broker fails
//! and how, and when workers crash, freeze, shut down and start. Everything is
//! recorded; then the world is healed, all must come to an end, and the record
//! is checked against a model of what each delivery may do.
//!
//! `cargo sim --help` says how to live through many of them.

mod check;
mod clock;
mod dates;
mod plan;
mod rabbit;
mod record;
mod shrink;
mod stage;
mod steps;
mod tally;
mod tasks;
mod witness;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::runtime::Builder;
use worker_core::brokers::rabbitmq::{Mutant, mutate};

use self::{check::check, dates::dates, record::Entry, stage::Stage, tally::tally, world::World};

pub use shrink::shrink;
pub use steps::{Flow, every_step};

/// Failures after which no more seeds are tried.
const FAILURES_MAX: usize = 5;

/// A kind of world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The memory broker, whose every call can fail.
    Memory,
    /// The RabbitMQ broker, over a server that can fail.
    Rabbit,
}

impl Kind {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Rabbit => "rabbitmq",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A world, by what decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which broker.
    pub kind: Kind,
    /// What decides everything.
    pub seed: u64,
    /// These of its jobs alone, by id; `None` for all.
    pub only: Option<Vec<String>>,
}

/// A command that lives through it again.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo sim --world {} --seed {}", self.kind, self.seed)?;
        self.only.as_ref().map_or(Ok(()), |only| write!(f, " --only {}", only.join(",")))
    }
}

/// What became of a world.
#[derive(Debug)]
pub struct Lived {
    record: Vec<Entry>,
    /// What was wrong with it; nothing is as it should be.
    pub problems: Vec<String>,
}

impl Lived {
    /// Everything that happened, a line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.record.iter().map(ToString::to_string)
    }

    /// The kinds of things that happened, each as often as it did.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.record.iter().map(|entry| entry.what.kind())
    }
}

impl Case {
    /// The whole world of a seed.
    #[must_use]
    pub const fn new(kind: Kind, seed: u64) -> Self {
        Self { kind, seed, only: None }
    }

    /// Lives through it. What panics in it is among the problems.
    #[must_use]
    pub fn live(&self) -> Lived {
        catch_unwind(AssertUnwindSafe(|| self.live_or_panic())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("with no text");
            Lived { record: Vec::new(), problems: vec![format!("it panicked: {text}")] }
        })
    }

    /// Lives through it twice. Where the two differ is a problem, too: a failing seed could not be looked at.
    #[must_use]
    pub fn live_twice(&self) -> Lived {
        let (first, second) = (self.live(), self.live());
        let differs = first.record.iter().zip(&second.record).position(|(a, b)| a != b);
        let differs = differs.or_else(|| {
            let (first, second) = (first.record.len(), second.record.len());
            (first != second).then_some(first.min(second))
        });
        let line = |record: &[Entry], at: usize| record.get(at).map_or_else(|| "the end".into(), ToString::to_string);
        let told = differs.map(|at| {
            format!(
                "the second time differs at line {at}: `{}` and `{}`",
                line(&first.record, at),
                line(&second.record, at)
            )
        });
        Lived { problems: first.problems.into_iter().chain(told).collect(), ..first }
    }

    fn live_or_panic(&self) -> Lived {
        // Jitter is drawn from the thread's own generator.
        fastrand::seed(self.seed);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let only = self.only.as_deref();
        runtime.block_on(async {
            match self.kind {
                Kind::Memory => {
                    let world = World::new(self.seed, only);
                    let dead = world.live().await;
                    let record = world.stage.record.entries();
                    let mut problems = check(&world.stage.plan, &record, &dead);
                    problems.extend(dates(&world.stage.plan, &record, &dead));
                    Lived { record, problems }
                }
                Kind::Rabbit => {
                    let world = rabbit::World::new(self.seed, only);
                    let ended = world.live().await;
                    let record = world.stage.record.entries();
                    let mut problems = tally(&world.stage.plan, world.calm, &record, &ended);
                    problems.extend(dates(&world.stage.plan, &record, &ended.dead));
                    Lived { record, problems }
                }
            }
        })
    }

    /// The ids of its jobs.
    fn jobs(&self) -> Vec<String> {
        Stage::new(self.seed, self.only.as_deref()).plan.jobs.into_iter().map(|job| job.id).collect()
    }
}

/// Seeds that failed once: they are lived through before all others.
const REGRESSIONS: &str = include_str!("regressions.txt");

/// The worlds of that list.
///
/// # Panics
///
/// Where a line is none.
#[must_use]
pub fn regressions(kind: Kind) -> Vec<Case> {
    let lines = REGRESSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let words = lines.map(|line| line.split_once(' ').expect("a kind and a seed"));
    let of_kind = words.filter(|(of, _)| *of == kind.name());
    of_kind.map(|(_, seed)| Case::new(kind, seed.trim().parse().expect("a seed is a number"))).collect()
}

/// The first of `seeds`, those that are kept before them, whose world shows that `mutant` is bad.
#[must_use]
pub fn first_to_catch(mutant: Mutant, seeds: Range<u64>) -> Option<Case> {
    mutate(Some(mutant));
    let all = regressions(Kind::Rabbit).into_iter().chain(seeds.map(|seed| Case::new(Kind::Rabbit, seed)));
    let caught = all.into_iter().find(|case| !case.live().problems.is_empty());
    mutate(None);
    caught
}

/// What became of many worlds.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many were lived through.
    pub worlds: u64,
    /// How often each kind of thing happened, of those that can happen.
    pub happened: BTreeMap<&'static str, u64>,
    /// Those with problems, with these; no more than a few.
    pub failures: Vec<(Case, Vec<String>)>,
}

/// Lives through `cases` on all processors, until there are none or some have failed. Tells each that is done.
#[must_use]
pub fn live_all(
    cases: impl Iterator<Item = Case> + Send,
    live: impl Fn(&Case) -> Lived + Sync,
    done: impl Fn(u64) + Sync,
) -> Summary {
    let (cases, summary, count) = (Mutex::new(cases), Mutex::new(Summary::default()), AtomicU64::new(0));
    let work = || {
        loop {
            let has_failed = summary.lock().unwrap().failures.len() >= FAILURES_MAX;
            let Some(case) = cases.lock().unwrap().next().filter(|_| !has_failed) else { return };
            let lived = live(&case);
            let mut summary = summary.lock().unwrap();
            summary.worlds += 1;
            lived.kinds().for_each(|kind| *summary.happened.entry(kind).or_default() += 1);
            if !lived.problems.is_empty() {
                summary.failures.push((case, lived.problems));
            }
            drop(summary);
            done(count.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    summary.into_inner().unwrap()
}

/// Everything that can happen in a world of this kind.
#[must_use]
pub fn possible(kind: Kind) -> BTreeSet<&'static str> {
    let others = [
        "producer cut",
        "silent",
        "patience lost",
        "queue stalled",
        "clock set",
        "crashed",
        "lapsed",
        "cancelled",
        "healed",
    ];
    match kind {
        Kind::Memory => record::KINDS.into(),
        Kind::Rabbit => rabbit::TROUBLES.into_iter().chain(others).collect(),
    }
}
