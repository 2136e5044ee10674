//! How long it took, and how much of the processor.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde::Serialize;

/// The kernel counts processor time in these (proc(5)): `USER_HZ` is 100 on all of today's Linux.
const TICK: Duration = Duration::from_millis(10);

/// What a peer prints.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measured {
    pub jobs: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
}

/// A clock that runs.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    processor: Duration,
}

impl Clock {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self { processor: processor(), began: Instant::now() }
    }

    /// Until now.
    #[must_use]
    pub fn stop(self, jobs: u64) -> Measured {
        self.stop_at(jobs, Instant::now())
    }

    /// Until then, as the last job has told it.
    #[must_use]
    pub fn stop_at(self, jobs: u64, then: Instant) -> Measured {
        let cpu_seconds = processor().saturating_sub(self.processor).as_secs_f64();
        Measured { jobs, seconds: (then - self.began).as_secs_f64(), cpu_seconds }
    }
}

/// The processor time of this process so far, that of threads that have ended included; exact to 20 ms.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the program's name, may have spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    TICK * ticks.sum()
}
