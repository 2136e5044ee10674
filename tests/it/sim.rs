//! Whole runs decided by a seed ([`worker_tests::sim`]): some of them each time; `cargo sim` lives through more.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use worker_core::brokers::rabbitmq::{Mutant, mutate};
use worker_tests::sim::{Case, Flow, Kind, every_step, first_to_catch, live_all, possible, regressions, shrink};

/// About ten seconds of one core in worlds of memory, a minute in the others.
const SEEDS: [(Kind, u64); 2] = [(Kind::Memory, 1_000), (Kind::Rabbit, 60)];

#[test]
fn no_seed_loses_a_job_or_breaks_a_promise() {
    for (kind, seeds) in SEEDS {
        let cases = regressions(kind).into_iter().chain((0..seeds).map(|seed| Case::new(kind, seed)));
        let failures = live_all(cases, Case::live, |_| ()).failures;
        let told = failures.iter().map(|(case, problems)| format!("{case}\n  {}\n", problems.join("\n  ")));
        assert!(failures.is_empty(), "{}", told.collect::<String>());
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_loses_nothing_and_repeats_only_what_it_had_begun() {
    thread::scope(|scope| {
        for modern in [false, true] {
            scope.spawn(move || {
                for flow in Flow::ALL {
                    let (deaths, problems) = every_step(flow, modern);
                    assert!(problems.is_empty(), "{}", problems.join("\n"));
                    assert!(deaths > 10, "{flow:?} has steps");
                }
            });
        }
    });
}

/// At each step, and not by chance: the one at which the copy is not confirmed yet is among them.
#[test]
fn a_variant_that_acknowledges_before_the_confirm_loses_a_job_at_some_step() {
    mutate(Some(Mutant::AckBeforeConfirm));
    let (_, problems) = every_step(Flow::Retry, false);
    mutate(None);
    assert!(problems.iter().any(|problem| problem.contains("done 0 times")), "{problems:?}");
}

/// A harness that never fails proves nothing.
#[test]
fn every_variant_that_is_known_to_be_bad_is_caught() {
    const SEEDS: u64 = 1_000;
    let next = AtomicU64::new(0);
    let escaped = Mutex::new(Vec::new());
    let hunt = || {
        while let Some(mutant) = Mutant::ALL.get(usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap()) {
            match first_to_catch(*mutant, 0..SEEDS) {
                Some(case) => println!("{mutant:?} is caught by seed {}", case.seed),
                None => escaped.lock().unwrap().push(*mutant),
            }
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

/// Whoever is told of a world of sixty jobs looks at the few that matter.
#[test]
fn a_world_that_fails_is_made_smaller_and_still_fails() {
    mutate(Some(Mutant::RequeuedInsteadOfDead));
    let failing = (0..100).map(|seed| Case::new(Kind::Rabbit, seed)).find(|case| !case.live().problems.is_empty());
    let smaller = shrink(&failing.unwrap());
    let fails = !smaller.live().problems.is_empty();
    mutate(None);
    let left = smaller.only.as_ref().unwrap().len();
    assert!(fails && left <= 3, "{left} jobs are left: {smaller}");
    assert!(smaller.live().problems.is_empty(), "without the variant it is well");
}

/// Without this a failing seed could not be looked at.
#[test]
fn the_same_seed_gives_the_same_record() {
    for (kind, seeds) in [(Kind::Memory, 30), (Kind::Rabbit, 8)] {
        for case in (0..seeds).map(|seed| Case::new(kind, seed)) {
            let problems = case.live_twice().problems;
            assert!(problems.is_empty(), "{case}: {problems:?}");
        }
    }
}

/// A simulation in which nothing happens proves nothing.
#[test]
fn the_seeds_together_make_everything_happen() {
    for (kind, seeds) in [(Kind::Memory, 40), (Kind::Rabbit, 15)] {
        let mut seen = BTreeSet::new();
        for seed in 0..seeds {
            seen.extend(Case::new(kind, seed).live().kinds());
        }
        let missing: Vec<_> = possible(kind).difference(&seen).copied().collect();
        assert!(missing.is_empty(), "never happened in worlds of {kind}: {missing:?}");
    }
}
