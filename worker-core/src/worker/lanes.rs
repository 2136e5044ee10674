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

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::{
    broker::{Delivery, STARTS_MAX, Settler},
    envelope::Priority,
    name::JobName,
};

/// A delivery with the settler of the subscription it came from.
pub(super) struct Owned {
    pub(super) delivery: Delivery,
    pub(super) settler: Arc<dyn Settler>,
}

/// All queues of a worker, with what waits and how much runs.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    turn: usize,
    arrivals: u64,
    slots: usize,
    running: usize,
    running_suspects: usize,
    running_alone: bool,
    of_type: BTreeMap<JobName, usize>,
}

struct Lane {
    slots: usize,
    running: usize,
    waiting: BTreeMap<(Reverse<Priority>, u64), Owned>,
    suspects: Vec<Owned>,
}

/// What to do now.
#[expect(clippy::large_enum_variant, reason = "it lives for one `match`; a box would be one per job")]
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
        let lane = |slots| Lane { slots, running: 0, waiting: BTreeMap::new(), suspects: Vec::new() };
        Self {
            lanes: lane_slots.into_iter().map(lane).collect(),
            turn: 0,
            arrivals: 0,
            slots,
            running: 0,
            running_suspects: 0,
            running_alone: false,
            of_type: BTreeMap::new(),
        }
    }

    /// Takes in a delivery of `lane`.
    pub(super) fn arrive(&mut self, lane: usize, owned: Owned) {
        self.arrivals += 1;
        let lane = &mut self.lanes[lane];
        if owned.delivery.is_suspect() {
            lane.suspects.push(owned);
        } else {
            lane.waiting.insert((Reverse(owned.delivery.envelope.priority), self.arrivals), owned);
        }
    }

    /// Chooses what starts next. `limit` says how many of a delivery's type may
    /// run at once; `wait_for_alone` is false once that wait has taken too long.
    pub(super) fn next(&mut self, limit: impl Fn(&Delivery) -> Option<(JobName, usize)>, wait_for_alone: bool) -> Next {
        if self.running >= self.slots || self.running_alone {
            return Next::Nothing;
        }
        if self.running_suspects == 0
            && let Some((lane, limited_type)) =
                self.in_turn().find_map(|lane| Some((lane, self.first_suspect(lane, &limit)?)))
        {
            let convicting = self.lanes[lane].suspects[0].delivery.starts + 1 >= STARTS_MAX;
            if convicting && self.running > 0 && wait_for_alone {
                return Next::WaitToBeAlone;
            }
            let owned = self.lanes[lane].suspects.remove(0);
            let alone = convicting && self.running == 0;
            return self.start(lane, owned, Place { lane, limited_type, suspect: true, alone });
        }
        for lane in self.in_turn().collect::<Vec<_>>() {
            if self.lanes[lane].running >= self.lanes[lane].slots {
                continue;
            }
            let waiting = &self.lanes[lane].waiting;
            let startable = waiting.iter().find_map(|(key, owned)| Some((*key, self.room_for(owned, &limit)?)));
            if let Some((key, limited_type)) = startable
                && let Some(owned) = self.lanes[lane].waiting.remove(&key)
            {
                return self.start(lane, owned, Place { lane, limited_type, suspect: false, alone: false });
            }
        }
        Next::Nothing
    }

    /// Gives back what an ended job occupied.
    pub(super) fn leave(&mut self, place: &Place) {
        self.running -= 1;
        self.lanes[place.lane].running -= 1;
        self.running_suspects -= usize::from(place.suspect);
        self.running_alone &= !place.alone;
        if let Some(name) = &place.limited_type
            && let Some(count) = self.of_type.get_mut(name)
        {
            *count -= 1;
        }
    }

    /// How many jobs of each lane run.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> {
        self.lanes.iter().map(|lane| lane.running)
    }

    pub(super) fn has_suspect(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.suspects.is_empty())
    }

    /// Takes out the suspects that wait.
    pub(super) fn take_suspects(&mut self) -> Vec<Owned> {
        self.lanes.iter_mut().flat_map(|lane| lane.suspects.drain(..)).collect()
    }

    /// Takes out everything that waits, to be given back.
    pub(super) fn take_waiting(&mut self) -> Vec<Owned> {
        let take = |lane: &mut Lane| {
            let waiting = std::mem::take(&mut lane.waiting).into_values();
            lane.suspects.drain(..).chain(waiting).collect::<Vec<_>>()
        };
        self.lanes.iter_mut().flat_map(take).collect()
    }

    /// The limited type of the lane's first suspect, if that can start.
    fn first_suspect(
        &self,
        lane: usize,
        limit: &impl Fn(&Delivery) -> Option<(JobName, usize)>,
    ) -> Option<Option<JobName>> {
        let lane = &self.lanes[lane];
        let suspect = lane.suspects.first().filter(|_| lane.running < lane.slots)?;
        self.room_for(suspect, limit)
    }

    /// `Some` when another of this type may run; inside, the type if it has a limit.
    fn room_for(
        &self,
        owned: &Owned,
        limit: &impl Fn(&Delivery) -> Option<(JobName, usize)>,
    ) -> Option<Option<JobName>> {
        match limit(&owned.delivery) {
            None => Some(None),
            Some((name, most)) => (self.of_type.get(&name).copied().unwrap_or(0) < most).then_some(Some(name)),
        }
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (turn, count) = (self.turn, self.lanes.len());
        (0..count).map(move |n| (turn + n) % count)
    }

    fn start(&mut self, lane: usize, owned: Owned, place: Place) -> Next {
        self.turn = (lane + 1) % self.lanes.len();
        self.running += 1;
        self.lanes[lane].running += 1;
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
        Owned { delivery, settler: Arc::new(NoSettler) }
    }

    /// Type `slow` may run once; everything else is unlimited.
    fn limit(delivery: &Delivery) -> Option<(JobName, usize)> {
        delivery.envelope.name.clone().filter(|name| *name == "slow").map(|name| (name, 1))
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
            lanes.arrive(0, owned(id, priority, 0));
        }
        assert_eq!(ids(&started(&mut lanes)), ["a-2", "a-4", "a-1", "a-3"]);
    }

    #[test]
    fn queues_take_turns_within_their_own_slots() {
        let mut lanes = Lanes::new(5, [10, 2]);
        for n in 0..10 {
            lanes.arrive(0, owned(&format!("a-{n}"), 4, 0));
            lanes.arrive(1, owned(&format!("b-{n}"), 4, 0));
        }
        assert_eq!(ids(&started(&mut lanes)), ["a-0", "b-0", "a-1", "b-1", "a-2"]);
    }

    #[test]
    fn a_type_at_its_limit_holds_up_no_other() {
        let mut lanes = Lanes::new(10, [10]);
        for id in ["slow-1", "slow-2", "fast-1"] {
            lanes.arrive(0, owned(id, 4, 0));
        }
        let first = started(&mut lanes);
        assert_eq!(ids(&first), ["slow-1", "fast-1"]);
        lanes.leave(&first[0].1);
        assert_eq!(ids(&started(&mut lanes)), ["slow-2"]);
    }

    #[test]
    fn one_suspect_runs_at_a_time_beside_the_others() {
        let mut lanes = Lanes::new(10, [10, 10]);
        lanes.arrive(0, owned("bad-1", 4, 1));
        lanes.arrive(1, owned("bad-2", 4, 1));
        lanes.arrive(0, owned("a-1", 4, 0));
        let first = started(&mut lanes);
        assert_eq!(ids(&first), ["bad-1", "a-1"]);
        lanes.leave(&first[0].1);
        assert_eq!(ids(&started(&mut lanes)), ["bad-2"]);
    }

    #[test]
    fn a_start_that_could_dead_letter_the_job_happens_alone() {
        let mut lanes = Lanes::new(10, [10]);
        lanes.arrive(0, owned("a-1", 4, 0));
        let neighbour = started(&mut lanes);
        lanes.arrive(0, owned("bad-1", 4, STARTS_MAX - 1));
        lanes.arrive(0, owned("a-2", 4, 0));
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
        lanes.arrive(0, owned("a-1", 4, 0));
        assert_eq!(started(&mut lanes).len(), 1);
        lanes.arrive(0, owned("bad-1", 4, STARTS_MAX - 1));
        assert!(matches!(lanes.next(limit, false), Next::Start(..)));
    }

    #[test]
    fn what_waits_can_be_taken_out_to_be_given_back() {
        let mut lanes = Lanes::new(1, [1]);
        for (id, starts) in [("a-1", 0), ("a-2", 0), ("bad-1", 1)] {
            lanes.arrive(0, owned(id, 4, starts));
        }
        assert_eq!(started(&mut lanes).len(), 1);
        assert_eq!(lanes.take_waiting().len(), 2);
    }
}
