//! Whole runs decided by a seed: the real worker on the memory broker, and on the RabbitMQ broker over a simulated
//! server, in virtual time, with everything going wrong that can.
//!
//! A seed decides the jobs and what their handlers do, when the broker fails
//! and how, and when workers crash, freeze, shut down and start. Everything is
//! recorded; then the world is healed, all must come to an end, and the record
//! is checked against a model of what each delivery may do (`check`).
//!
//! * `WORKER_SIM_SEEDS=10000` runs this many seeds instead of a thousand, or sixty on RabbitMQ.
//! * `WORKER_SIM_FROM=1000` begins at another seed than 0, for fresh ones.
//! * `WORKER_SIM_SEED=17` runs this one and prints its record.

mod check;
mod plan;
mod rabbit;
mod record;
mod stage;
mod tally;
mod tasks;
mod witness;
mod world;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::runtime::Builder;
use worker_core::brokers::rabbitmq::{Mutant, mutate};

use crate::sim::{check::check, record::Entry, tally::tally, world::World};

/// Seeds in an ordinary run of the tests: about ten seconds of one core in worlds of memory, a minute in the others.
const SEEDS: [(Kind, u64); 2] = [(Kind::Memory, 1_000), (Kind::Rabbit, 60)];

/// A kind of world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The memory broker, whose every call can fail.
    Memory,
    /// The RabbitMQ broker, over a server that can fail.
    Rabbit,
}

/// Lives through the world of `seed`; gives its record, and what was wrong with it.
fn live(kind: Kind, seed: u64) -> (Vec<Entry>, Vec<String>) {
    // Jitter is drawn from the thread's own generator.
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        match kind {
            Kind::Memory => {
                let world = World::new(seed);
                let dead = world.live().await;
                let record = world.stage.record.entries();
                let problems = check(&world.stage.plan, &record, &dead);
                (record, problems)
            }
            Kind::Rabbit => {
                let world = rabbit::World::new(seed);
                let ended = world.live().await;
                let record = world.stage.record.entries();
                let problems = tally(&world.stage.plan, world.calm, &record, &ended);
                (record, problems)
            }
        }
    })
}

fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn no_seed_loses_a_job_or_breaks_a_promise() {
    live_many(Kind::Memory);
}

#[test]
fn no_seed_loses_a_job_on_rabbitmq_or_breaks_a_promise() {
    live_many(Kind::Rabbit);
}

#[expect(clippy::print_stdout, reason = "the record of a seed is what was asked for")]
fn live_many(kind: Kind) {
    if let Some(seed) = number("WORKER_SIM_SEED") {
        let (record, problems) = live(kind, seed);
        record.iter().for_each(|entry| println!("{entry}"));
        assert!(problems.is_empty(), "seed {seed}:\n{}", problems.join("\n"));
        return;
    }
    let from = number("WORKER_SIM_FROM").unwrap_or(0);
    let usual = SEEDS.iter().find(|(of, _)| *of == kind).map(|(_, seeds)| *seeds);
    let until = from + number("WORKER_SIM_SEEDS").or(usual).unwrap_or_default();
    let (next, failures) = (AtomicU64::new(from), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= until || failures.lock().unwrap().len() >= 5 {
                return;
            }
            let lived = catch_unwind(AssertUnwindSafe(|| live(kind, seed)));
            let problems = lived.map_or_else(|_| vec!["it panicked, see above".to_owned()], |(_, problems)| problems);
            if !problems.is_empty() {
                failures.lock().unwrap().push(format!("seed {seed}:\n  {}", problems.join("\n  ")));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}\nrun one alone with WORKER_SIM_SEED=<seed>", failures.join("\n"));
}

/// A harness that never fails proves nothing.
#[test]
fn every_variant_that_is_known_to_be_bad_is_caught() {
    const SEEDS: u64 = 1_000;
    // One that caught what few do, before all others.
    const FIRST: [u64; 1] = [666];
    let next = AtomicU64::new(0);
    let escaped = Mutex::new(Vec::new());
    let hunt = || {
        while let Some(mutant) = Mutant::ALL.get(usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap()) {
            mutate(Some(*mutant));
            let is_caught = |seed: &u64| {
                let lived = catch_unwind(AssertUnwindSafe(|| live(Kind::Rabbit, *seed)));
                lived.map_or(true, |(_, problems)| !problems.is_empty())
            };
            match FIRST.into_iter().chain(0..SEEDS).find(is_caught) {
                Some(seed) => println!("{mutant:?} is caught by seed {seed}"),
                None => escaped.lock().unwrap().push(*mutant),
            }
            mutate(None);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(hunt);
        }
    });
    let escaped = escaped.into_inner().unwrap();
    assert!(escaped.is_empty(), "{SEEDS} seeds do not catch {escaped:?}");
}

/// Without this a failing seed could not be looked at.
#[test]
fn the_same_seed_gives_the_same_record() {
    let seeds = [(Kind::Memory, 30), (Kind::Rabbit, 8)];
    for (kind, seed) in seeds.into_iter().flat_map(|(kind, count)| (0..count).map(move |seed| (kind, seed))) {
        let (first, second) = (live(kind, seed).0, live(kind, seed).0);
        let different = first.iter().zip(&second).position(|(a, b)| a != b);
        if let Some(at) = different {
            panic!("{kind:?} seed {seed} differs at line {at}: `{}` and `{}`", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len(), "{kind:?} seed {seed}");
    }
}

/// A simulation in which nothing happens proves nothing.
#[test]
fn the_seeds_together_make_everything_happen() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        seen.extend(live(Kind::Memory, seed).0.iter().map(|entry| entry.what.kind()));
    }
    let mut troubles = std::collections::BTreeSet::new();
    for seed in 0..15 {
        troubles.extend(live(Kind::Rabbit, seed).0.iter().map(|entry| entry.what.kind()));
    }
    let wanted = rabbit::TROUBLES.iter().chain(&["producer cut", "crashed", "lapsed", "cancelled", "healed"]);
    let untried: Vec<_> = wanted.filter(|kind| !troubles.contains(*kind)).collect();
    assert!(untried.is_empty(), "never happened on RabbitMQ: {untried:?}");
    let missing: Vec<_> = record::KINDS.iter().filter(|kind| !seen.contains(*kind)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
