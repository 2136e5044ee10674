//! The names of spans, events, fields and metrics, in one place.
//!
//! Logs are read by machines and by people who search for a word they saw in
//! the documentation, so every name is written down once, here, and is the
//! name of the type or the command-line column for the same thing.
//!
//! | event | level | when |
//! |---|---|---|
//! | `job succeeded` | debug | the broker has been told |
//! | `job will be retried` | info | an attempt failed, the next one is scheduled |
//! | `job released` | info | it goes back to its queue, the attempt does not count |
//! | `job dead-lettered` | warn | a person must look |
//! | `job lost` | warn | someone else has it now; a duplicate run is possible |
//!
//! A failing job is not an error of the worker. Payloads are never logged.
//!
//! # Metrics
//!
//! They go to whatever recorder the program has installed for the crate
//! [`metrics`], and nowhere without one. A recorder must be there before the
//! first enqueue and before [`Worker::run`](crate::Worker::run). [`METRICS`] is
//! the table: name, kind, labels, meaning.
//!
//! Labels have few values: the names of registered jobs ([`UNKNOWN_JOB`] stands
//! for all others), the worker's queues, and words of this crate. An id, an
//! argument or an error's text is never one.
//!
//! `outcome` of [`JOBS_PROCESSED`], one for each execution that ended and for
//! each job that could not be given to a handler:
//!
//! | outcome | the execution |
//! |---|---|
//! | `success` | succeeded |
//! | `timeout` | ran longer than the job's timeout, whatever became of the job then |
//! | `panic` | panicked, the same |
//! | `retry` | failed in another way, and is tried again |
//! | `dead` | failed in another way, and is among the dead |
//! | `call_failed` | failed in another way, and its caller was told |
//! | `released` | gave the job back: it snoozed, or this worker does not know it |
//! | `cancelled` | was cancelled at the end of the grace period, and given back |
//! | `lost` | ended when the job was no longer ours |

/// The span around one execution of a job, and around the event that closes it.
pub const SPAN_JOB: &str = "job";

/// The target of every event of the worker, for `RUST_LOG=worker=debug`.
pub const TARGET: &str = "worker";

/// The label `job` of a job that is not registered in this worker.
pub const UNKNOWN_JOB: &str = "unknown";

/// Jobs that were enqueued: the broker said `Ok`.
pub const JOBS_ENQUEUED: &str = "worker_jobs_enqueued_total";

/// Executions that ended, by outcome.
pub const JOBS_PROCESSED: &str = "worker_jobs_processed_total";

/// How long handlers ran.
pub const JOB_DURATION: &str = "worker_job_duration_seconds";

/// How long jobs waited, from the enqueue to their first start.
pub const JOB_WAIT: &str = "worker_job_wait_seconds";

/// Jobs that run now.
pub const JOBS_IN_FLIGHT: &str = "worker_jobs_in_flight";

/// Jobs that may run at once.
pub const CONCURRENCY: &str = "worker_concurrency";

/// Jobs that were dead-lettered by this worker.
pub const DEAD_LETTERS: &str = "worker_dead_letters_total";

/// How long the broker took to confirm a publish.
pub const PUBLISH_CONFIRM: &str = "worker_publish_confirm_seconds";

/// Publishes that were written to the broker and that it has not confirmed yet.
pub const PUBLISH_OUTSTANDING: &str = "worker_publish_outstanding";

/// Publishes that failed.
pub const PUBLISH_FAILURES: &str = "worker_publish_failures_total";

/// Executions whose job was no longer ours when they ended.
pub const DUPLICATES_SUSPECTED: &str = "worker_duplicates_suspected_total";

/// Settlements that came too late.
pub const ACKS_LOST: &str = "worker_acks_lost_total";

/// Connections that were made again.
pub const RECONNECTS: &str = "worker_reconnects_total";

/// Whether the server takes no new jobs.
pub const CONNECTION_BLOCKED: &str = "worker_connection_blocked";

/// Which build this is.
pub const BUILD_INFO: &str = "worker_build_info";

/// Bounds of the buckets in which durations and waits are best counted, in seconds: those
/// of OpenTelemetry for messaging, and longer ones, because jobs take longer than requests.
pub const SECONDS_BUCKETS: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0, 900.0];

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What sort of number it is.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub meaning: &'static str,
}

/// What sort of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// Many values, of which the distribution is kept.
    Histogram,
}

impl MetricKind {
    /// Its name, as Prometheus writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Every metric of this crate.
pub static METRICS: &[Metric] = {
    use MetricKind::{Counter, Gauge, Histogram};
    const fn metric(
        name: &'static str,
        kind: MetricKind,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Metric {
        Metric { name, kind, labels, meaning }
    }
    &[
        metric(JOBS_ENQUEUED, Counter, &["job", "queue"], "jobs that were enqueued: the broker said that it has them"),
        metric(JOBS_PROCESSED, Counter, &["job", "queue", "outcome"], "executions that ended, by outcome"),
        metric(JOB_DURATION, Histogram, &["job", "queue"], "how long handlers ran"),
        metric(
            JOB_WAIT,
            Histogram,
            &["job", "queue"],
            "how long jobs waited from the enqueue to their first start, a delay that was asked for included",
        ),
        metric(JOBS_IN_FLIGHT, Gauge, &["queue"], "jobs that run now"),
        metric(CONCURRENCY, Gauge, &["queue"], "jobs of the queue that may run at once"),
        metric(DEAD_LETTERS, Counter, &["job", "queue", "reason"], "jobs that this worker dead-lettered, by reason"),
        metric(PUBLISH_CONFIRM, Histogram, &[], "how long the broker took to confirm a publish that it took"),
        metric(PUBLISH_OUTSTANDING, Gauge, &[], "publishes that the broker has not confirmed yet"),
        metric(
            PUBLISH_FAILURES,
            Counter,
            &["reason"],
            "publishes that the broker did not take in the time they had: `not_sent`, `unroutable`, `refused`, `unknown`",
        ),
        metric(
            DUPLICATES_SUSPECTED,
            Counter,
            &[],
            "executions whose job was no longer ours when they ended: it may run twice",
        ),
        metric(ACKS_LOST, Counter, &[], "settlements that came too late: the job was no longer ours"),
        metric(RECONNECTS, Counter, &[], "connections to the broker that were lost and made again"),
        metric(
            CONNECTION_BLOCKED,
            Gauge,
            &[],
            "connections on which the server takes no new jobs now; 0 where all is well",
        ),
        metric(
            BUILD_INFO,
            Gauge,
            &["version", "broker"],
            "always 1; the labels say which version this is, on which broker",
        ),
    ]
};

/// Tells the recorder of this process what each metric means. Call it once, after installing the recorder.
pub fn describe_metrics() {
    for Metric { name, kind, meaning, .. } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(*name, *meaning),
            MetricKind::Gauge => metrics::describe_gauge!(*name, *meaning),
            MetricKind::Histogram => metrics::describe_histogram!(*name, *meaning),
        }
    }
}
