//! A world that fails, made smaller.

use super::Case;

/// Worlds that are tried: a minute at most, since each has less in it than the one before.
const TRIES_MAX: usize = 300;

/// The same world with as few of its jobs as still fail: parts are left out, the larger ones first (Zeller's ddmin,
/// "Simplifying and isolating failure-inducing input", 2002).
#[must_use]
pub fn shrink(failing: &Case) -> Case {
    let of = |jobs: &[String]| Case { only: Some(jobs.to_vec()), ..failing.clone() };
    let mut tries = 0;
    let mut fails = |jobs: &Vec<String>| {
        tries += 1;
        tries <= TRIES_MAX && !of(jobs).live().problems.is_empty()
    };
    let (mut jobs, mut parts) = (failing.jobs(), 2);
    while jobs.len() > 1 {
        match (0..parts).map(|part| without(&jobs, part, parts)).find(&mut fails) {
            Some(left) => (jobs, parts) = (left, 2.max(parts - 1)),
            None if parts >= jobs.len() => break,
            None => parts = (2 * parts).min(jobs.len()),
        }
    }
    of(&jobs)
}

/// All but one of so many parts.
fn without(jobs: &[String], part: usize, parts: usize) -> Vec<String> {
    let is_in = |n: usize| n * parts / jobs.len() == part;
    jobs.iter().enumerate().filter(|(n, _)| !is_in(*n)).map(|(_, job)| job.clone()).collect()
}
