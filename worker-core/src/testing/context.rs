//! A context for calling a job function directly.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    envelope::Headers,
    handler::{Context, ContextParts, States},
    id::JobId,
    job::DEFAULT_TIMEOUT,
    time::{Clock as _, SystemClock},
};

/// Only with the feature `testing`.
impl Context {
    /// What a worker would supply on the first attempt of a job called `test` of the queue `test`.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the names are constants")]
    #[expect(clippy::expect_used, reason = "the names are constants")]
    pub fn test() -> Self {
        Self::new(ContextParts {
            id: JobId::new(),
            job: "test".parse().expect("`test` is a name"),
            queue: "test".parse().expect("`test` is a name"),
            attempt: 1,
            enqueued_at: SystemClock.now(),
            timeout: DEFAULT_TIMEOUT,
            headers: Headers::default(),
            is_call: false,
            stopping: CancellationToken::new(),
            states: Arc::new(States::default()),
        })
    }

    /// The same on another attempt, 1 for the first.
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        self.with(|parts| parts.attempt = attempt)
    }

    /// The same under another id.
    #[must_use]
    pub fn with_id(self, id: JobId) -> Self {
        self.with(|parts| parts.id = id)
    }

    /// The same with a header.
    #[must_use]
    pub fn with_header(self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.with(|parts| parts.headers.insert(name, value))
    }

    /// The same with state, for handlers that ask the context for it.
    #[must_use]
    pub fn with_state<T: Send + Sync + 'static>(self, state: T) -> Self {
        self.with(|parts| Arc::make_mut(&mut parts.states).insert(Arc::new(state)))
    }

    /// The same with this much time left.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        let parts = self.with(|parts| parts.timeout = timeout).into_parts();
        Self::new(parts)
    }

    /// The same in a worker that is shutting down.
    #[must_use]
    pub fn with_stopping(self) -> Self {
        self.with(|parts| {
            parts.stopping = CancellationToken::new();
            parts.stopping.cancel();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_context_says_what_it_was_told() {
        let cx = Context::test()
            .with_attempt(3)
            .with_id("order-1".parse().unwrap())
            .with_header("tenant", "a")
            .with_state(7_u8)
            .with_timeout(Duration::ZERO);
        assert_eq!((cx.attempt(), cx.id().to_string().as_str()), (3, "order-1"));
        assert_eq!(cx.header("tenant").unwrap(), "a");
        assert_eq!(*cx.state::<u8>().unwrap(), 7);
        assert!(cx.should_stop(), "no time is left");
        assert!(!cx.stopping().is_cancelled() && cx.with_stopping().stopping().is_cancelled());
    }

    #[test]
    fn nobody_can_stop_the_worker_through_a_jobs_token() {
        let cx = Context::test();
        cx.stopping().cancel();
        assert!(!cx.stopping().is_cancelled());
    }
}
