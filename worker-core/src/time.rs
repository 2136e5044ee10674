//! Dates, and who says what time it is.
//!
//! Wall time is used for dates only: when a job was enqueued, when it is due,
//! when it expires. Waiting uses `tokio`'s monotonic clock. Everything that
//! needs a date asks a [`Clock`], so that tests can choose it.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A point in wall time, in whole milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last date that can be printed as RFC 3339: the end of the year 9999.
    const MAX_MS: u64 = 253_402_300_799_999;

    /// From milliseconds since 1970-01-01 UTC; later than the year 9999 is cut to its end.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(if unix_ms > Self::MAX_MS { Self::MAX_MS } else { unix_ms })
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// A date before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(timestamp.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Rounds up to the next millisecond, so that nothing is due early.
    fn add(self, duration: Duration) -> Self {
        let ms = duration.as_nanos().div_ceil(1_000_000);
        Self::from_unix_ms(self.0.saturating_add(u64::try_from(ms).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis((*self).into()).fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Says what time it is.
pub trait Clock: Send + Sync + 'static {
    /// The date now.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A date that advances with `tokio`'s clock, and so is virtual where that is paused.
///
/// It does not follow later changes of the machine's wall clock.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: Timestamp,
    started: Instant,
}

impl TokioClock {
    /// Starts at the date that the machine's wall clock shows now.
    #[must_use]
    pub fn starting_now() -> Self {
        Self { origin: SystemClock.now(), started: monotonic_now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        // Down, not up: `Timestamp + Duration` would show a due date before `tokio` reaches it.
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_unix_ms(self.origin.unix_ms().saturating_add(elapsed))
    }
}

/// A date that moves only when told.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.unix_ms()))
    }

    /// Moves the date forward.
    pub fn advance(&self, duration: Duration) {
        self.advance_to(self.now() + duration);
    }

    /// Moves the date forward to `date`; an earlier one changes nothing.
    pub fn advance_to(&self, date: Timestamp) {
        self.0.fetch_max(date.unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// The monotonic time, as `tokio` has it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub(crate) fn monotonic_now() -> Instant {
    Instant::now()
}

/// A duration of `n` seconds.
#[must_use]
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A duration of `n` minutes.
#[must_use]
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(60))
}

/// A duration of `n` hours.
#[must_use]
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(3_600))
}

/// A duration of `n` days of 24 hours.
#[must_use]
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_prints_as_rfc_3339() {
        assert_eq!(Timestamp::from_unix_ms(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::from_unix_ms(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn adding_never_makes_a_date_early_or_wraps() {
        let t = Timestamp::from_unix_ms(10);
        assert_eq!((t + Duration::from_micros(1)).unix_ms(), 11);
        assert_eq!(t + Duration::MAX, Timestamp::from_unix_ms(u64::MAX));
        assert_eq!(t - Duration::MAX, Timestamp::from_unix_ms(0));
        assert_eq!(t.since(t + seconds(1)), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_never_goes_back() {
        let clock = ManualClock::new(Timestamp::from_unix_ms(1_000));
        clock.advance(seconds(1));
        clock.advance_to(Timestamp::from_unix_ms(5));
        assert_eq!(clock.now().unix_ms(), 2_000);
    }
}
