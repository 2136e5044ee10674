//! What must become true in the broker, and the one place that decides it.
//!
//! Two questions matter when a delivery is given up: does the job go back to
//! its queue, and does the attempt count against it? They make a square, and
//! the square is the four outcomes of AMQP 1.0 (part 3, section 4).
//!
//! | | leaves the queue | returns to the queue |
//! |---|---|---|
//! | **does not count** | [`Ack`](Settlement::Ack) | [`Release`](Settlement::Release) |
//! | **attempt failed** | [`DeadLetter`](Settlement::DeadLetter) | [`Retry`](Settlement::Retry) |

use std::time::Duration;

use crate::{
    envelope::Caller,
    outcome::{Failure, FailureKind, Outcome},
    reply::Reply,
    retry::{DELAY_MAX, RetryPolicy},
    time::Timestamp,
};

/// The shortest and the longest pause before an unknown job is offered again.
const UNKNOWN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What must become true in the broker about one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// The job is done: it leaves its queue, and whoever waits for it gets the reply.
    Ack {
        /// How it ended, for the caller; none where nobody waits.
        reply: Option<Reply>,
    },
    /// The job failed for good: it leaves its queue for the dead-letter queue.
    DeadLetter {
        /// Why, kept with the job.
        failure: Failure,
    },
    /// The job goes back to its queue as if it had not been delivered.
    Release {
        /// Not before this time has passed.
        after: Duration,
        /// What the next worker should know.
        note: Option<Note>,
    },
    /// The attempt failed: the job goes back to its queue with its count raised.
    Retry {
        /// Not before this time has passed.
        after: Duration,
        /// Why, kept with the job.
        failure: Failure,
    },
}

/// What travels with a released job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// No worker has known the job's name since this date.
    UnknownSince(Timestamp),
}

/// Decides what the broker must make true, from what happened.
///
/// `attempt` is 1 on the first run; `draw` in `[0, 1)` spreads the retries.
/// Every outcome gives exactly one settlement, and no job is retried more than
/// `policy.max_retries()` times.
#[must_use]
pub fn decide(outcome: Outcome, attempt: u32, policy: &RetryPolicy, draw: f64) -> Settlement {
    match outcome {
        Outcome::Completed(value) => Settlement::Ack { reply: value.map(Reply::Returned) },
        Outcome::Failed { failure, .. } if attempt > policy.max_retries() => Settlement::DeadLetter { failure },
        Outcome::Failed { failure, retry_after } => {
            let after = retry_after.unwrap_or_else(|| policy.delay(attempt, draw));
            Settlement::Retry { after: after.min(DELAY_MAX), failure }
        }
        Outcome::Rejected(failure) => Settlement::DeadLetter { failure },
        Outcome::Snoozed(delay) => Settlement::Release { after: delay.min(DELAY_MAX), note: None },
        Outcome::Unknown { failure, waited, patience, .. } if waited >= patience => {
            debug_assert_eq!(failure.kind, FailureKind::UnknownJob);
            Settlement::DeadLetter { failure }
        }
        Outcome::Unknown { since, waited, patience, .. } => {
            // Half of the time waited so far: the pauses grow by half each, so that a
            // deploy of a minute is answered within a minute, and an hour costs about
            // seventy deliveries.
            let pause = (waited / 2).clamp(UNKNOWN_PAUSE.0, UNKNOWN_PAUSE.1).min(patience - waited);
            Settlement::Release { after: pause, note: Some(Note::UnknownSince(since)) }
        }
        Outcome::Interrupted => Settlement::Release { after: Duration::ZERO, note: None },
    }
}

