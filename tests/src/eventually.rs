//! Waiting for a condition that nothing announces: the only place that polls.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

/// How long a test waits for what must come. Long, because a machine can be
/// busy; it costs nothing when the condition holds, and nothing in virtual time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, and gives what it found.
///
/// `what` completes the sentence "it did not happen that …".
///
/// # Panics
///
/// When nothing was found within [`PATIENCE`].
///
/// # Cancel safety
///
/// Cancel safe as far as `look` is.
pub async fn eventually<T>(what: impl Display, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    };
    within(PATIENCE, what, found).await
}

/// As [`eventually`], for what takes longer than [`PATIENCE`] by its nature.
///
/// `look` is no async closure, so that this can run on any thread: the
/// compiler cannot see that those are `Send`.
///
/// # Panics
///
/// When nothing was found within `patience`.
///
/// # Cancel safety
///
/// Cancel safe as far as what `look` gives is.
pub async fn eventually_within<T, F>(patience: Duration, what: impl Display, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    };
    within(patience, what, found).await
}

/// Looks until `holds`, for tests without a runtime.
///
/// # Panics
///
/// As [`eventually`].
#[track_caller]
pub fn eventually_blocking(what: impl Display, mut holds: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !holds() {
        assert!(asked.elapsed() < PATIENCE, "within {PATIENCE:?} it did not happen that {what}");
        thread::park_timeout(PAUSE);
    }
}

/// Waits for `coming`, which must come.
///
/// # Panics
///
/// When it did not come within [`PATIENCE`].
///
/// # Cancel safety
///
/// As `coming`.
pub async fn soon<T>(what: impl Display, coming: impl Future<Output = T>) -> T {
    within(PATIENCE, what, coming).await
}

async fn within<T>(patience: Duration, what: impl Display, coming: impl Future<Output = T>) -> T {
    match timeout(patience, coming).await {
        Ok(value) => value,
        Err(_) => panic!("within {patience:?} it did not happen that {what}"),
    }
}
