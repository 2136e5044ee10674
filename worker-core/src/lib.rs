//! Background jobs that are neither lost, stuck nor silently dropped.
//!
//! An application marks functions with [`#[job]`](macro@job), enqueues them through a
//! [`Client`], and runs them in a [`Worker`] or in the operator's binary that
//! [`App`](cli::App) makes of the application. A broker stores the jobs.
#![forbid(unsafe_code)]

// So that generated code finds `::worker_core` in this crate's own tests too.
extern crate self as worker_core;

pub mod broker;
pub mod brokers;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
pub mod config;
mod connect;
pub mod envelope;
mod error;
mod handler;
mod id;
mod job;
mod name;
pub mod outcome;
mod registry;
pub mod retry;
pub mod settlement;
mod suggest;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod worker;

#[doc(hidden)]
pub mod __private;

pub use worker_macros::job;

pub use crate::{
    client::{Client, ClientOptions, ENQUEUE_TIMEOUT_DEFAULT, Enqueued},
    envelope::{Headers, Priority},
    error::{
        BrokerError, BrokerErrorKind, ConfigError, ConnectError, EnqueueError, EnqueueErrorKind, EnqueueFailure,
        RunError,
    },
    handler::{Argument, Arguments, Context, Handler, JobContext, Payload, Registration, Requirement, State, Supplied},
    id::{InvalidJobId, JOB_ID_BYTES_MAX, JobId},
    job::{DEFAULT_QUEUE, DEFAULT_TIMEOUT, Enqueue, Enqueueable, InvalidJob, Job, JobOptions, Prepared},
    name::{DEAD_LETTER_SUFFIX, InvalidName, JobName, NAME_BYTES_MAX, QueueName},
    outcome::{BoxError, Failure, FailureKind, JobError, JobResult, JobReturn},
    registry::Registry,
    retry::RetryPolicy,
    time::{Clock, ManualClock, SystemClock, Timestamp, TokioClock, days, hours, minutes, seconds},
    worker::{
        CONCURRENCY_DEFAULT, CONCURRENCY_MAX, DrainReport, Ending, GRACE_DEFAULT, JobReport, Observer,
        UNKNOWN_JOB_PATIENCE_DEFAULT, Worker, WorkerBuilder,
    },
};

/// Everything an application needs: `use worker_core::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Client, Context, Enqueueable, Job, JobContext, JobError, JobId, JobResult, Payload, State, Supplied, days,
        hours, job, minutes, seconds,
    };
}
