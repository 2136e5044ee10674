//! Which acknowledgements to write, and when. Pure.
//!
//! One acknowledgement can stand for all deliveries up to it, and is the
//! largest single gain in throughput (11,400 a second one by one, 43,300 in
//! groups): to a quorum queue each is an entry of its log. So what finished
//! behind a delivery that still runs waits a little for that one, to go with
//! it, and is acknowledged on its own where that takes longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// How long an acknowledgement may wait for others to go with it: nothing waits longer than 5 ms for another, whatever
/// the timer's grain of 1 ms and a busy processor add; but where a consumer retires, half a second (`lane/extra.rs`).
const WAIT_MAX: Duration = Duration::from_millis(3);

/// What one acknowledgement stands for is written when it is this part of the prefetch: early enough that the server has
/// sent more before what is left runs out.
const SHARE_TOGETHER: usize = 4;

/// All that is finished is acknowledged, also one by one, when it is this part of the prefetch: the server must not be
/// kept from sending more by one that does not end.
const SHARE_OF_ALL: usize = 2;

/// The deliveries of one channel that are not acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    open: BTreeSet<u64>,
    /// Done with since then, and not acknowledged.
    finished: BTreeMap<u64, Instant>,
}

/// One acknowledgement to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// And all before it.
    pub(super) multiple: bool,
}

impl Unacked {
    pub(super) fn delivered(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    /// How many the server holds for delivered and not acknowledged.
    pub(super) fn count(&self) -> usize {
        self.open.len() + self.finished.len()
    }

    /// To be acknowledged; whether it still could be.
    pub(super) fn finished(&mut self, tag: u64, now: Instant) -> bool {
        let was_open = self.open.remove(&tag);
        if was_open {
            self.finished.insert(tag, now);
        }
        was_open
    }

    /// Whether it is finished, and the server was not told.
    pub(super) fn is_untold(&self, tag: u64) -> bool {
        self.finished.contains_key(&tag)
    }

    /// Given back: it is the server's again.
    pub(super) fn returned(&mut self, tag: u64) {
        self.open.remove(&tag);
        self.finished.remove(&tag);
    }

    /// What to write now, where `prefetch` can be in hand.
    pub(super) fn take_due(&mut self, prefetch: usize, now: Instant) -> Vec<Ack> {
        if self.open.is_empty() || self.finished.len() * SHARE_OF_ALL >= prefetch {
            return self.take();
        }
        let is_over = |since: &Instant| *since + WAIT_MAX <= now;
        let is_any_over = self.finished.values().any(is_over);
        if !is_any_over && self.together() * SHARE_TOGETHER < prefetch {
            return Vec::new();
        }
        let mut acks: Vec<_> = self.take_together().into_iter().collect();
        if is_any_over {
            let alone: Vec<_> = self.finished.iter().filter(|(_, since)| is_over(since)).map(|(tag, _)| *tag).collect();
            for tag in alone {
                self.finished.remove(&tag);
                acks.push(Ack { tag, multiple: false });
            }
        }
        acks
    }

    /// When something is due, if nothing else happens.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.finished.values().min().map(|since| *since + WAIT_MAX)
    }

    /// What to write so that all that is finished is acknowledged, and nothing else.
    pub(super) fn take(&mut self) -> Vec<Ack> {
        let together = self.take_together();
        let alone = std::mem::take(&mut self.finished).into_keys().map(|tag| Ack { tag, multiple: false });
        together.into_iter().chain(alone).collect()
    }

    /// How many one acknowledgement would stand for.
    fn together(&self) -> usize {
        self.finished.range(..self.first_open()).count()
    }

    fn take_together(&mut self) -> Option<Ack> {
        let behind = self.finished.split_off(&self.first_open());
        let together = std::mem::replace(&mut self.finished, behind);
        together.last_key_value().map(|(tag, _)| Ack { tag: *tag, multiple: together.len() > 1 })
    }

