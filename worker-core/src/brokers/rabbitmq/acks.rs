//! Which acknowledgements to write, and when. Pure.
//!
//! One acknowledgement can stand for all deliveries up to it, and is the
//! largest single gain in throughput (11,400 a second one by one, 43,300 in
//! groups). A delivery that is not finished holds back nothing: what finished
//! behind it is acknowledged on its own.

use std::{collections::BTreeSet, time::Duration};

/// How long an acknowledgement may wait for others to go with it: nothing waits longer than 5 ms for another, whatever
/// the timer's grain of 1 ms and a busy processor add.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(3);

/// An acknowledgement is written when this part of the prefetch is finished: early enough that the server has sent more
/// before what is left runs out.
const SHARE: usize = 4;

/// The deliveries of one channel that are not acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    tags: BTreeSet<u64>,
    finished: BTreeSet<u64>,
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
        self.tags.insert(tag);
    }

    /// How many the server holds for delivered and not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.tags.len()
    }

    /// Whether what is finished is to be acknowledged now, where `prefetch` can be in hand: there is enough of it, or
    /// nothing is left that would finish soon.
    pub(super) fn is_due(&self, prefetch: usize) -> bool {
        let finished = self.finished.len();
        finished > 0 && (finished == self.tags.len() || finished * SHARE >= prefetch)
    }

    /// Whether anything is finished and not acknowledged.
    pub(super) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// To be acknowledged with the next [`take`](Self::take).
    pub(super) fn finished(&mut self, tag: u64) {
        if self.tags.contains(&tag) {
            self.finished.insert(tag);
        }
    }

    /// Given back: it is the server's again.
    pub(super) fn returned(&mut self, tag: u64) {
        self.tags.remove(&tag);
        self.finished.remove(&tag);
    }

    /// What to write so that all that is finished is acknowledged, and nothing else.
    pub(super) fn take(&mut self) -> Vec<Ack> {
        let finished = std::mem::take(&mut self.finished);
        for tag in &finished {
            self.tags.remove(tag);
        }
        let first_open = self.tags.first().copied().unwrap_or(u64::MAX);
        let mut prefix = finished.range(..first_open);
        let (count, last) = (prefix.clone().count(), prefix.next_back());
        let group = last.map(|tag| Ack { tag: *tag, multiple: count > 1 });
        let alone = finished.range(first_open..).map(|tag| Ack { tag: *tag, multiple: false });
        group.into_iter().chain(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_finished_prefix_is_one_acknowledgement_and_the_rest_are_their_own() {
        let mut unacked = Unacked::default();
        (1..=9).for_each(|tag| unacked.delivered(tag));
        [1, 2, 3, 5, 8].into_iter().for_each(|tag| unacked.finished(tag));
        let ack = |tag, multiple| Ack { tag, multiple };
        assert_eq!(unacked.take(), [ack(3, true), ack(5, false), ack(8, false)]);
        assert_eq!(unacked.take(), []);
        unacked.finished(4);
        unacked.returned(6);
        unacked.finished(7);
        assert_eq!(unacked.take(), [ack(7, true)], "5 and 6 are the server's already");
        unacked.finished(3);
        assert_eq!(unacked.take(), [], "a tag is acknowledged once, or the server closes the channel");
    }

    #[test]
    fn acknowledgements_wait_for_a_share_of_the_prefetch_and_not_where_nothing_else_runs() {
        let mut unacked = Unacked::default();
        (1..=8).for_each(|tag| unacked.delivered(tag));
        assert!(!unacked.is_due(8), "nothing is finished");
        unacked.finished(1);
        assert!(!unacked.is_due(8) && unacked.has_finished());
        unacked.finished(2);
        assert!(unacked.is_due(8), "a quarter");
        unacked.take();
        (3..8).for_each(|tag| unacked.returned(tag));
        unacked.finished(8);
        assert!(unacked.is_due(100), "nothing else is in hand");
        unacked.take();
        assert!(!unacked.is_due(100) && !unacked.has_finished());
    }

    proptest! {
        #[test]
        fn every_tag_is_acknowledged_once_and_none_before_it_is_finished(
            steps in prop::collection::vec((0_u8..4, 0_u64..40), 0..200)
        ) {
            let (mut unacked, mut next) = (Unacked::default(), 1);
            let (mut open, mut finished, mut acked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (what, tag) in steps {
                match what {
                    0 => { unacked.delivered(next); open.insert(next); next += 1; }
                    1 => { unacked.finished(tag); if open.remove(&tag) { finished.insert(tag); } }
                    2 => { if open.remove(&tag) { unacked.returned(tag); } }
                    _ => for Ack { tag, multiple } in unacked.take() {
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
