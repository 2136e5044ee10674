//! Background jobs that are neither lost, stuck nor silently dropped.
//!
//! ```text
//!  Client ──enqueue──▶ Broker ──deliver──▶ Consumer ──▶ Dispatcher ──▶ Executor ──▶ Handler
//!    ▲                   ▲                                                           │
//!  (application)         └──────settle─────── Settler ◀──Settlement── decide ◀──Outcome
//! ```
//!
//! In the order of the flow:
//!
//! * A **job** is a function marked [`#[job]`](macro@job). Beside it stands a
//!   payload type of the same name ([`Job`], [`Handler`]), whose `new` makes an
//!   [`Enqueue`] with delay, priority, id, headers and expiry.
//! * A [`Client`] enqueues. `Ok` means durable; [`EnqueueErrorKind`] says what to
//!   do otherwise.
//! * A **broker** ([`broker`], [`brokers`]) keeps the jobs and hands them out:
//!   a RabbitMQ server, a SQLite file, or memory for tests. What it promises is a list of clauses,
//!   each with a test.
//! * A [`Worker`] takes deliveries, runs handlers in slots, and tells the broker
//!   how each ended; its [`WorkerStatus`] tells probes how it is. The [`Context`] tells the handler where it is, [`State`] is
//!   what it shares with others.
//! * An [`outcome`] becomes a [`settlement`] in one pure function, by the job's
//!   [`RetryPolicy`].
//! * A job that cannot succeed is a **dead letter**, kept for people
//!   ([`broker::Inspector`]).
//! * [`App`](cli::App) makes the operator's binary of all that.
//! * [`testing`] is for the tests of applications.
//!
//! # Examples
//!
//! A program with one job; `enqueue`, `run` and the rest are its commands:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use worker_core::prelude::*;
//!
//! /// Greets somebody.
//! #[job]
//! async fn greet(name: String) {
//!     println!("hello {name}");
//! }
//!
//! fn main() -> ExitCode {
//!     App::new().main()
//! }
//! ```
//!
//! The same without the commands:
//!
//! ```
//! use worker_core::{Registry, prelude::*};
//!
//! #[job]
//! async fn greet(name: String) {
//!     println!("hello {name}");
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("memory:").await?;
//! client.enqueue(greet::new("Ada")).await?;
//!
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let worker = Worker::builder(&client).registry(Registry::new().with::<greet>());
//! let worker = worker.observe({
//!     let stop = std::sync::Mutex::new(Some(stop));
//!     move |_| drop(stop.lock().unwrap().take())
//! });
//! let report = worker.build()?.run(async { drop(stopped.await) }).await?;
//! assert_eq!(report.settled, 1);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `sqlite` | yes | the embedded broker |
//! | `rabbitmq` | yes | the RabbitMQ broker, for `amqp://` URLs |
//! | `cli` | yes | [`cli::App`], the operator's binary |
//! | `admin` | yes | `run --admin`: probes and metrics over HTTP |
//! | `testing` | no | [`testing`], for the tests of applications |
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
mod event;
pub mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handler;
mod id;
mod job;
mod name;
pub mod outcome;
pub mod queue;
mod registry;
pub mod reply;
pub mod retry;
pub mod settlement;
pub mod shard;
mod suggest;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod worker;

#[doc(hidden)]
pub mod __private;

pub use worker_macros::{Event, job};

pub use crate::{
    client::{
        CALL_TIMEOUT_DEFAULT, Call, CallTimeout, Client, ClientOptions, ENQUEUE_TIMEOUT_DEFAULT, EnqueueAll, Enqueued,
        HEALTH_WAIT_DEFAULT, Health, HealthCheck, Presence, QueueHealth,
    },
    envelope::{Headers, Priority},
    error::{
        BrokerError, BrokerErrorKind, CallError, CallFailure, ConfigError, ConnectError, EnqueueError,
        EnqueueErrorKind, EnqueueFailure, RunError,
    },
    event::{Event, Publish},
    handler::{Argument, Arguments, Context, Handler, JobContext, Payload, Registration, Requirement, State, Supplied},
    id::{InvalidJobId, JOB_ID_BYTES_MAX, JobId},
    job::{DEFAULT_QUEUE, DEFAULT_TIMEOUT, Enqueue, Enqueueable, InvalidJob, Job, JobOptions, On, Prepared},
    name::{DEAD_LETTER_SUFFIX, ExchangeName, InvalidName, JobName, NAME_BYTES_MAX, QueueName},
    outcome::{BoxError, Failure, FailureKind, JobError, JobResult, JobReturn},
    registry::Registry,
    retry::RetryPolicy,
    time::{Clock, ManualClock, SystemClock, Timestamp, TokioClock, days, hours, minutes, seconds},
    worker::{
        CONCURRENCY_DEFAULT, CONCURRENCY_MAX, Check, DrainReport, Ending, GRACE_DEFAULT, Intake, JobReport, Observer,
        QueueStatus, Stalled, UNKNOWN_JOB_PATIENCE_DEFAULT, Worker, WorkerBuilder, WorkerPhase, WorkerStatus,
    },
};

/// Everything an application needs: `use worker_core::prelude::*;`.
pub mod prelude {
    #[cfg(feature = "cli")]
    pub use crate::cli::App;
    pub use crate::{
        Client, Context, Enqueueable, Event, Job, JobContext, JobError, JobId, JobResult, Payload, Publish, State,
        Supplied, Worker, days, hours, job, minutes, seconds,
    };
}
