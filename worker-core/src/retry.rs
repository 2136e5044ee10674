//! How often, and after how long, a failed job is tried again.
//!
//! Pure arithmetic: the random number that spreads retries is an argument, so
//! that a test or a simulation can replay it.

use std::time::Duration;

/// The most retries a job can ask for.
///
/// With the default backoff that is a week. A larger count on an arriving job
/// is taken for a corrupt one.
pub const MAX_RETRIES_LIMIT: u32 = 1_000;

/// The longest time between two attempts, and the longest delay of an enqueue: a leap year.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Part of a delay that is random: a delay is stretched by 0 to 25%.
///
/// Never shortened, so a handler may rely on the pause it asked for; a quarter
/// is enough to spread jobs that failed together over several seconds.
pub const JITTER: f64 = 0.25;

/// How often and after how long a failed job is tried again.
///
/// # Examples
///
/// ```
/// use worker_core::{RetryPolicy, minutes, seconds};
///
/// let policy = RetryPolicy::new(8, seconds(2), minutes(10));
/// assert_eq!(policy.delay(1, 0.0), seconds(2));
/// assert_eq!(policy.delay(3, 0.0), seconds(8));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    max_retries: u32,
    base: Duration,
    cap: Duration,
}

impl RetryPolicy {
    /// Three retries, after 5 s, 10 s and 20 s: long enough to outlive a deploy
    /// or a restarted database, short enough that a person still remembers.
    /// Where a job asks for more, the pauses stop growing at 10 minutes.
    pub const DEFAULT: Self = Self::new(3, Duration::from_secs(5), Duration::from_secs(600));

    /// `max_retries` retries, the first after `base`, each pause twice the last, none above `cap`.
    ///
    /// `max_retries` is 0 to [`MAX_RETRIES_LIMIT`], `base` and `cap` are at most
    /// [`DELAY_MAX`]; larger values are cut to these. A `cap` below `base` is `base`.
    #[must_use]
    pub const fn new(max_retries: u32, base: Duration, cap: Duration) -> Self {
        let max_retries = if max_retries > MAX_RETRIES_LIMIT { MAX_RETRIES_LIMIT } else { max_retries };
        let base = if base.as_nanos() > DELAY_MAX.as_nanos() { DELAY_MAX } else { base };
        let cap = if cap.as_nanos() > DELAY_MAX.as_nanos() { DELAY_MAX } else { cap };
        let cap = if cap.as_nanos() < base.as_nanos() { base } else { cap };
        Self { max_retries, base, cap }
    }

    /// The number of retries after the first attempt.
    #[must_use]
    pub const fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// The pause before the first retry, without jitter.
    #[must_use]
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The longest pause, without jitter.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The pause before the `n`-th retry (1 for the first):
    /// `min(cap, base · 2^(n-1)) · (1 + JITTER · draw)`.
    ///
    /// `draw` is uniform in `[0, 1)`. With base 5 s, cap 10 min and draw 0:
    /// 5 s, 10 s, 20 s, 40 s, … 10 min from the eighth retry on.
    /// Source of the idea: M. Brooker, "Exponential backoff and jitter", AWS
    /// Architecture Blog, 2015; unlike there, the pause is never shortened.
    #[must_use]
    pub fn delay(&self, n: u32, draw: f64) -> Duration {
        // 2^31 · 1 ms is already 25 days; saturating keeps the largest exponent harmless.
        let doublings = n.saturating_sub(1).min(31);
        let plain = self.base.saturating_mul(1 << doublings).min(self.cap);
        let draw = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 0.0 };
        plain + plain.mul_f64(JITTER * draw)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_delay_is_a_leap_year() {
        assert_eq!(DELAY_MAX, Duration::from_secs(31_622_400));
    }

    #[test]
    fn the_pauses_double_up_to_the_cap() {
        let policy = RetryPolicy::new(20, Duration::from_secs(2), Duration::from_secs(600));
        let pauses: Vec<_> = (1..=11).map(|n| policy.delay(n, 0.0).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_shorter_than_the_plain_one_nor_longer_than_a_quarter_more(
            base_ms in 0_u64..100_000_000_000, cap_ms in 0_u64..100_000_000_000, n in 0_u32.., draw in any::<f64>(),
        ) {
            let policy = RetryPolicy::new(3, Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let plain = policy.delay(n, 0.0);
            let pause = policy.delay(n, draw);
            prop_assert!(plain <= policy.cap() && plain >= policy.base().min(policy.cap()));
            prop_assert!(pause >= plain && pause <= plain + plain.mul_f64(JITTER));
        }

        #[test]
        fn before_jitter_no_pause_is_shorter_than_the_one_before(base_ms in 0_u64..1_000_000, n in 1_u32..100_000) {
            let policy = RetryPolicy::new(3, Duration::from_millis(base_ms), Duration::from_secs(600));
            prop_assert!(policy.delay(n, 0.0) <= policy.delay(n + 1, 0.0));
        }
    }
}
