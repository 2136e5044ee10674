//! What code written by `#[job]` may name, and nothing else may.

pub use inventory;
pub use serde;

pub use crate::{
    envelope::Priority,
    handler::{Argument, Arguments, Context, Handler, Registration, Requirement, Supplied},
    job::{Enqueue, Job, JobOptions},
    outcome::{JobResult, JobReturn},
    retry::RetryPolicy,
};

/// Runs `job` on the blocking pool, inside the current span; a panic goes on here.
pub async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(job)).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being torn down and the thread was never started: the
            // delivery is given back by whoever tears it down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Checks an argument's type; called by nobody, so that the compiler's error is on the argument.
pub const fn argument<T: PayloadArgument>() {}

/// Checks a supplied argument's type, likewise.
pub const fn supplied<T: Supplied>() {}

/// Checks a return type, likewise.
pub const fn returned<T: JobReturn>() {}

/// A type that can be part of a payload.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a job's payload",
    label = "neither payload nor supplied",
    note = "payload is written as JSON: derive `Serialize` and `Deserialize` for it",
    note = "state goes in as `State<T>`; something else the worker supplies is marked `#[supplied]`"
)]
pub trait PayloadArgument {}

#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> PayloadArgument for T {}
