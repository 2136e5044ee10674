//! What code written by `#[job]` may name, and nothing else may.

use std::num::{NonZeroU8, NonZeroU16, NonZeroUsize};

pub use inventory;
pub use serde;

use crate::{envelope::Priority, handler::Supplied};
pub use crate::{
    exchange::ExchangeKind,
    handler::{Argument, Arguments, Context, Handler, Payload, Registration, Requirement},
    job::{Enqueue, Job, JobOptions, On},
    outcome::JobResult,
    queue::QueueType,
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

/// The priority `level`, which `#[job]` has checked.
pub const fn priority(level: u8) -> Priority {
    match Priority::new(level) {
        Some(priority) => priority,
        None => Priority::MAX,
    }
}

/// The limit of `slots`, which `#[job]` has checked.
pub const fn concurrency(slots: usize) -> NonZeroUsize {
    match NonZeroUsize::new(slots) {
        Some(slots) => slots,
        None => NonZeroUsize::MIN,
    }
}

/// So many shards, which `#[job]` has checked.
pub const fn shards(shards: u8) -> NonZeroU8 {
    match NonZeroU8::new(shards) {
        Some(shards) => shards,
        None => NonZeroU8::MIN,
    }
}

/// Up to so many jobs in a message, which `#[job]` has checked.
pub const fn bundle(most: u16) -> NonZeroU16 {
    match NonZeroU16::new(most) {
        Some(most) => most,
        None => NonZeroU16::MIN,
    }
}

/// How a supplied argument is had.
///
/// `T` has no bound here, so that an argument which cannot be supplied is one
/// error, at the call of [`supplied`].
#[derive(Debug)]
pub struct Supply<T> {
    /// What the worker must have been given for it.
    pub requirements: fn() -> Vec<Requirement>,
    /// Takes it from the context.
    pub supply: fn(&Context) -> JobResult<T>,
}

/// Checks the type of a supplied argument, and says how it is had.
pub const fn supplied<T: Supplied>() -> Supply<T> {
    Supply { requirements: T::requirements, supply: T::supply }
}

/// Checks an argument's type; called for nothing else, so that the compiler's error is on the argument.
pub const fn argument<T: PayloadArgument>() {}

/// A type that can be part of a payload.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a job's payload",
    label = "neither payload nor supplied",
    note = "payload is written as JSON: derive `Serialize` and `Deserialize` for it (`cargo add serde --features derive`)",
    note = "state goes in as `State<T>`; something else the worker supplies is marked `#[supplied]`"
)]
pub trait PayloadArgument {}

#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> PayloadArgument for T {}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use tokio_util::sync::CancellationToken;

    use crate::{
        handler::{Context, ContextParts, Handler, States},
        id::JobId,
        outcome::JobResult,
        prelude::*,
        time::Timestamp,
    };

    /// Runs a payload as a worker does that was given the number 7 as its state.
    async fn run<J: Handler>(body: &str) -> JobResult<J::Return> {
        let mut states = States::default();
        states.insert(Arc::new(7_u64));
        let cx = Context::new(ContextParts {
            id: JobId::new(),
            job: J::NAME.parse().unwrap(),
            queue: J::QUEUE.parse().unwrap(),
            attempt: 3,
            enqueued_at: Timestamp::default(),
            timeout: J::OPTIONS.timeout,
            headers: Default::default(),
            is_call: false,
            stopping: CancellationToken::new(),
            states: Arc::new(states),
        });
        serde_json::from_str::<J>(body).unwrap().run(cx).await
    }

    #[job]
    async fn private_all(text: String, state: State<u64>, _n: u8, cx: Context) -> JobResult<(String, u64, u8, u32)> {
        Ok((text, *state, _n, cx.attempt()))
    }

    #[job]
    async fn private_whole(Payload(numbers): Payload<Vec<u8>>, cx: JobContext) -> bool {
        numbers.len() == 3 && cx.job() == "private_whole"
    }

    #[job]
    fn private_blocking(text: String, state: State<u64>) -> JobResult<String> {
        Ok(format!("{text} {} {:?}", *state, thread::current().id()))
    }

    #[job]
    fn private_panicking() {
        panic!("out of order");
    }

    #[job]
    async fn private_without_state(_text: State<String>) {}

    #[tokio::test]
    async fn a_function_gets_its_arguments_from_the_payload_and_from_the_worker() {
        let returned = run::<private_all>(r#"{"n": 1, "text": "t"}"#).await.unwrap();
        assert_eq!(returned.unwrap(), ("t".to_owned(), 7, 1, 3));
        assert!(run::<private_whole>("[1, 2, 3]").await.unwrap());
    }

    #[tokio::test]
    async fn a_plain_function_runs_on_another_thread() {
        let here = format!("{:?}", thread::current().id());
        let returned = run::<private_blocking>(r#"{"text": "t"}"#).await.unwrap().unwrap();
        assert!(returned.starts_with("t 7 ThreadId") && !returned.contains(&here), "{returned}, not {here}");
        let blocks = [private_blocking::BLOCKING, private_all::BLOCKING];
        assert_eq!(blocks, [true, false]);
    }

    #[tokio::test]
    #[should_panic(expected = "out of order")]
    async fn a_panic_of_a_plain_function_goes_on() {
        drop(run::<private_panicking>("{}").await);
    }

    #[tokio::test]
    async fn what_cannot_be_supplied_fails_the_attempt() {
        let error = run::<private_without_state>("{}").await.unwrap_err();
        assert!(error.to_string().contains("no state of type `alloc::string::String`"), "{error}");
    }
}
