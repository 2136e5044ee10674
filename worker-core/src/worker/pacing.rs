//! How many jobs each queue of a worker holds, where nobody has set it: measured, decided (`prefetch`), and told to whoever
//! fetches.

use std::{future::pending, num::NonZeroU16, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use crate::{
    broker::Delivery,
    worker::prefetch::{Pace, WINDOW},
};

pub(super) struct Pacing {
    lanes: Vec<LanePacing>,
    is_adaptive: bool,
    /// Jobs share messages here, and the prefetch counts these.
    bundles: bool,
    /// When there may be something to decide.
    due: Instant,
    ticks: Interval,
}

struct LanePacing {
    /// None where the number is set.
    pace: Option<Pace>,
    prefetch: watch::Sender<NonZeroU16>,
}

impl Pacing {
    /// Of these lanes: how many each holds at first, and, where that is measured, its slots.
    pub(super) fn new(lanes: impl Iterator<Item = (NonZeroU16, Option<usize>)>, bundles: bool, now: Instant) -> Self {
        let lane = |(first, slots): (NonZeroU16, Option<usize>)| {
            let pace = slots.map(|slots| Pace::new(slots, first, now));
            LanePacing { pace, prefetch: watch::Sender::new(first) }
        };
        let lanes: Vec<_> = lanes.map(lane).collect();
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_adaptive = lanes.iter().any(|lane| lane.pace.is_some());
        Self { lanes, is_adaptive, bundles, due: now + WINDOW, ticks }
    }

    /// What a lane should hold, now and from now on.
    pub(super) fn prefetch(&self, lane: usize) -> watch::Receiver<NonZeroU16> {
        self.lanes[lane].prefetch.subscribe()
    }

    /// A job of a lane ended.
    pub(super) fn ended(&mut self, lane: usize, elapsed: Duration, delivery: &Delivery) {
        if let Some(pace) = &mut self.lanes[lane].pace {
            let is_first = !self.bundles || delivery.receipt.part == 0;
            pace.ended(elapsed, delivery.envelope.body.0.len(), is_first);
        }
    }

    /// So many of a lane's jobs are in hand.
    pub(super) fn in_hand(&mut self, lane: usize, jobs: usize) {
        if let Some(pace) = &mut self.lanes[lane].pace {
            pace.in_hand(jobs);
        }
    }

    /// Resolves when it is time to look, though no job ended: a lane that holds many must let go of them when they turn out
    /// to be slow.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn tick(&mut self) {
        if self.lanes.iter().any(|lane| lane.pace.as_ref().is_some_and(Pace::is_grown)) {
            self.ticks.tick().await;
        } else {
            pending::<()>().await;
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_adaptive && self.due <= now
    }

    /// Decides for each lane, and tells whoever fetches for it: which holds another number from now on. `running` is what
    /// runs, by its lane, and since when; `in_hand` how many of a lane run or wait.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        running: impl Iterator<Item = (usize, Duration)>,
        in_hand: impl Fn(usize) -> usize,
    ) -> Vec<(usize, NonZeroU16)> {
        self.due = now + WINDOW;
        let mut ages = vec![Vec::new(); self.lanes.len()];
        running.for_each(|(lane, age)| ages[lane].push(age));
        let lanes = self.lanes.iter_mut().enumerate();
        let changed = lanes.filter_map(|(number, lane)| {
            let next = lane.pace.as_mut()?.turn(now, ages[number].iter().copied(), in_hand(number))?;
            lane.prefetch.send_replace(next);
            Some((number, next))
        });
        changed.collect()
    }
}
