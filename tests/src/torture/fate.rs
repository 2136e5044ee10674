//! What a job does when it runs.

use serde::{Deserialize, Serialize};

/// What a job does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It succeeds.
    Succeeds,
    /// It fails once, and succeeds when it is tried again.
    FailsOnce,
    /// It fails until no attempt is left.
    Fails,
    /// It kills its worker.
    Kills,
}

/// How often a job is tried, at most. The jobs of the torture say so themselves too.
pub const ATTEMPTS_MAX: u32 = 3;

/// How often a job may kill its worker before it is taken for a killer.
pub const STARTS_MAX: u32 = 3;

impl Fate {
    /// The last attempt it comes to.
    #[must_use]
    pub const fn attempts(self) -> u32 {
        match self {
            Self::Succeeds | Self::Kills => 1,
            Self::FailsOnce => 2,
            Self::Fails => ATTEMPTS_MAX,
        }
    }

    /// Whether it is to end as a dead letter.
    #[must_use]
    pub const fn is_deadly(self) -> bool {
        matches!(self, Self::Fails | Self::Kills)
    }
}

/// Which jobs meet which fate, and how long they take. `0` is "none".
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// One in so many fails once.
    pub fails_once: u64,
    /// One in so many fails for good.
    pub fails: u64,
    /// One in so many kills its worker.
    pub kills: u64,
    /// One in so many takes a while,
    pub takes_time: u64,
    /// up to so many milliseconds.
    pub millis_max: u64,
}

impl Mix {
    /// The fate of the `n`-th job.
    #[must_use]
    pub const fn fate(&self, n: u64) -> Fate {
        if one_in(self.kills, n) {
            Fate::Kills
        } else if one_in(self.fails, n) {
            Fate::Fails
        } else if one_in(self.fails_once, n) {
            Fate::FailsOnce
        } else {
            Fate::Succeeds
        }
    }

    /// How long the `n`-th job takes, in milliseconds.
    #[must_use]
    pub const fn millis(&self, n: u64) -> u64 {
        if one_in(self.takes_time, n) { n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (self.millis_max + 1) } else { 0 }
    }
}

const fn one_in(many: u64, n: u64) -> bool {
    // The last of each group, so that every run begins with a job that does nothing.
    many > 0 && n % many == many - 1
}
