//! The time of a simulated world, and the wall clocks in it, which can be wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use worker_core::{Clock, Timestamp, TokioClock};

/// The date at which every world begins.
const BEGAN: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

/// How far off a clock is set, in milliseconds: an hour, as by a wrong time zone.
const OFF_MAX_MS: u64 = 3_600_000;

/// The time since a world began, in the same worlds the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorldClock {
    clock: TokioClock,
    began: Timestamp,
}

impl WorldClock {
    pub(super) fn starting_now() -> Self {
        let clock = TokioClock::starting_now();
        Self { clock, began: clock.now() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.clock.now().since(self.began)
    }

    /// The time at which a clock that is right shows this date.
    pub(super) fn at(date: Timestamp) -> Duration {
        date.since(BEGAN)
    }
}

/// The wall clock of one machine. All clones are the same clock.
#[derive(Debug, Clone)]
pub(super) struct WallClock {
    world: WorldClock,
    off_ms: Arc<AtomicI64>,
}

impl WallClock {
    pub(super) fn of(world: WorldClock) -> Self {
        Self { world, off_ms: Arc::default() }
    }

    /// Sets it to so much more than the time; how far its hands are moved.
    pub(super) fn set(&self, off_ms: i64) -> i64 {
        off_ms - self.off_ms.swap(off_ms, Ordering::SeqCst)
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.world.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown = elapsed.saturating_add(self.off_ms.load(Ordering::SeqCst));
        Timestamp::from_unix_ms(BEGAN.unix_ms().saturating_add_signed(shown))
    }
}

/// How far off a clock is set next: as often by seconds as by minutes.
pub(super) fn draw_off_ms(rng: &mut Rng) -> i64 {
    let off_ms = (rng.u64(..=OFF_MAX_MS) >> rng.u32(..12)).cast_signed();
    if rng.bool() { off_ms } else { -off_ms }
}