/// Decides the same where somebody may wait for the reply: the end of a call is told to its caller, who
/// decides what follows.
///
/// A call is tried once, unless its caller asked for the retries of its job: a caller that waits calls
/// again, and each of its calls would otherwise become several. It leaves no dead letter, since its
/// failure is the caller's; a broker that knows that there is no caller any more keeps it all the same.
#[must_use]
pub fn decide_for(
    caller: Option<&Caller>,
    outcome: Outcome,
    attempt: u32,
    policy: &RetryPolicy,
    draw: f64,
) -> Settlement {
    let Some(caller) = caller else { return decide(outcome, attempt, policy, draw) };
    let once = RetryPolicy::new(0, policy.base(), policy.cap());
    match decide(outcome, attempt, if caller.retries { policy } else { &once }, draw) {
        Settlement::DeadLetter { failure } => Settlement::Ack { reply: Some(Reply::Failed(failure)) },
        settlement => settlement,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failed(retry_after: Option<Duration>) -> Outcome {
        Outcome::Failed { failure: Failure::new(FailureKind::Error, "no"), retry_after }
    }

    fn unknown(waited: Duration, patience: Duration) -> Outcome {
        let failure = Failure::new(FailureKind::UnknownJob, "who");
        Outcome::Unknown { failure, since: Timestamp::from_unix_ms(7), waited, patience }
    }

    #[test]
    fn a_job_that_always_fails_runs_once_and_then_as_often_as_it_may_be_retried() {
        let policy = RetryPolicy::new(3, Duration::from_secs(1), Duration::from_secs(600));
        let settlements: Vec<_> = (1..=4).map(|attempt| decide(failed(None), attempt, &policy, 0.0)).collect();
        let pauses: Vec<_> = settlements
            .iter()
            .filter_map(|s| if let Settlement::Retry { after, .. } = s { Some(after.as_secs()) } else { None })
            .collect();
        assert_eq!(pauses, [1, 2, 4], "the runs begin at 0, b, 3b and 7b");
        assert!(matches!(settlements[3], Settlement::DeadLetter { .. }));
    }

    #[test]
    fn an_unknown_job_is_offered_again_after_half_of_the_time_that_it_has_waited() {
        for (waited, pause) in [(0, 1), (30, 15), (100, 50), (1_000, 60), (3_590, 10)] {
            let outcome = unknown(Duration::from_secs(waited), Duration::from_secs(3_600));
            let settlement = decide(outcome, 1, &RetryPolicy::DEFAULT, 0.0);
            assert!(
                matches!(settlement, Settlement::Release { after, .. } if after.as_secs() == pause),
                "{settlement:?}"
            );
        }
    }

    #[test]
    fn a_chosen_pause_replaces_the_policys_but_not_its_count() {
        let policy = RetryPolicy::new(1, Duration::from_secs(1), Duration::from_secs(1));
        let chosen = Some(Duration::from_secs(99));
        assert!(
            matches!(decide(failed(chosen), 1, &policy, 0.9), Settlement::Retry { after, .. } if after.as_secs() == 99)
        );
        assert!(matches!(decide(failed(chosen), 2, &policy, 0.9), Settlement::DeadLetter { .. }));
    }

    #[test]
    fn an_unknown_job_is_offered_again_with_growing_pauses_until_patience_ends() {
        let patience = Duration::from_secs(3_600);
        let policy = RetryPolicy::DEFAULT;
        let mut waited = Duration::ZERO;
        let mut deliveries = 0;
        while let Settlement::Release { after, note } = decide(unknown(waited, patience), 1, &policy, 0.0) {
            assert_eq!(note, Some(Note::UnknownSince(Timestamp::from_unix_ms(7))));
            assert!(after > Duration::ZERO, "a hot loop");
            waited += after;
            deliveries += 1;
        }
        assert_eq!(waited, patience);
        assert!((50..100).contains(&deliveries), "{deliveries}");
    }

    fn caller(retries: bool) -> Option<Caller> {
        Some(Caller { address: "a".into(), correlation: "c".into(), retries })
    }

    #[test]
    fn a_call_that_fails_is_over_unless_its_caller_asked_for_retries() {
        let policy = RetryPolicy::new(3, Duration::from_secs(1), Duration::from_secs(600));
        let decided = |retries, attempt| decide_for(caller(retries).as_ref(), failed(None), attempt, &policy, 0.0);
        let told = Settlement::Ack { reply: Some(Reply::Failed(Failure::new(FailureKind::Error, "no"))) };
        assert_eq!(decided(false, 1), told);
        assert!(matches!(decided(true, 3), Settlement::Retry { .. }));
        assert_eq!(decided(true, 4), told);
    }

    #[test]
    fn what_ends_no_call_is_decided_as_for_any_job() {
        let policy = RetryPolicy::DEFAULT;
        for outcome in [Outcome::Snoozed(Duration::from_secs(1)), Outcome::Interrupted, Outcome::Completed(None)] {
            let decided = decide_for(caller(false).as_ref(), outcome.clone(), 1, &policy, 0.0);
            assert_eq!(decided, decide(outcome, 1, &policy, 0.0));
        }
    }

    proptest! {
        #[test]
        fn no_job_is_retried_beyond_its_maximum(max in 0_u32..2_000, attempt in 1_u32.., draw in 0.0..1.0) {
            let policy = RetryPolicy::new(max, Duration::from_secs(1), Duration::from_secs(2));
            let retried = matches!(decide(failed(None), attempt, &policy, draw), Settlement::Retry { .. });
            prop_assert_eq!(retried, attempt <= policy.max_retries());
        }

        #[test]
        fn no_pause_is_longer_than_a_year(ms in any::<u64>(), attempt in any::<u32>(), draw in 0.0..1.0) {
            let policy = RetryPolicy::new(u32::MAX, Duration::from_millis(ms), Duration::from_millis(ms));
            for outcome in [failed(None), failed(Some(Duration::from_millis(ms))), Outcome::Snoozed(Duration::from_millis(ms))] {
                if let Settlement::Retry { after, .. } | Settlement::Release { after, .. } = decide(outcome, attempt, &policy, draw) {
                    prop_assert!(after <= DELAY_MAX);
                }
            }
        }
    }
}
