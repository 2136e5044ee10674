//! What a worker counts and measures.
//!
//! Each series' handle is asked of the recorder once and kept, so that a job
//! costs a few atomic additions, and without a recorder nothing. Their number
//! is bounded by what was registered: queues of the worker times its jobs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    broker::Delivery,
    name::{JobName, QueueName},
    outcome::FailureKind,
    registry::Registry,
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
    registry: Arc<Registry>,
    lanes: Vec<LaneMeter>,
    /// Of registered jobs, and one for all others.
    types: HashMap<(QueueName, Option<JobName>), TypeMeter>,
    acks_lost: Counter,
    duplicates_suspected: Counter,
}

/// One queue. Several workers of a process may serve it, so gauges are raised and lowered, never set.
struct LaneMeter {
    slots: f64,
    concurrency: Gauge,
    running: usize,
    in_flight: Gauge,
}

/// One type of job in one queue.
struct TypeMeter {
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
        registry: Arc<Registry>,
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
            LaneMeter::new(&queue, slots)
        });
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "broker" => broker).set(1.0);
        Self {
            registry,
            lanes: lanes.collect(),
            types: HashMap::new(),
            acks_lost: counter!(ACKS_LOST),
            duplicates_suspected: counter!(DUPLICATES_SUSPECTED),
        }
    }

    /// A job starts. Its wait counts when it is the first start.
    pub(super) fn started(&mut self, delivery: &Delivery, job: &JobName, now: Timestamp) {
        if delivery.attempt == 1 && delivery.starts == 0 {
            let waited = now.since(delivery.envelope.enqueued_at);
            self.of(&delivery.queue, Some(job)).wait.record(waited);
        }
    }

    /// A handler has run for so long.
    pub(super) fn ended(&mut self, delivery: &Delivery, elapsed: Duration) {
        self.of(&delivery.queue, delivery.envelope.name.as_ref()).duration.record(elapsed);
    }

    /// A job has left this worker.
    pub(super) fn settled(&mut self, Settled { report, cause, .. }: &Settled) {
        if report.ending == Ending::Lost {
            self.acks_lost.increment(1);
        }
        if matches!(cause, Cause::Unstarted | Cause::PutOff) {
            return;
        }
        if report.ending == Ending::Lost {
            self.duplicates_suspected.increment(1);
        }
        let processed = Processed::of(&report.ending, *cause);
        self.of(&report.queue, report.job.as_ref()).processed[processed as usize].increment(1);
        if let Ending::DeadLettered { failure } = &report.ending {
            let job = label(self.registered(&report.queue, report.job.as_ref()));
            let (queue, reason) = (shard::whole(&report.queue).to_string(), failure.kind.as_str());
            counter!(DEAD_LETTERS, "job" => job, "queue" => queue, "reason" => reason).increment(1);
        }
    }

    /// So many jobs of each lane run.
    pub(super) fn running(&mut self, running: impl Iterator<Item = usize>) {
        self.lanes.iter_mut().zip(running).for_each(|(lane, running)| lane.running(running));
    }

    fn of(&mut self, queue: &QueueName, job: Option<&JobName>) -> &TypeMeter {
        let key = (shard::whole(queue), self.registered(queue, job).cloned());
        self.types.entry(key).or_insert_with_key(|(queue, job)| TypeMeter::new(queue, job.as_ref()))
    }

    /// The name under which the job is registered, whatever alias its producer knows it by.
    fn registered(&self, queue: &QueueName, job: Option<&JobName>) -> Option<&JobName> {
        self.registry.find(queue, job).map(|entry| &entry.name)
    }
}

fn label(job: Option<&JobName>) -> String {
    job.map_or(UNKNOWN_JOB, JobName::as_str).to_owned()
}

impl LaneMeter {
    #[expect(clippy::cast_precision_loss, reason = "slots are at most 10,000")]
    fn new(queue: &QueueName, slots: usize) -> Self {
        let lane = Self {
            slots: slots as f64,
            concurrency: gauge!(CONCURRENCY, "queue" => queue.to_string()),
            running: 0,
            in_flight: gauge!(JOBS_IN_FLIGHT, "queue" => queue.to_string()),
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

impl TypeMeter {
    fn new(queue: &QueueName, job: Option<&JobName>) -> Self {
        let (queue, job) = (queue.to_string(), label(job));
        let processed = |processed: Processed| {
            let (job, queue) = (job.clone(), queue.clone());
            counter!(JOBS_PROCESSED, "job" => job, "queue" => queue, "outcome" => processed.as_str())
        };
        Self {
            processed: Processed::ALL.map(processed),
            duration: histogram!(JOB_DURATION, "job" => job.clone(), "queue" => queue.clone()),
            wait: histogram!(JOB_WAIT, "job" => job, "queue" => queue),
        }
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
