//! The names of spans, events and fields, in one place.
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

/// The span around one execution of a job, and around the event that closes it.
pub const SPAN_JOB: &str = "job";

/// The target of every event of the worker, for `RUST_LOG=worker=debug`.
pub const TARGET: &str = "worker";