    fn first_open(&self) -> u64 {
        self.open.first().copied().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::monotonic_now;

    fn ack(tag: u64, multiple: bool) -> Ack {
        Ack { tag, multiple }
    }

    #[test]
    fn the_finished_prefix_is_one_acknowledgement_and_the_rest_are_their_own() {
        let (mut unacked, now) = (Unacked::default(), monotonic_now());
        (1..=9).for_each(|tag| unacked.delivered(tag));
        for tag in [1, 2, 3, 5, 8] {
            assert!(unacked.finished(tag, now));
        }
        assert_eq!(unacked.take(), [ack(3, true), ack(5, false), ack(8, false)]);
        assert_eq!(unacked.take(), []);
        unacked.finished(4, now);
        unacked.returned(6);
        unacked.finished(7, now);
        assert_eq!(unacked.take(), [ack(7, true)], "5 and 6 are the server's already");
        assert!(!unacked.finished(3, now));
        assert_eq!(unacked.take(), [], "a tag is acknowledged once, or the server closes the channel");
    }

    #[test]
    fn what_is_delivered_counts_until_it_is_acknowledged_or_returned() {
        let (mut unacked, now) = (Unacked::default(), monotonic_now());
        (1..=5).for_each(|tag| unacked.delivered(tag));
        assert!(unacked.finished(1, now) && unacked.finished(3, now));
        assert_eq!(unacked.count(), 5, "to the server, what is finished is as open as what runs");
        unacked.returned(2);
        assert_eq!(unacked.count(), 4);
        assert_eq!(unacked.take(), [ack(3, true)]);
        assert_eq!(unacked.count(), 2);
    }

    #[test]
    fn what_one_acknowledgement_stands_for_is_written_with_a_quarter_of_the_prefetch() {
        let (mut unacked, now) = (Unacked::default(), monotonic_now());
        (1..=8).for_each(|tag| unacked.delivered(tag));
        assert_eq!(unacked.take_due(8, now), [], "nothing is finished");
        unacked.finished(1, now);
        assert_eq!(unacked.take_due(8, now), []);
        unacked.finished(3, now);
        assert_eq!(unacked.take_due(8, now), [], "the second still runs");
        unacked.finished(2, now);
        assert_eq!(unacked.take_due(8, now), [ack(3, true)]);
    }

    #[test]
    fn what_finished_behind_one_that_runs_waits_for_it_no_longer_than_three_milliseconds() {
        let (mut unacked, now) = (Unacked::default(), monotonic_now());
        let at = |ms| now + Duration::from_millis(ms);
        (1..=9).for_each(|tag| unacked.delivered(tag));
        unacked.finished(2, at(0));
        unacked.finished(4, at(2));
        assert_eq!(unacked.due_at(), Some(at(3)));
        assert_eq!(unacked.take_due(100, at(2)), []);
        assert_eq!(unacked.take_due(100, at(3)), [ack(2, false)]);
        assert!(unacked.is_untold(4) && !unacked.is_untold(2));
        assert_eq!(unacked.due_at(), Some(at(5)));
        unacked.finished(1, at(4));
        unacked.finished(3, at(4));
        assert_eq!(unacked.take_due(100, at(5)), [ack(4, true)]);
        assert_eq!(unacked.due_at(), None);
    }

    #[test]
    fn one_that_does_not_end_keeps_the_server_from_sending_no_more() {
        let (mut unacked, now) = (Unacked::default(), monotonic_now());
        (1..=6).for_each(|tag| unacked.delivered(tag));
        for tag in 2..=3 {
            unacked.finished(tag, now);
        }
        assert_eq!(unacked.take_due(6, now), []);
        unacked.finished(4, now);
        assert_eq!(unacked.take_due(6, now), [ack(2, false), ack(3, false), ack(4, false)], "half of the prefetch");
        unacked.returned(1);
        unacked.returned(5);
        unacked.finished(6, now);
        assert_eq!(unacked.take_due(6, now), [ack(6, false)], "nothing else is in hand");
    }

    proptest! {
        #[test]
        fn every_tag_is_acknowledged_once_and_none_before_it_is_finished(
            steps in prop::collection::vec((0_u8..5, 0_u64..40), 0..200)
        ) {
            let (mut unacked, mut next, now) = (Unacked::default(), 1, monotonic_now());
            let (mut open, mut finished, mut acked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (what, tag) in steps {
                match what {
                    0 => { unacked.delivered(next); open.insert(next); next += 1; }
                    1 => { unacked.finished(tag, now); if open.remove(&tag) { finished.insert(tag); } }
                    2 => { if open.remove(&tag) { unacked.returned(tag); } }
                    _ => for Ack { tag, multiple } in if what == 3 { unacked.take() } else { unacked.take_due(16, now + WAIT_MAX * u32::from(tag > 20)) } {
                        let covered: Vec<_> = if multiple {
                            finished.range(..=tag).copied().filter(|t| !acked.contains(t)).collect()
                        } else {
                            vec![tag]
                        };
                        if multiple {
                            prop_assert!(open.range(..=tag).next().is_none(), "an open one is covered");
                        }
                        for tag in covered {
                            prop_assert!(finished.contains(&tag) && acked.insert(tag));
                        }
                    },
                }
            }
            unacked.take().into_iter().for_each(|ack| { acked.extend(finished.range(..=ack.tag).copied().filter(|t| ack.multiple || *t == ack.tag)); });
            prop_assert_eq!(acked, finished);
        }
    }
}
