//! All records of a run held against what was promised, in the manner of Jepsen's checker of queues.
//!
//! There, a run is valid where nothing is lost and nothing unexpected: `lost` is what was acknowledged and never came,
//! `unexpected` what came and was never tried, `duplicated` what came more than once, `recovered` what came though its
//! producer was never told that it was taken
//! (<https://github.com/jepsen-io/jepsen/blob/main/jepsen/src/jepsen/checker.clj>, `total-queue`). Here a job has an
//! end besides, and each must be the one that was meant for it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    fate::{ATTEMPTS_MAX, Fate, Mix},
    record::{Event, Record},
};

/// A dead letter, as the broker lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// Which job it was; `None` where its payload does not say.
    pub n: Option<u64>,
    /// Whether it is there because its workers died.
    pub crashed: bool,
}

/// How much later than the deletion of its queue a job that is gone with it may begin, in microseconds: a worker that
/// held it may have begun it a little later, and not have come to its end.
const BEGUN_LATER_MAX: u64 = 10_000_000;

/// What became of all jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Enqueues, those that were tried again included.
    pub attempts: u64,
    /// Jobs that the broker has acknowledged to their producers.
    pub acknowledged: u64,
    /// Enqueues whose outcome their producers could not know.
    pub unknown: u64,
    /// Enqueues that the broker did not take.
    pub not_taken: u64,
    /// The longest time until a producer was told anything, in milliseconds.
    pub slowest_answer_ms: u64,
    /// Jobs that have succeeded.
    pub succeeded: u64,
    /// Jobs that are dead letters.
    pub dead: u64,
    /// Those of them that were taken for killers.
    pub crashed: u64,
    /// Those of these that are none.
    pub innocent: u64,
    /// Acknowledged, and neither succeeded nor dead. None may be.
    pub lost: u64,
    /// The same, with a queue that was deleted with all that was in it.
    pub gone: u64,
    /// Ran or are dead, and nobody has enqueued them. None may have.
    pub unexpected: u64,
    /// Ends beyond the first of each job.
    pub duplicated: u64,
    /// Those of them that came after a failed attempt: a copy for the next one that was made twice.
    pub duplicated_later: u64,
    /// Have an end, though their producers were never told that they were taken.
    pub recovered: u64,
    /// Both succeeded and dead. None may be, but as a killer, by whom its worker was lost.
    pub conflicting: u64,
    /// Have another end than they were meant to. None may have, but as a killer.
    pub misjudged: u64,
    /// Ran as an attempt that they should not have come to. None may have.
    pub overrun: u64,
    /// Jobs by the number of their starts.
    pub starts: BTreeMap<u32, u64>,
    /// The same of those that kill their workers.
    pub killers_starts: BTreeMap<u32, u64>,
    /// What workers have counted as jobs that may run twice.
    pub suspected: u64,
    /// Of each kind of problem, a few jobs.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

/// Examples that are kept of a problem.
const EXAMPLES: usize = 5;

#[derive(Debug, Clone, Copy, Default)]
struct Life {
    tried: u32,
    /// When last.
    tried_at: u64,
    is_acknowledged: bool,
    started: u32,
    started_at: u64,
    /// The highest attempt in which it has started.
    attempt: u32,
    succeeded: u32,
    /// In the second attempt or later.
    succeeded_later: u32,
    died: u32,
    has_crashed: bool,
}

