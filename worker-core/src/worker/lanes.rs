//! Which waiting delivery starts next: the worker's whole scheduling policy.
//!
//! A lane is one queue of this worker, or one shard of it. Lanes take turns, so a full queue does
//! not starve another; within a lane the higher priority goes first, then the
//! older. Three limits hold at once: slots of the worker, of the lane, of the
//! job's type.
//!
//! A suspect is a job whose worker was gone before it ended. At most one runs
//! at a time, and one whose next such end would dead-letter it runs alone, so
//! that no neighbour can be blamed for another's crash. Pure: no clock, no I/O.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    broker::{Delivery, STARTS_MAX, Settler},
    envelope::Priority,
    name::JobName,
    registry::Entry,
};

/// A delivery with all that this worker knows of it.
pub(super) struct Owned {
    pub(super) delivery: Delivery,
    /// Of the subscription it came from.
    pub(super) settler: Arc<dyn Settler>,
    pub(super) lane: usize,
    /// The job that it is; none where that is not known here.
    pub(super) entry: Option<Arc<Entry>>,
}

/// All queues of a worker, with what waits and how much runs.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Those where something waits that is no suspect: what one costs does not grow with the idle ones.
    waiting: BTreeSet<usize>,
    /// Those where another number runs than was told last.
    changed: Vec<usize>,
    turn: usize,
    slots: usize,
    suspects: usize,
    running: usize,
    running_suspects: usize,
    running_alone: bool,
    of_type: BTreeMap<JobName, usize>,
}

struct Lane {
    slots: usize,
    running: usize,
    waiting: BTreeMap<Reverse<Priority>, VecDeque<Owned>>,
    suspects: VecDeque<Owned>,
    is_changed: bool,
}

/// What to do now.
pub(super) enum Next {
    /// Start this one.
    Start(Owned, Place),
    /// A suspect waits until nothing else runs.
    WaitToBeAlone,
    /// Nothing can start until something ends or arrives.
    Nothing,
}

/// What a running job occupies, to be given back when it ends.
#[derive(Debug, Clone)]
pub(super) struct Place {
    lane: usize,
    limited_type: Option<JobName>,
    suspect: bool,
    alone: bool,
}

impl Lanes {
    pub(super) fn new(slots: usize, lane_slots: impl IntoIterator<Item = usize>) -> Self {
        let lane =
            |slots| Lane { slots, running: 0, waiting: BTreeMap::new(), suspects: VecDeque::new(), is_changed: false };
        Self {
            lanes: lane_slots.into_iter().map(lane).collect(),
            waiting: BTreeSet::new(),
            changed: Vec::new(),
            turn: 0,
            slots,
            suspects: 0,
            running: 0,
            running_suspects: 0,
            running_alone: false,
            of_type: BTreeMap::new(),
        }
    }

    /// Takes in a delivery.
    pub(super) fn arrive(&mut self, owned: Owned) {
        let lane = &mut self.lanes[owned.lane];
        if owned.delivery.is_suspect() {
            self.suspects += 1;
            lane.suspects.push_back(owned);
        } else {
            self.waiting.insert(owned.lane);
            lane.waiting.entry(Reverse(owned.delivery.envelope.priority)).or_default().push_back(owned);
        }
    }

    /// Chooses what starts next. `limit` says how many of a delivery's type may
    /// run at once; `wait_for_alone` is false once that wait has taken too long.
    pub(super) fn next(&mut self, limit: impl Fn(&Owned) -> Option<(JobName, usize)>, wait_for_alone: bool) -> Next {
        if self.running >= self.slots || self.running_alone {
            return Next::Nothing;
        }
        if self.running_suspects == 0
            && self.suspects > 0
            && let Some((lane, limited_type)) =
                self.in_turn().find_map(|lane| Some((lane, self.first_suspect(lane, &limit)?)))
        {
            let convicting = self.lanes[lane].suspects[0].delivery.starts + 1 >= STARTS_MAX;
            if convicting && self.running > 0 && wait_for_alone {
                return Next::WaitToBeAlone;
            }
            let alone = convicting && self.running == 0;
            if let Some(owned) = self.lanes[lane].suspects.pop_front() {
                self.suspects -= 1;
                return self.start(owned, Place { lane, limited_type, suspect: true, alone });
            }
        }
        // The next in turn first, then from the beginning.
        let startable = self.waiting.range(self.turn..).chain(self.waiting.range(..self.turn)).find_map(|&lane| {
            let Lane { slots, running, waiting, .. } = &self.lanes[lane];
            let mut waiting = waiting.iter().filter(|_| running < slots);
            waiting.find_map(|(priority, waiting)| {
                let mut waiting = waiting.iter().enumerate();
                let (at, limited_type) = waiting.find_map(|(at, owned)| Some((at, self.room_for(owned, &limit)?)))?;
                Some((lane, *priority, at, limited_type))
            })
        });
        if let Some((lane, priority, at, limited_type)) = startable
            && let Some(owned) = self.take(lane, priority, at)
        {
            return self.start(owned, Place { lane, limited_type, suspect: false, alone: false });
        }
        Next::Nothing
    }

