//! What a worker counts and measures.
//!
//! Each series' handle is asked of the recorder once and kept, so that a job
//! costs a few atomic additions, and without a recorder nothing. Their number
//! is bounded by what was registered: queues of the worker times its jobs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    broker::Delivery,
    name::QueueName,
    outcome::FailureKind,
    registry::Entry,
    shard,
    telemetry::{
        ACKS_LOST, BUILD_INFO, CONCURRENCY, DEAD_LETTERS, DUPLICATES_SUSPECTED, JOB_DURATION, JOB_WAIT, JOBS_IN_FLIGHT,
        JOBS_PROCESSED, UNKNOWN_JOB,
    },
    time::Timestamp,
    worker::{
        report::Ending,
        settle::{Cause, Settled},
    },
};

/// Everything that one worker measures.
pub(super) struct Meter {
    lanes: Vec<LaneMeter>,
    acks_lost: Counter,
    duplicates_suspected: Counter,
}

/// One queue. Several workers of a process may serve it, so gauges are raised and lowered, never set.
struct LaneMeter {
    /// The whole queue, also where this is a shard.
    queue: QueueName,
    slots: f64,
    concurrency: Gauge,
    running: usize,
    in_flight: Gauge,
    /// Of the registered jobs, by their numbers.
    types: Vec<Option<Arc<Series>>>,
    /// Of all others.
    unknown: Option<Arc<Series>>,
}

/// What is measured of one type of job in one queue.
pub(super) struct Series {
    job: String,
    queue: String,
    duration: Histogram,
    wait: Histogram,
    processed: [Counter; Processed::ALL.len()],
}

/// The label `outcome`; `telemetry` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processed {
    Success,
    Timeout,
    Panic,
    Retry,
    Dead,
    CallFailed,
    Released,
    Cancelled,
    Lost,
}

impl Meter {
    /// Asks the recorder of this moment for everything that does not depend on a job.
    pub(super) fn new<'a>(
        broker: &'static str,
        concurrency: usize,
        lanes: impl Iterator<Item = (&'a QueueName, usize)>,
    ) -> Self {
        // The shards of a queue share its series, and together have no more slots than the worker.
        let mut left = HashMap::new();
        let lanes = lanes.map(|(queue, slots)| {
            let queue = shard::whole(queue);
            let left = left.entry(queue.clone()).or_insert(concurrency);
            let slots = slots.min(*left);
            *left -= slots;
            LaneMeter::new(queue, slots)
        });
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "broker" => broker).set(1.0);
        Self {
            lanes: lanes.collect(),
            acks_lost: counter!(ACKS_LOST),
            duplicates_suspected: counter!(DUPLICATES_SUSPECTED),
        }
    }

    /// The series of a job in a lane; of a registered one under that name, whatever alias its producer knows it by.
    pub(super) fn series(&mut self, lane: usize, job: Option<&Entry>) -> &Arc<Series> {
        let LaneMeter { queue, types, unknown, .. } = &mut self.lanes[lane];
        let series = match job {
            None => unknown,
            Some(Entry { number, .. }) => {
                if types.len() <= *number {
                    types.resize(number + 1, None);
                }
                &mut types[*number]
            }
        };
        series.get_or_insert_with(|| Arc::new(Series::new(queue, job)))
    }

    /// A job has left this worker.
    pub(super) fn settled(&self, Settled { report, cause, series, .. }: &Settled<Arc<Series>>) {
        if report.ending == Ending::Lost {
            self.acks_lost.increment(1);
        }
        if matches!(cause, Cause::Unstarted | Cause::PutOff) {
            return;
        }
        if report.ending == Ending::Lost {
            self.duplicates_suspected.increment(1);
        }
        series.processed[Processed::of(&report.ending, *cause) as usize].increment(1);
        if let Ending::DeadLettered { failure } = &report.ending {
            let (job, queue) = (series.job.clone(), series.queue.clone());
            counter!(DEAD_LETTERS, "job" => job, "queue" => queue, "reason" => failure.kind.as_str()).increment(1);
        }
    }

    /// So many jobs of a lane run.
    pub(super) fn running(&mut self, lane: usize, running: usize) {
        self.lanes[lane].running(running);
    }
}

