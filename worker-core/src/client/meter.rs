//! What a client counts: the jobs that it enqueued, by type.
//!
//! As many series as there are types of jobs, which stand in code.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use metrics::{Counter, counter};

use crate::{
    name::{JobName, QueueName},
    telemetry::JOBS_ENQUEUED,
};

/// The counters of the types that were enqueued, each asked of the recorder once.
#[derive(Default)]
pub(super) struct Meter {
    enqueued: Mutex<HashMap<(JobName, QueueName), Counter>>,
}

impl Meter {
    /// The broker has a job of this type.
    pub(super) fn enqueued(&self, job: &JobName, queue: &QueueName) {
        let mut enqueued = self.enqueued.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = enqueued.entry((job.clone(), queue.clone())).or_insert_with(|| {
            let (job, queue) = (job.to_string(), queue.to_string());
            counter!(JOBS_ENQUEUED, "job" => job, "queue" => queue)
        });
        counter.increment(1);
    }
}
