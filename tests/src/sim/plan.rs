//! What a seed decides in advance: the jobs, and what their handlers do.

use std::time::Duration;

use fastrand::Rng;
use worker_core::{FailureKind, JobOptions, RetryPolicy, seconds};

/// The types of jobs, by how patient they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    /// Retried three times.
    Steady,
    /// Never retried, in a queue of its own.
    Fragile,
    /// Retried five times, one at a time in each worker.
    Single,
}

impl Type {
    pub(super) const ALL: [Self; 3] = [Self::Steady, Self::Fragile, Self::Single];

    pub(super) const fn options(self) -> JobOptions {
        let options = JobOptions::DEFAULT.timeout(seconds(20));
        match self {
            Self::Steady => options.retry(RetryPolicy::new(3, seconds(1), seconds(8))),
            Self::Fragile => options.retry(RetryPolicy::new(0, seconds(1), seconds(1))),
            Self::Single => {
                options.retry(RetryPolicy::new(5, seconds(1), seconds(4))).concurrency(std::num::NonZeroUsize::MIN)
            }
        }
    }

    pub(super) const fn queue(self) -> &'static str {
        match self {
            Self::Steady | Self::Single => "main",
            Self::Fragile => "side",
        }
    }
}

/// What one attempt does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Succeed,
    Fail,
    Panic,
    Discard,
    RetryIn(Duration),
    /// Runs into its timeout.
    Hang,
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    pub(super) id: String,
    pub(super) of_type: Type,
    /// What each attempt does; the last is repeated.
    pub(super) acts: Vec<Act>,
    /// How long each run takes.
    pub(super) work: Duration,
    /// How often it asks to be called again, before it does anything else.
    pub(super) snoozes: u32,
    pub(super) enqueue_at: Duration,
    pub(super) delay: Duration,
    pub(super) expires_in: Option<Duration>,
    pub(super) priority: u8,
    /// How many may be in one message with it; then it asks for no priority.
    pub(super) bundle: u16,
}

impl JobPlan {
    pub(super) fn act(&self, attempt: u32) -> Act {
        self.acts[usize::try_from(attempt - 1).unwrap().min(self.acts.len() - 1)]
    }

    /// How it ends where nothing but itself decides, and after how many failed attempts.
    pub(super) fn expected(&self) -> (Result<(), FailureKind>, u32) {
        let max_retries = self.of_type.options().retry.max_retries();
        for attempt in 1.. {
            let kind = match self.act(attempt) {
                Act::Succeed => return (Ok(()), attempt - 1),
                Act::Discard => return (Err(FailureKind::Discarded), attempt),
                Act::Fail | Act::RetryIn(_) => FailureKind::Error,
                Act::Panic => FailureKind::Panic,
                Act::Hang => FailureKind::TimedOut,
            };
            if attempt > max_retries {
                return (Err(kind), attempt);
            }
        }
        unreachable!("retries end")
    }
}

/// All that a seed decides in advance.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) jobs: Vec<JobPlan>,
    /// When the world is healed.
    pub(super) trouble_lasts: Duration,
    /// Slots for worker processes; in each, one follows the other.
    pub(super) workers: u64,
    /// How likely a call to the broker fails, in thousandths.
    pub(super) faults_per_mille: u32,
    /// Whether workers crash, freeze, stop and start.
    pub(super) workers_end: bool,
}

fn ms(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let count = rng.u32(1..60);
        // Some worlds are quiet in one way, so that what remains is not drowned.
        let faults_per_mille = [0, 20, 60, 150][rng.usize(..4)];
        Self {
            jobs: (0..count).map(|n| job(rng, n)).collect(),
            trouble_lasts: ms(rng, 5_000..90_000),
            workers: rng.u64(1..4),
            faults_per_mille,
            workers_end: faults_per_mille == 0 || rng.u8(..4) > 0,
        }
    }

    pub(super) fn job(&self, id: &str) -> &JobPlan {
        self.jobs.iter().find(|job| job.id == id).unwrap()
    }
}

fn job(rng: &mut Rng, n: u32) -> JobPlan {
    let act = |rng: &mut Rng| match rng.u8(..12) {
        0..3 => Act::Fail,
        3..5 => Act::Panic,
        5 => Act::Discard,
        6 => Act::RetryIn(ms(rng, 0..5_000)),
        7 => Act::Hang,
        _ => Act::Succeed,
    };
    let most = rng.usize(1..7);
    JobPlan {
        id: format!("job-{n}"),
        of_type: Type::ALL[rng.usize(..3)],
        acts: (0..most).map(|_| act(rng)).collect(),
        work: if rng.bool() { Duration::ZERO } else { ms(rng, 0..6_000) },
        snoozes: if rng.u8(..4) == 0 { rng.u32(1..4) } else { 0 },
        enqueue_at: ms(rng, 0..40_000),
        delay: if rng.u8(..3) == 0 { ms(rng, 0..20_000) } else { Duration::ZERO },
        expires_in: (rng.u8(..8) == 0).then(|| ms(rng, 0..30_000)),
        priority: if rng.u8(..4) == 0 { rng.u8(..32) } else { 4 },
        bundle: 1,
    }
}