/// Holds the records of a run, those of each process in their order, and the dead letters against the plan. `deleted_at`
/// is when their queue was last deleted, in microseconds since 1970.
#[must_use]
pub fn check(
    mix: &Mix,
    jobs: u64,
    records: impl IntoIterator<Item = Record>,
    dead: &[Dead],
    deleted_at: Option<u64>,
) -> Tally {
    let mut lives = vec![Life::default(); usize::try_from(jobs).expect("they fit into memory")];
    let mut tally = Tally::nothing();
    let mut strangers = Vec::new();
    for record in records {
        if record.event == Event::Suspected {
            tally.suspected += record.n;
            continue;
        }
        match usize::try_from(record.n).ok().and_then(|n| lives.get_mut(n)) {
            Some(life) => tally.note(life, record),
            None => strangers.push(record.n),
        }
    }
    for dead in dead {
        match dead.n.and_then(|n| lives.get_mut(usize::try_from(n).ok()?)) {
            Some(life) => {
                life.died += 1;
                life.has_crashed |= dead.crashed;
            }
            None => strangers.push(dead.n.unwrap_or(u64::MAX)),
        }
    }
    strangers.sort_unstable();
    strangers.dedup();
    strangers.into_iter().for_each(|n| tally.problem("unexpected", n));
    for (n, life) in (0..).zip(&lives) {
        tally.judge(mix, n, life, deleted_at);
    }
    tally
}

impl Tally {
    const fn nothing() -> Self {
        Self {
            attempts: 0,
            acknowledged: 0,
            unknown: 0,
            not_taken: 0,
            slowest_answer_ms: 0,
            succeeded: 0,
            dead: 0,
            crashed: 0,
            innocent: 0,
            lost: 0,
            gone: 0,
            unexpected: 0,
            duplicated: 0,
            duplicated_later: 0,
            recovered: 0,
            conflicting: 0,
            misjudged: 0,
            overrun: 0,
            starts: BTreeMap::new(),
            killers_starts: BTreeMap::new(),
            suspected: 0,
            examples: BTreeMap::new(),
        }
    }

