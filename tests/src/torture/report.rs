//! What a run gave: as a table for people, as JSON, and whether it was as promised.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    check::Tally,
    nemesis::Deed,
    plan::{Fault, Plan},
    record::{Event, Record},
};

/// What a run gave.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The plan's name.
    pub plan: String,
    /// What decided over the faults.
    pub seed: u64,
    /// The broker, with its version.
    pub broker: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How many jobs there were.
    pub jobs: u64,
    /// What was done, and how often.
    pub faults: BTreeMap<String, usize>,
    /// How many processes were started, the first ones included.
    pub processes: usize,
    /// What became of the jobs.
    pub tally: Tally,
    /// The most duplicates that these faults may make.
    pub duplicates_max: u64,
    /// The most jobs that these faults may let look like killers.
    pub innocent_max: u64,
    /// The most jobs that can have gone with queues that were deleted.
    pub gone_max: u64,
    /// After a fault of the servers, until a job began, in milliseconds.
    pub resumed: Option<Quantiles>,
    /// What is not as promised; nothing, where the run is valid.
    pub problems: Vec<String>,
}

/// A few numbers for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many there were.
    pub count: usize,
    /// Half of them are at most this.
    pub p50: u64,
    /// 99 of 100 are.
    pub p99: u64,
    /// All are.
    pub max: u64,
}

impl Quantiles {
    /// Of these; `None` of none.
    #[must_use]
    pub fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let max = *values.last()?;
        // The nearest rank: of few values, the 99th in 100 is the last.
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { count: values.len(), p50: rank(50), p99: rank(99), max })
    }
}

/// After each deed that cost connections, until the next job began, in milliseconds.
#[must_use]
pub fn resumed(deeds: &[Deed], records: &[Record]) -> Option<Quantiles> {
    let mut starts: Vec<u64> =
        records.iter().filter(|record| record.event == Event::Started).map(|record| record.at).collect();
    starts.sort_unstable();
    let pause = |deed: &Deed| {
        let next = starts.get(starts.partition_point(|start| *start < deed.healed_at))?;
        Some((next - deed.healed_at) / 1_000)
    };
    Quantiles::of(deeds.iter().filter(|deed| deed.fault.costs_connections()).filter_map(pause).collect())
}

