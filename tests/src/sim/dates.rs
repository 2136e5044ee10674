//! What dates allow, held against the record: a job starts neither before its delay is over nor after it has expired,
//! and no job expires before its time.
//!
//! Where clocks were set, each date may be wrong by as much as their hands were moved in all.

use std::{collections::BTreeMap, time::Duration};

use worker_core::{FailureKind, broker::DeadJob};

use crate::sim::{
    clock::WorldClock,
    plan::Plan,
    record::{Entry, What},
};

/// Dates are whole milliseconds, and so are those of the record.
const GRAIN: Duration = Duration::from_millis(2);

/// What is wrong with the dates of this record; nothing is as it should be.
pub(super) fn dates(plan: &Plan, record: &[Entry], dead: &[DeadJob]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut demand = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    let moved = record.iter().filter_map(|entry| match entry.what {
        What::ClockSet { by_ms, .. } => Some(Duration::from_millis(by_ms.unsigned_abs())),
        _ => None,
    });
    let grain = GRAIN + moved.sum::<Duration>();
    let (mut first, mut last, mut known) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for Entry { at, what, .. } in record {
        match what {
            What::Ran { job, .. } => {
                first.entry(job.as_str()).or_insert(*at);
                last.insert(job.as_str(), *at);
            }
            What::Acknowledged { job } => drop(known.insert(job.as_str(), *at)),
            _ => {}
        }
    }
    for job in &plan.jobs {
        let id = job.id.as_str();
        let due = job.enqueue_at + job.delay;
        let early = first.get(id).filter(|at| **at + grain < due);
        demand(early.is_none(), format!("{id} started at {early:?}; its delay was over at {due:?}"));
        let Some(expires_in) = job.expires_in else { continue };
        // It was enqueued at some time from its plan's to its acknowledgement.
        let expired = known.get(id).map(|at| *at + expires_in);
        let late = last.get(id).filter(|at| expired.is_some_and(|expired| **at > expired + grain));
        demand(late.is_none(), format!("{id} started at {late:?}; it had expired by {expired:?}"));
        let expires = job.enqueue_at + expires_in;
        for dead in dead.iter().filter(|dead| dead.id.to_string() == id && dead.failure.kind == FailureKind::Expired) {
            let died = WorldClock::at(dead.died_at);
            demand(died + grain >= expires, format!("{id} had expired at {died:?}, and expires after {expires:?}"));
        }
    }
    problems
}