    /// Whether every job has met the one end that was meant for it.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.lost == 0 && self.unexpected == 0 && self.conflicting == 0 && self.misjudged == 0 && self.overrun == 0
    }

    fn note(&mut self, life: &mut Life, record: Record) {
        if matches!(record.event, Event::Acknowledged | Event::Unknown | Event::NotTaken) {
            let took_ms = record.at.saturating_sub(life.tried_at) / 1_000;
            self.slowest_answer_ms = self.slowest_answer_ms.max(took_ms);
        }
        match record.event {
            Event::Tried => {
                self.attempts += 1;
                life.tried += 1;
                life.tried_at = record.at;
            }
            Event::Acknowledged => life.is_acknowledged = true,
            Event::Unknown => self.unknown += 1,
            Event::NotTaken => self.not_taken += 1,
            Event::Started => {
                life.started += 1;
                life.started_at = life.started_at.max(record.at);
                life.attempt = life.attempt.max(record.attempt);
            }
            Event::Succeeded => {
                life.succeeded += 1;
                life.succeeded_later += u32::from(record.attempt > 1);
            }
            Event::Failed | Event::Suspected => {}
        }
    }

    fn judge(&mut self, mix: &Mix, n: u64, life: &Life, deleted_at: Option<u64>) {
        let fate = mix.fate(n);
        let (succeeded, died) = (life.succeeded > 0, life.died > 0);
        let has_ended = succeeded || died;
        self.acknowledged += u64::from(life.is_acknowledged);
        self.succeeded += u64::from(succeeded);
        self.dead += u64::from(died);
        self.crashed += u64::from(life.has_crashed);
        self.innocent += u64::from(life.has_crashed && fate != Fate::Kills);
        self.recovered += u64::from(has_ended && life.tried > 0 && !life.is_acknowledged);
        let again = u64::from(life.succeeded.saturating_sub(1) + life.died.saturating_sub(1));
        self.duplicated += again;
        self.duplicated_later += if life.succeeded_later > 0 || died { again } else { 0 };
        if life.started > 0 {
            *self.starts.entry(life.started).or_default() += 1;
            if fate == Fate::Kills {
                *self.killers_starts.entry(life.started).or_default() += 1;
            }
        }
        if life.is_acknowledged && !has_ended {
            let is_older = |deleted_at| life.tried_at <= deleted_at && life.started_at <= deleted_at + BEGUN_LATER_MAX;
            if deleted_at.is_some_and(is_older) {
                self.gone += 1;
            } else {
                self.problem("lost", n);
            }
        }
        if (has_ended || life.started > 0) && life.tried == 0 {
            self.problem("unexpected", n);
        }
        if succeeded && died && !life.has_crashed {
            self.problem("conflicting", n);
        }
        let is_misjudged = (succeeded && fate.is_deadly()) || (died && !fate.is_deadly() && !life.has_crashed);
        if is_misjudged {
            self.problem("misjudged", n);
        }
        if life.attempt > fate.attempts().min(ATTEMPTS_MAX) {
            self.problem("overrun", n);
        }
    }

    fn problem(&mut self, what: &'static str, n: u64) {
        let count = match what {
            "lost" => &mut self.lost,
            "unexpected" => &mut self.unexpected,
            "conflicting" => &mut self.conflicting,
            "misjudged" => &mut self.misjudged,
            _ => &mut self.overrun,
        };
        *count += 1;
        let examples = self.examples.entry(what).or_default();
        if examples.len() < EXAMPLES {
            examples.push(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tenth job fails once; the last of a hundred fails for good.
    const MIX: Mix = Mix { fails_once: 10, fails: 100, kills: 0, takes_time: 0, millis_max: 0 };

    fn record(event: Event, n: u64, attempt: u32) -> Record {
        Record { event, attempt, n, at: 0 }
    }

    /// All that should happen to ten jobs.
    fn well() -> Vec<Record> {
        let mut records = Vec::new();
        for n in 0..10 {
            records.push(record(Event::Tried, n, 0));
            records.push(record(Event::Acknowledged, n, 0));
            for attempt in 1..=MIX.fate(n).attempts() {
                records.push(record(Event::Started, n, attempt));
            }
            records.push(record(Event::Succeeded, n, MIX.fate(n).attempts()));
        }
        records
    }

    fn tally(records: impl IntoIterator<Item = Record>) -> Tally {
        check(&MIX, 10, records, &[], None)
    }

    fn dead(n: u64, crashed: bool) -> Dead {
        Dead { n: Some(n), crashed }
    }

    #[test]
    fn jobs_that_all_meet_their_ends_are_valid() {
        let tally = tally(well());
        assert!(tally.is_valid());
        assert_eq!((tally.attempts, tally.acknowledged, tally.succeeded, tally.dead), (10, 10, 10, 0));
        assert_eq!((tally.duplicated, tally.recovered), (0, 0));
        assert_eq!(tally.starts, BTreeMap::from([(1, 9), (2, 1)]));
    }

    #[test]
    fn an_acknowledged_job_without_an_end_is_lost() {
        let tally = tally(well().into_iter().filter(|record| (record.event, record.n) != (Event::Succeeded, 3)));
        assert_eq!((tally.lost, tally.is_valid()), (1, false));
        assert_eq!(tally.examples["lost"], [3]);
    }

    #[test]
    fn a_job_that_was_tried_before_its_queue_was_deleted_is_gone_and_one_that_was_seen_later_is_lost() {
        const DELETED_AT: u64 = 1_000_000;
        let of = |tried_at, started_at| {
            let at = |event, at| Record { at, ..record(event, 0, 1) };
            let seen = [at(Event::Tried, tried_at), at(Event::Acknowledged, tried_at), at(Event::Started, started_at)];
            let tally = |deleted_at| check(&MIX, 1, seen, &[], deleted_at);
            let (deleted, kept) = (tally(Some(DELETED_AT)), tally(None));
            assert_eq!((kept.gone, kept.lost), (0, 1), "where no queue was deleted");
            (deleted.gone, deleted.lost)
        };
        assert_eq!(of(DELETED_AT, DELETED_AT + BEGUN_LATER_MAX), (1, 0));
        assert_eq!(of(DELETED_AT + 1, DELETED_AT + 1), (0, 1), "what was enqueued afterwards must come");
        assert_eq!(of(DELETED_AT, DELETED_AT + BEGUN_LATER_MAX + 1), (0, 1), "it was there afterwards");
    }

    #[test]
    fn a_job_without_an_answer_may_run_or_not_and_is_recovered_where_it_does() {
        let unanswered = |record: &Record| (record.event, record.n) != (Event::Acknowledged, 3);
        let ran = tally(well().into_iter().filter(unanswered));
        assert!(ran.is_valid());
        assert_eq!((ran.acknowledged, ran.recovered), (9, 1));
        let ran_not = |record: &Record| record.n != 3 || record.event == Event::Tried;
        let ran_not = tally(well().into_iter().filter(ran_not));
        assert!(ran_not.is_valid());
        assert_eq!((ran_not.acknowledged, ran_not.recovered), (9, 0));
    }

    #[test]
    fn what_nobody_has_enqueued_is_unexpected() {
        let untried = tally(well().into_iter().filter(|record| record.n != 3 || record.event == Event::Started));
        assert_eq!((untried.unexpected, untried.is_valid()), (1, false));
        let beyond = tally(well().into_iter().chain([record(Event::Started, 10, 1), record(Event::Succeeded, 10, 1)]));
        assert_eq!((beyond.unexpected, beyond.is_valid()), (1, false));
        let nameless = check(&MIX, 10, well(), &[Dead { n: None, crashed: false }], None);
        assert_eq!((nameless.unexpected, nameless.is_valid()), (1, false));
    }

    #[test]
    fn a_second_end_is_a_duplicate_and_no_more() {
        let first = tally(well().into_iter().chain([record(Event::Succeeded, 3, 1)]));
        assert_eq!((first.duplicated, first.duplicated_later, first.is_valid()), (1, 0, true));
        let later = tally(well().into_iter().chain([record(Event::Succeeded, 9, 2), record(Event::Succeeded, 9, 2)]));
        assert_eq!((later.duplicated, later.duplicated_later, later.is_valid()), (2, 2, true));
    }

    #[test]
    fn an_end_that_was_not_meant_is_misjudged_unless_the_job_was_taken_for_a_killer() {
        let alive = |n: u64| well().into_iter().filter(move |record| (record.event, record.n) != (Event::Succeeded, n));
        let misjudged = check(&MIX, 10, alive(3), &[dead(3, false)], None);
        assert_eq!((misjudged.misjudged, misjudged.is_valid()), (1, false));
        let crashed = check(&MIX, 10, alive(3), &[dead(3, true)], None);
        assert_eq!((crashed.misjudged, crashed.crashed, crashed.innocent, crashed.is_valid()), (0, 1, 1, true));
        let both = check(&MIX, 10, well(), &[dead(3, false)], None);
        assert_eq!((both.conflicting, both.is_valid()), (1, false));
        let of_hundred =
            check(&MIX, 100, [(Event::Tried, 99), (Event::Succeeded, 99)].map(|(e, n)| record(e, n, 1)), &[], None);
        assert_eq!((of_hundred.misjudged, of_hundred.is_valid()), (1, false));
    }

    #[test]
    fn the_longest_wait_for_an_answer_is_told() {
        let at = |event, at| Record { event, attempt: 0, n: 0, at };
        let tally = tally([at(Event::Tried, 1_000), at(Event::Unknown, 5_000), at(Event::Tried, 90_000)]);
        assert_eq!(tally.slowest_answer_ms, 4);
    }

    #[test]
    fn the_starts_of_killers_are_counted_apart() {
        let mix = Mix { kills: 10, ..MIX };
        let starts = (0..3).map(|_| record(Event::Started, 9, 1));
        let tally =
            check(&mix, 10, well().into_iter().filter(|record| record.n != 9).chain(starts), &[dead(9, true)], None);
        assert_eq!((tally.crashed, tally.innocent), (1, 0));
        assert_eq!(tally.killers_starts, BTreeMap::from([(3, 1)]));
    }

    #[test]
    fn an_attempt_beyond_the_last_is_an_overrun() {
        let tally = tally(well().into_iter().chain([record(Event::Started, 3, 2)]));
        assert_eq!((tally.overrun, tally.is_valid()), (1, false));
    }
}