/// The most ends beyond the first that these faults can make.
///
/// A worker that is lost leaves what it holds unacknowledged, and so does each whose connection is lost; an enqueue
/// whose outcome nobody knows is tried once more. A node that is lost may move an expired job once more out of the queue
/// in which it waited for its retry.
#[must_use]
pub fn duplicates_max(plan: &Plan, deeds: &[Deed], worker_starts: usize, tally: &Tally) -> u64 {
    // The suspects' lane holds one beside the prefetched.
    let held = u64::from(plan.prefetch) * u64::from(plan.bundle) + 1;
    let lost_workers = worker_starts.saturating_sub(plan.workers) as u64;
    let lost_connections = deeds.iter().filter(|deed| deed.fault.costs_connections()).count() as u64;
    let is_node_lost = deeds.iter().any(|deed| deed.fault.costs_nodes());
    let moved_twice = if is_node_lost { tally.duplicated_later } else { 0 };
    (lost_workers + lost_connections * plan.workers as u64) * held + tally.unknown + moved_twice
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, .. } = self;
        writeln!(
            f,
            "{} on {}, seed {}: {} jobs in {:.0} s",
            self.plan, self.broker, self.seed, self.jobs, self.seconds
        )?;
        let faults: Vec<_> = self.faults.iter().map(|(fault, times)| format!("{fault} {times}")).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
        writeln!(f, "  faults        {faults}")?;
        writeln!(f, "  processes     {:>9}", self.processes)?;
        let mut line = |name: &str, count: u64, meaning: &str| writeln!(f, "  {name:<13} {count:>9}  {meaning}");
        line("attempts", tally.attempts, "enqueues, those that were tried again included")?;
        line("unknown", tally.unknown, "of them, those of which nobody knew whether they were taken")?;
        line("not taken", tally.not_taken, "of them, those that the broker did not take")?;
        line("acknowledged", tally.acknowledged, "jobs that the broker said it has")?;
        line("succeeded", tally.succeeded, "")?;
        let crashed =
            format!("{} of them taken for killers of their workers, and {} are not", tally.crashed, tally.innocent);
        line("dead", tally.dead, &crashed)?;
        line("lost", tally.lost, "acknowledged, and came to no end")?;
        let bound = format!("acknowledged, and in a queue when it was deleted; {} at most were", self.gone_max);
        line("gone", tally.gone, &bound)?;
        line("unexpected", tally.unexpected, "came, and nobody had enqueued them")?;
        line("conflicting", tally.conflicting, "both succeeded and dead")?;
        line("misjudged", tally.misjudged, "came to another end than they were meant to")?;
        line("overrun", tally.overrun, "came to an attempt that they should not have had")?;
        let bound = format!("ends beyond the first of each job; these faults can make {}", self.duplicates_max);
        line("duplicated", tally.duplicated, &bound)?;
        line("suspected", tally.suspected, "counted by workers as worker_duplicates_suspected_total")?;
        line("recovered", tally.recovered, "came to an end, and their producers never knew that they were taken")?;
        let starts: Vec<_> = tally.starts.iter().map(|(starts, jobs)| format!("{starts}: {jobs}")).collect();
        writeln!(f, "  jobs by their starts: {}", starts.join(", "))?;
        if !tally.killers_starts.is_empty() {
            let starts: Vec<_> =
                tally.killers_starts.iter().map(|(starts, jobs)| format!("{starts}: {jobs}")).collect();
            writeln!(f, "  killers by their starts: {}", starts.join(", "))?;
        }
        if let Some(Quantiles { count, p50, p99, max }) = self.resumed {
            writeln!(
                f,
                "  after {count} faults of servers a job began within {p50} ms (p50), {p99} ms (p99), {max} ms (max)"
            )?;
        }
        writeln!(f, "  producers were answered within {} ms", tally.slowest_answer_ms)?;
        for (what, jobs) in &tally.examples {
            writeln!(f, "  {what}, for example: {jobs:?}")?;
        }
        verdict(f, &self.problems)
    }
}

/// The end of every report.
pub(super) fn verdict(f: &mut fmt::Formatter<'_>, problems: &[String]) -> fmt::Result {
    for problem in problems {
        writeln!(f, "  wrong: {problem}")?;
    }
    write!(f, "{}", if problems.is_empty() { "valid" } else { "NOT VALID" })
}

/// The most jobs that can have gone with queues that were deleted, of which they had `found` a moment before: those, and
/// what producers enqueued and workers gave back in that moment.
#[must_use]
pub fn gone_max(plan: &Plan, deeds: &[Deed], found: u64) -> u64 {
    const IN_A_MOMENT: u64 = 500;
    let deletions = deeds.iter().filter(|deed| deed.fault == Fault::DeleteQueue).count() as u64;
    found + deletions * (IN_A_MOMENT + plan.workers as u64 * u64::from(plan.prefetch) * u64::from(plan.bundle))
}

/// The most jobs that these faults can let look like killers of their workers without being any.
///
/// The start that convicts is one alone in its process, so that a worker that is lost convicts one job at most; and so
/// does a connection that is lost while its job's neighbours keep theirs.
#[must_use]
pub fn innocent_max(plan: &Plan, deeds: &[Deed], worker_starts: usize) -> u64 {
    let lost_connections = deeds.iter().filter(|deed| deed.fault.costs_connections()).count();
    (worker_starts.saturating_sub(plan.workers) + lost_connections * plan.workers) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_fault_lasts_until_the_next_start() {
        let started = |at| Record { event: Event::Started, attempt: 1, n: 0, at };
        let deed = |fault, healed_at| Deed { fault, begun_at: healed_at, healed_at };
        let records = [started(7_000), started(1_000), started(20_000)];
        let deeds = [deed(Fault::KillNode, 2_000), deed(Fault::Reset, 8_000), deed(Fault::KillWorker, 8_000)];
        assert_eq!(resumed(&deeds, &records), Some(Quantiles { count: 2, p50: 5, p99: 12, max: 12 }));
        assert_eq!(resumed(&deeds[..1], &[started(1_000)]), None, "after which none began");
    }
}
