//! Which types of jobs are so quick that several of them are run by one task: a pure rule.

use std::time::Duration;

/// The longest that a quick job takes: 50 µs, so that a full group keeps its thread for 0.8 ms, if each takes as long.
const QUICK_MAX: Duration = Duration::from_micros(50);

/// So many of a type must have been quick one after the other.
const STREAK: u8 = 16;

/// The most that share a task: few enough that the first group runs while the next is put together.
pub(super) const GROUP_MAX: usize = 16;

/// How each type of job was lately.
#[derive(Debug, Default)]
pub(super) struct Quickness {
    /// By the job's number: how many in a row were quick, up to [`STREAK`].
    streaks: Vec<u8>,
}

impl Quickness {
    /// A job of this number ended: whether it ever waited, and how long it took.
    pub(super) fn ended(&mut self, number: usize, has_waited: bool, elapsed: Duration) {
        if self.streaks.len() <= number {
            self.streaks.resize(number + 1, 0);
        }
        let streak = &mut self.streaks[number];
        *streak = if has_waited || elapsed > QUICK_MAX { 0 } else { (*streak + 1).min(STREAK) };
    }

    /// A job of this number turned out to wait, or to take long.
    pub(super) fn turned_out_slow(&mut self, number: usize) {
        self.ended(number, true, Duration::ZERO);
    }

    /// Whether jobs of this number may share a task.
    pub(super) fn is_quick(&self, number: usize) -> bool {
        self.streaks.get(number) == Some(&STREAK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_quick_after_many_quick_jobs_and_no_more_after_a_single_other_one() {
        for (has_waited, elapsed) in [(true, Duration::ZERO), (false, QUICK_MAX + Duration::from_nanos(1))] {
            let mut quickness = Quickness::default();
            for _ in 0..STREAK {
                assert!(!quickness.is_quick(3));
                quickness.ended(3, false, QUICK_MAX);
            }
            quickness.ended(3, false, QUICK_MAX);
            assert!(quickness.is_quick(3));
            assert!(!quickness.is_quick(2) && !quickness.is_quick(4), "others are not concerned");
            quickness.ended(2, has_waited, elapsed);
            assert!(quickness.is_quick(3));
            quickness.ended(3, has_waited, elapsed);
            assert!(!quickness.is_quick(3), "{has_waited} {elapsed:?}");
            (1..STREAK).for_each(|_| quickness.ended(3, false, Duration::ZERO));
            assert!(!quickness.is_quick(3), "it begins anew");
        }
    }
}
