//! What the handlers and producers saw, held against the plan: what is true of every broker that keeps its promise.
//!
//! * Every job whose producer was told so came to an end: it succeeded, or is dead with its reason.
//! * Nothing else ran or died.
//! * Without a fault there is one end, the planned one, and each attempt ran once.
//! * With faults, a job may run and end again, but never more often than its retries and the faults allow, never
//!   as an attempt that it does not have, and only workers that died or were cut off make it a crashed one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use worker_core::{FailureKind, UNKNOWN_JOB_PATIENCE_DEFAULT, broker::STARTS_MAX};

use crate::sim::{
    plan::Plan,
    rabbit::Ended,
    record::{Entry, What},
};

/// What is wrong with this record; nothing is as it should be.
pub(super) fn tally(plan: &Plan, calm: bool, record: &[Entry], ended: &Ended) -> Vec<String> {
    let mut problems = Vec::new();
    let mut demand = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    let Ended { dead, left, connections, unknown, hot, unlimited, copied_deaths, settled_unknown } = ended;
    demand(!settled_unknown, "a delivery was settled that its process did not have, or had no more".into());
    demand(!copied_deaths, "a copy says through which queues its original went".into());
    demand(!hot, "something goes round without end".into());
    demand(!unlimited, "a queue was consumed without a limit".into());
    demand(left.is_empty(), format!("never came to an end: {left:?}"));
    let (mut acknowledged, mut runs, mut returns) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let (mut faults, mut troubles, mut moved) = (0_usize, 0_u64, Duration::ZERO);
    for Entry { what, .. } in record {
        match what {
            What::Acknowledged { job } => drop(acknowledged.insert(job.as_str())),
            What::Ran { job, attempt } => runs.entry(job.as_str()).or_insert_with(Vec::new).push(*attempt),
            What::Returned { job, attempt, itself: true } => {
                returns.entry(job.as_str()).or_insert_with(Vec::new).push(*attempt);
            }
            What::Trouble { .. } => (faults, troubles) = (faults + 1, troubles + 1),
            What::ClockSet { by_ms, .. } => moved += Duration::from_millis(by_ms.unsigned_abs()),
            What::Crashed | What::Lapsed | What::Asked { .. } => faults += 1,
            What::Started { .. } => troubles += 1,
            _ => {}
        }
    }
    for job in &plan.jobs {
        let id = job.id.as_str();
        demand(acknowledged.contains(id), format!("{id} was never acknowledged to its producer"));
        let (expected, failed) = job.expected();
        let most = job.of_type.options().retry.max_retries() + 1;
        let (runs, returns) = (runs.remove(id).unwrap_or_default(), returns.remove(id).unwrap_or_default());
        let deaths: Vec<_> = dead.iter().filter(|dead| dead.id.to_string() == id).collect();
        // The first to return ask to be called again, as often as the plan says; the next at its last attempt succeeds.
        let acted = returns.iter().skip(job.snoozes as usize);
        let successes = acted.filter(|attempt| expected.is_ok() && **attempt == failed + 1).count();
        demand(successes + deaths.len() > 0, format!("{id} is lost: it ran as {runs:?}, returned as {returns:?}"));
        demand(runs.iter().all(|attempt| *attempt <= most), format!("{id} ran as {runs:?} of {most} attempts"));
        // A publish whose fate was unknown may have been taken, and is made again: a copy more, which runs as a job does.
        let copies = 1 + unknown.get(id).copied().unwrap_or(0);
        let bound = (most as usize + job.snoozes as usize) * (1 + faults) * copies;
        demand(runs.len() <= bound, format!("{id} ran {} times; {bound} are explained", runs.len()));
        for dead in deaths.iter() {
            let kind = dead.failure.kind;
            let may = match kind {
                FailureKind::Crashed => dead.starts >= STARTS_MAX && faults >= STARTS_MAX as usize,
                FailureKind::Expired => job.expires_in.is_some(),
                // Workers that do not know it saw it wait for longer than it has.
                FailureKind::UnknownJob => moved >= UNKNOWN_JOB_PATIENCE_DEFAULT,
                kind => {
                    (kind, dead.attempts) == (expected.err().unwrap_or(FailureKind::Error), failed) && expected.is_err()
                }
            };
            demand(may, format!("{id} is dead: {kind} after {} failures, {} starts", dead.attempts, dead.starts));
        }
        if calm {
            let expired = deaths.iter().any(|dead| dead.failure.kind == FailureKind::Expired);
            let ends = deaths.len() + usize::from(expected.is_ok() && deaths.is_empty());
            demand(ends == 1 && deaths.len() <= 1, format!("{id} ended {ends} times"));
            let planned = failed as usize + usize::from(expected.is_ok()) + job.snoozes as usize;
            demand(expired || runs.len() == planned, format!("{id} ran as {runs:?}; {planned} runs were planned"));
        }
    }
    demand(runs.is_empty(), format!("nobody planned {runs:?}"));
    let planned: BTreeSet<_> = plan.jobs.iter().map(|job| job.id.clone()).collect();
    let stray: Vec<_> = dead.iter().map(|dead| dead.id.to_string()).filter(|id| !planned.contains(id)).collect();
    demand(stray.is_empty(), format!("nobody planned the dead {stray:?}"));
    // Four connections a process, and as many again for each fault and each second of an outage.
    let bound = 400 + 60 * troubles;
    demand(*connections <= bound, format!("{connections} connections were made; {bound} are explained"));
    problems
}
