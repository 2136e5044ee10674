//! Counts how the jobs of one run ended, for the progress bar and the closing table.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use worker_core::{Ending, JobId, JobReport};

/// What happened to the jobs that this run enqueued.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    open: HashMap<JobId, String>,
    types: BTreeMap<String, Counts>,
    first_dead: Option<JobId>,
}

/// What happened to the jobs of one type.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Jobs that this run enqueued.
    pub(crate) enqueued: u64,
    /// Jobs that succeeded.
    pub(crate) succeeded: u64,
    /// Attempts that failed and were tried again.
    pub(crate) retried: u64,
    /// Jobs in the dead-letter queue.
    pub(crate) dead: u64,
    run_times: Vec<Duration>,
}

impl Tally {
    /// Notes a job that this run has enqueued.
    pub(crate) fn enqueued(&mut self, id: JobId, job: &str) {
        self.types.entry(job.to_owned()).or_default().enqueued += 1;
        self.open.insert(id, job.to_owned());
    }

    /// Notes how an execution ended. Jobs of earlier runs are not counted.
    pub(crate) fn ended(&mut self, report: &JobReport) {
        let Some(job) = self.open.get(&report.id) else { return };
        let counts = self.types.entry(job.clone()).or_default();
        counts.run_times.push(report.elapsed);
        match report.ending {
            Ending::Succeeded => counts.succeeded += 1,
            Ending::DeadLettered { .. } => {
                counts.dead += 1;
                self.first_dead.get_or_insert_with(|| report.id.clone());
            }
            Ending::Retried { .. } => return counts.retried += 1,
            _ => return,
        }
        self.open.remove(&report.id);
    }

    /// Jobs of this run that have not ended here.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Jobs of this run.
    pub(crate) fn total(&self) -> u64 {
        self.types.values().map(|counts| counts.enqueued).sum()
    }

    /// Every type with its counts, by name.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.types.iter().map(|(job, counts)| (job.as_str(), counts))
    }

    /// One of this run's dead jobs, for the hint on how to look at it.
    pub(crate) fn first_dead(&self) -> Option<&JobId> {
        self.first_dead.as_ref()
    }
}

impl Counts {
    /// The run time that `share` (0 to 1) of the executions did not exceed: the nearest rank.
    pub(crate) fn run_time(&self, share: f64) -> Option<Duration> {
        let mut times = self.run_times.clone();
        times.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the number of run times")]
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let counts = Counts { run_times: (1..=100).map(Duration::from_millis).collect(), ..Counts::default() };
        assert_eq!(counts.run_time(0.5), Some(Duration::from_millis(50)));
        assert_eq!(counts.run_time(0.99), Some(Duration::from_millis(99)));
        assert_eq!(Counts::default().run_time(0.5), None);
    }
}