impl LaneMeter {
    #[expect(clippy::cast_precision_loss, reason = "slots are at most 10,000")]
    fn new(queue: QueueName, slots: usize) -> Self {
        let lane = Self {
            slots: slots as f64,
            concurrency: gauge!(CONCURRENCY, "queue" => queue.to_string()),
            running: 0,
            in_flight: gauge!(JOBS_IN_FLIGHT, "queue" => queue.to_string()),
            queue,
            types: Vec::new(),
            unknown: None,
        };
        lane.concurrency.increment(lane.slots);
        lane
    }

    #[expect(clippy::cast_precision_loss, reason = "a worker has at most 10,000 slots")]
    fn running(&mut self, running: usize) {
        if running > self.running {
            self.in_flight.increment((running - self.running) as f64);
        } else if running < self.running {
            self.in_flight.decrement((self.running - running) as f64);
        }
        self.running = running;
    }
}

impl Drop for LaneMeter {
    fn drop(&mut self) {
        self.running(0);
        self.concurrency.decrement(self.slots);
    }
}

impl Series {
    fn new(queue: &QueueName, job: Option<&Entry>) -> Self {
        let (queue, job) = (queue.to_string(), job.map_or(UNKNOWN_JOB, |job| job.name.as_str()).to_owned());
        let processed = |processed: Processed| {
            let (job, queue) = (job.clone(), queue.clone());
            counter!(JOBS_PROCESSED, "job" => job, "queue" => queue, "outcome" => processed.as_str())
        };
        Self {
            processed: Processed::ALL.map(processed),
            duration: histogram!(JOB_DURATION, "job" => job.clone(), "queue" => queue.clone()),
            wait: histogram!(JOB_WAIT, "job" => job.clone(), "queue" => queue.clone()),
            job,
            queue,
        }
    }

    /// A job starts. Its wait counts when it is the first start.
    pub(super) fn started(&self, delivery: &Delivery, now: Timestamp) {
        if delivery.attempt == 1 && delivery.starts == 0 {
            self.wait.record(now.since(delivery.envelope.enqueued_at));
        }
    }

    /// A handler has run for so long.
    pub(super) fn ended(&self, elapsed: Duration) {
        self.duration.record(elapsed);
    }
}

impl Processed {
    /// In the order of their numbers.
    const ALL: [Self; 9] = [
        Self::Success,
        Self::Timeout,
        Self::Panic,
        Self::Retry,
        Self::Dead,
        Self::CallFailed,
        Self::Released,
        Self::Cancelled,
        Self::Lost,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::CallFailed => "call_failed",
            Self::Released => "released",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    const fn of(ending: &Ending, cause: Cause) -> Self {
        match (ending, cause) {
            (Ending::Lost, _) => Self::Lost,
            (_, Cause::Interrupted | Cause::Abandoned) => Self::Cancelled,
            (Ending::Succeeded, _) => Self::Success,
            (Ending::Released { .. }, _) => Self::Released,
            (
                Ending::Retried { failure, .. } | Ending::DeadLettered { failure } | Ending::CallFailed { failure },
                _,
            ) => match (failure.kind, ending) {
                (FailureKind::TimedOut, _) => Self::Timeout,
                (FailureKind::Panic, _) => Self::Panic,
                (_, Ending::Retried { .. }) => Self::Retry,
                (_, Ending::CallFailed { .. }) => Self::CallFailed,
                _ => Self::Dead,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_at_its_own_number() {
        for (number, processed) in Processed::ALL.into_iter().enumerate() {
            assert_eq!(processed as usize, number);
        }
    }
}