    fn take(&mut self, lane: usize, priority: Reverse<Priority>, at: usize) -> Option<Owned> {
        let waiting = &mut self.lanes[lane].waiting;
        let owned = waiting.get_mut(&priority)?.remove(at);
        if waiting.values().all(VecDeque::is_empty) {
            self.waiting.remove(&lane);
        }
        owned
    }

    /// Gives back what an ended job occupied.
    pub(super) fn leave(&mut self, place: &Place) {
        self.running -= 1;
        self.lanes[place.lane].running -= 1;
        self.has_changed(place.lane);
        self.running_suspects -= usize::from(place.suspect);
        self.running_alone &= !place.alone;
        if let Some(name) = &place.limited_type
            && let Some(count) = self.of_type.get_mut(name)
        {
            *count -= 1;
        }
    }

    fn has_changed(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.lanes[lane].is_changed, true) {
            self.changed.push(lane);
        }
    }

    /// The lanes where another number of jobs runs than when this was asked last, each with that number.
    pub(super) fn take_changed(&mut self) -> impl Iterator<Item = (usize, usize)> {
        let Self { lanes, changed, .. } = self;
        changed.drain(..).map(|number| {
            let lane = &mut lanes[number];
            lane.is_changed = false;
            (number, lane.running)
        })
    }

    /// How many of a lane run or wait, beside its suspects.
    pub(super) fn in_hand(&self, lane: usize) -> usize {
        let Lane { running, waiting, .. } = &self.lanes[lane];
        running + waiting.values().map(VecDeque::len).sum::<usize>()
    }

    pub(super) const fn has_suspect(&self) -> bool {
        self.suspects > 0
    }

    /// Takes out the suspects that wait.
    pub(super) fn take_suspects(&mut self) -> Vec<Owned> {
        if std::mem::take(&mut self.suspects) == 0 {
            return Vec::new();
        }
        self.lanes.iter_mut().flat_map(|lane| lane.suspects.drain(..)).collect()
    }

    /// Takes out everything that waits, to be given back.
    pub(super) fn take_waiting(&mut self) -> Vec<Owned> {
        self.waiting.clear();
        self.suspects = 0;
        let take = |lane: &mut Lane| {
            let waiting = std::mem::take(&mut lane.waiting).into_values().flatten();
            lane.suspects.drain(..).chain(waiting).collect::<Vec<_>>()
        };
        self.lanes.iter_mut().flat_map(take).collect()
    }

    /// Whether anything waits that is no suspect.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes out what waits in a lane beyond the first, to be given back: what would start last. With what runs, `in_hand`
    /// are left. Jobs that share messages stay: they are counted by these, and go back together.
    pub(super) fn take_beyond(&mut self, lane: usize, in_hand: usize, bundles: bool) -> Vec<Owned> {
        let Lane { waiting, running, .. } = &mut self.lanes[lane];
        if bundles && waiting.values().flatten().any(|owned| owned.delivery.receipt.part > 0) {
            return Vec::new();
        }
        let keep = in_hand.saturating_sub(*running);
        let mut left = keep;
        let mut beyond = Vec::new();
        for waiting in waiting.values_mut() {
            beyond.extend(waiting.split_off(left.min(waiting.len())));
            left -= waiting.len();
        }
        if keep == 0 {
            self.waiting.remove(&lane);
        }
        beyond
    }

    /// The limited type of the lane's first suspect, if that can start.
    fn first_suspect(
        &self,
        lane: usize,
        limit: &impl Fn(&Owned) -> Option<(JobName, usize)>,
    ) -> Option<Option<JobName>> {
        let lane = &self.lanes[lane];
        let suspect = lane.suspects.front().filter(|_| lane.running < lane.slots)?;
        self.room_for(suspect, limit)
    }

    /// `Some` when another of this type may run; inside, the type if it has a limit.
    fn room_for(&self, owned: &Owned, limit: &impl Fn(&Owned) -> Option<(JobName, usize)>) -> Option<Option<JobName>> {
        match limit(owned) {
            None => Some(None),
            Some((name, most)) => (self.of_type.get(&name).copied().unwrap_or(0) < most).then_some(Some(name)),
        }
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (turn, count) = (self.turn, self.lanes.len());
        (0..count).map(move |n| (turn + n) % count)
    }

    fn start(&mut self, owned: Owned, place: Place) -> Next {
        self.turn = (place.lane + 1) % self.lanes.len();
        self.running += 1;
        self.lanes[place.lane].running += 1;
        self.has_changed(place.lane);
        self.running_suspects += usize::from(place.suspect);
        self.running_alone |= place.alone;
        if let Some(name) = &place.limited_type {
            *self.of_type.entry(name.clone()).or_default() += 1;
        }
        Next::Start(owned, place)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        broker::{Begin, Receipt, Ticket},
        envelope::Envelope,
        id::JobId,
        settlement::Settlement,
        time::Timestamp,
    };

    struct NoSettler;

    impl Settler for NoSettler {
        fn begin(&self, _: &Delivery) -> Begin {
            Begin::Go
        }
        fn submit(&self, _: Delivery, _: Settlement) -> Ticket {
            Ticket::resolved(Ok(()))
        }
    }

    fn owned(id: &str, priority: u8, starts: u32) -> Owned {
        let queue: crate::QueueName = "q".parse().unwrap();
        let name = id.split('-').next().map(|name| name.parse().unwrap());
        let mut envelope = Envelope::new(id.parse::<JobId>().unwrap(), queue.clone(), name, "", Timestamp::default());
        envelope.priority = Priority::new(priority).unwrap();
        let receipt = Receipt { epoch: 0, tag: 0, part: 0 };
        let delivery = Delivery::new(envelope, queue, (1, starts), receipt, CancellationToken::new());
        Owned { delivery, settler: Arc::new(NoSettler), lane: 0, entry: None }
    }

    fn arrive(lanes: &mut Lanes, lane: usize, owned: Owned) {
        lanes.arrive(Owned { lane, ..owned });
    }

    /// Type `slow` may run once; everything else is unlimited.
    fn limit(owned: &Owned) -> Option<(JobName, usize)> {
        owned.delivery.envelope.name.clone().filter(|name| *name == "slow").map(|name| (name, 1))
    }

    fn started(lanes: &mut Lanes) -> Vec<(String, Place)> {
        let mut started = Vec::new();
        while let Next::Start(owned, place) = lanes.next(limit, true) {
            started.push((owned.delivery.envelope.id.to_string(), place));
        }
        started
    }

    fn ids(started: &[(String, Place)]) -> Vec<&str> {
        started.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn the_higher_priority_goes_first_then_the_older() {
        let mut lanes = Lanes::new(10, [10]);
        for (id, priority) in [("a-1", 4), ("a-2", 9), ("a-3", 4), ("a-4", 9)] {
            arrive(&mut lanes, 0, owned(id, priority, 0));
        }
        assert_eq!(ids(&started(&mut lanes)), ["a-2", "a-4", "a-1", "a-3"]);
    }

    #[test]
    fn what_would_start_last_is_taken_out_beyond_what_is_kept() {
        let waiting = || {
            let mut lanes = Lanes::new(10, [10, 10]);
            arrive(&mut lanes, 1, owned("b-1", 4, 0));
            for (id, priority, starts) in [("a-1", 4, 0), ("a-2", 9, 0), ("a-3", 4, 0), ("a-4", 2, 0), ("a-5", 4, 1)] {
                arrive(&mut lanes, 0, owned(id, priority, starts));
            }
            lanes
        };
        for (keep, beyond) in
            [(9, &[][..]), (4, &[]), (3, &["a-4"]), (2, &["a-3", "a-4"]), (0, &["a-2", "a-1", "a-3", "a-4"])]
        {
            let mut lanes = waiting();
            let taken: Vec<_> =
                lanes.take_beyond(0, keep, true).iter().map(|owned| owned.delivery.envelope.id.to_string()).collect();
            assert_eq!(taken, beyond, "{keep}");
            let started = started(&mut lanes);
            assert_eq!(started.len(), 6 - taken.len(), "the suspect and the other queue are not concerned");
            assert!(matches!(lanes.next(limit, true), Next::Nothing));
        }
    }

    #[test]
    fn queues_take_turns_within_their_own_slots() {
        let mut lanes = Lanes::new(5, [10, 2]);
        for n in 0..10 {
            arrive(&mut lanes, 0, owned(&format!("a-{n}"), 4, 0));
            arrive(&mut lanes, 1, owned(&format!("b-{n}"), 4, 0));
        }
        assert_eq!(ids(&started(&mut lanes)), ["a-0", "b-0", "a-1", "b-1", "a-2"]);
    }

    #[test]
    fn a_type_at_its_limit_holds_up_no_other() {
        let mut lanes = Lanes::new(10, [10]);
        for id in ["slow-1", "slow-2", "fast-1"] {
            arrive(&mut lanes, 0, owned(id, 4, 0));
        }
        let first = started(&mut lanes);
        assert_eq!(ids(&first), ["slow-1", "fast-1"]);
        lanes.leave(&first[0].1);
        assert_eq!(ids(&started(&mut lanes)), ["slow-2"]);
    }

    #[test]
    fn one_suspect_runs_at_a_time_beside_the_others() {
        let mut lanes = Lanes::new(10, [10, 10]);
        arrive(&mut lanes, 0, owned("bad-1", 4, 1));
        arrive(&mut lanes, 1, owned("bad-2", 4, 1));
        arrive(&mut lanes, 0, owned("a-1", 4, 0));
        let first = started(&mut lanes);
        assert_eq!(ids(&first), ["bad-1", "a-1"]);
        lanes.leave(&first[0].1);
        assert_eq!(ids(&started(&mut lanes)), ["bad-2"]);
    }

    #[test]
    fn a_start_that_could_dead_letter_the_job_happens_alone() {
        let mut lanes = Lanes::new(10, [10]);
        arrive(&mut lanes, 0, owned("a-1", 4, 0));
        let neighbour = started(&mut lanes);
        arrive(&mut lanes, 0, owned("bad-1", 4, STARTS_MAX - 1));
        arrive(&mut lanes, 0, owned("a-2", 4, 0));
        assert!(matches!(lanes.next(limit, true), Next::WaitToBeAlone), "nothing else starts meanwhile");
        lanes.leave(&neighbour[0].1);
        let alone = started(&mut lanes);
        assert_eq!(ids(&alone), ["bad-1"], "and nothing starts beside it");
        lanes.leave(&alone[0].1);
        assert_eq!(ids(&started(&mut lanes)), ["a-2"]);
    }

    #[test]
    fn a_neighbour_that_never_ends_does_not_park_a_suspect_for_ever() {
        let mut lanes = Lanes::new(10, [10]);
        arrive(&mut lanes, 0, owned("a-1", 4, 0));
        assert_eq!(started(&mut lanes).len(), 1);
        arrive(&mut lanes, 0, owned("bad-1", 4, STARTS_MAX - 1));
        assert!(matches!(lanes.next(limit, false), Next::Start(..)));
    }

    #[test]
    fn how_many_run_is_told_of_the_lanes_where_that_has_changed() {
        let mut lanes = Lanes::new(10, [10, 10, 10]);
        for (lane, id) in [(2, "a-1"), (0, "b-1"), (2, "a-2")] {
            arrive(&mut lanes, lane, owned(id, 4, 0));
        }
        let first = started(&mut lanes);
        assert_eq!(lanes.take_changed().collect::<Vec<_>>(), [(0, 1), (2, 2)]);
        assert_eq!(lanes.take_changed().count(), 0);
        lanes.leave(&first[0].1);
        assert_eq!(lanes.take_changed().collect::<Vec<_>>(), [(0, 0)]);
    }

    #[test]
    fn what_waits_can_be_taken_out_to_be_given_back() {
        let mut lanes = Lanes::new(1, [1]);
        for (id, starts) in [("a-1", 0), ("a-2", 0), ("bad-1", 1)] {
            arrive(&mut lanes, 0, owned(id, 4, starts));
        }
        assert_eq!(started(&mut lanes).len(), 1);
        assert_eq!(lanes.take_waiting().len(), 2);
    }
}
