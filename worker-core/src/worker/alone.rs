//! A suspect's wait until nothing else runs.

use std::{
    future::{Future, pending},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How long a suspect waits to run alone before it runs beside what does not end.
pub(super) const ALONE_WAIT_MAX: Duration = Duration::from_secs(300);

/// How long nothing else starts once nothing runs, for a suspect that is on its way back: several
/// times the second for which it was put off. Another worker may have it.
pub(super) const ALONE_IDLE_MAX: Duration = Duration::from_secs(5);

/// How far such a wait has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AloneWait {
    None,
    /// Nothing else starts until then.
    Until(Instant),
    /// Nothing runs any more, and the suspect, which was put off, has until then to come again.
    Idle(Instant),
    Over,
}

impl AloneWait {
    /// Resolves when it has taken as long as it may; never where there is none.
    pub(super) fn over(self) -> impl Future<Output = ()> + use<> {
        at(if let Self::Until(deadline) | Self::Idle(deadline) = self { Some(deadline) } else { None })
    }
}

/// Resolves at `deadline`; never where there is none.
pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
