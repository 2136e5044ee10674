//! The names and arguments of everything that is declared, in one place. Pure.
//!
//! Arguments are a function of the name, of the type of queue and of what the jobs
//! ask of it, so that two versions of a program never declare one queue in two ways.
//!
//! | queue | what for | arguments beside `x-queue-type` |
//! |---|---|---|
//! | `q` | jobs that are due | delivery limit 1,000; dead-letters to `q_dlq`, at least once; refuses when full; a classic one `x-max-priority` where it is asked for; a quorum one that is a shard but the first a leader on the node with the fewest |
//! | `q_dlq`, or as its jobs name it | dead letters, kept until a person decides | delivery limit 1,000,000,000; a TTL where it is asked for |
//! | `q_suspects` | jobs that may have killed a worker | as `q` |
//! | `q_retry_<ms>` | retries that wait so long | fixed TTL; dead-letters to `q`, at least once; refuses when full |
//! | `<ns>.delay.<ms>` | jobs that wait, shared by all queues: one level of the ladder | fixed TTL; dead-letters to `<ns>.due`, at least once; refuses when full |
//! | `<ns>.due` | jobs that go on, to the next level or to their queue | delivery limit 1,000,000,000 |
//!
//! Only `q` itself is of the type that its jobs ask for: what waits, or is kept, is of the
//! program's type, which is the safer one by default.
//!
//! The delivery limits are explicit and positive: -1 on 3.10 dead-letters at the
//! first requeue, and where none is given 4.0 to 4.2 have 20, which peeks and
//! restarts of a frozen worker use up.
//!
//! Levels never dead-letter straight to a job's queue: one message for a
//! deleted queue would hold up every other in its level (measured, on 3.10 and 4.3).

use std::{collections::BTreeSet, time::Duration};

use lapin::types::{AMQPValue, FieldTable};

use crate::{
    brokers::rabbitmq::mutant::{self, Mutant},
    name::{DEAD_LETTER_SUFFIX, QueueName},
    queue::{QueueOptions, QueueType},
    retry::RetryPolicy,
    shard,
};

/// The arguments by which a queue differs for who uses it.
pub(super) const QUEUE_TYPE: &str = "x-queue-type";
pub(super) const MAX_PRIORITY: &str = "x-max-priority";
pub(super) const MESSAGE_TTL: &str = "x-message-ttl";

/// On which node the leader of a quorum queue begins.
const LEADER_LOCATOR: &str = "x-queue-leader-locator";

/// Returns after which the server itself takes a message out of a job's queue.
const DELIVERY_LIMIT: i32 = 1_000;

/// Enough for a person who looks at a dead letter all day.
pub(super) const UNLIMITED: i32 = 1_000_000_000;

/// The pauses of a retry that have a queue of their own, in milliseconds.
///
/// The default backoff (5 s doubling to 10 min), and each with half and all of
/// the jitter: one hop, no worker needed, where the ladder takes several.
const RUNGS_MS: [u64; 24] = [
    5_000, 5_625, 6_250, 10_000, 11_250, 12_500, 20_000, 22_500, 25_000, 40_000, 45_000, 50_000, 80_000, 90_000,
    100_000, 160_000, 180_000, 200_000, 320_000, 360_000, 400_000, 600_000, 675_000, 750_000,
];

/// A rung may be longer than asked by this part of itself; otherwise the ladder is more exact.
const RUNG_SLACK: u64 = 8;

/// The shortest level of the ladder, 2^5 ms: a hop takes milliseconds itself.
const LEVEL_MIN: u32 = 5;

/// The longest level of the ladder, 2^35 ms, is longer than the longest delay.
const LEVEL_MAX: u32 = 35;

/// The longest level that a worker makes at its start, 2^12 ms: what is released, and what a porter puts back, waits
/// no longer.
const LEVEL_AT_START_MAX: u32 = 12;

/// The dead-letter queue of `queue`, where its jobs name no other.
pub(super) fn dead_letters(queue: &QueueName) -> String {
    format!("{queue}{DEAD_LETTER_SUFFIX}")
}

/// The dead-letter queue of `queue`, as its jobs ask.
pub(super) fn dead_letters_as(queue: &QueueName, asked: &QueueOptions) -> String {
    asked.dead_letter_queue.as_ref().map_or_else(|| dead_letters(queue), ToString::to_string)
}

/// Where the jobs of `queue` run that may have killed a worker.
pub(super) fn suspects(queue: &QueueName) -> String {
    format!("{queue}_suspects")
}

/// Where retries of `queue` wait for `rung`.
pub(super) fn retry(queue: &QueueName, Rung(ms): Rung) -> String {
    format!("{queue}_retry_{ms}")
}

/// A pause that has a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rung(u64);

/// Which rungs a queue has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rungs {
    /// Each, as it is needed.
    All,
    /// Those that somebody else has declared.
    Only(BTreeSet<Rung>),
}

impl Rungs {
    /// The rung for a retry after `pause`, if there is one that is hardly longer.
    pub(super) fn of(&self, pause: Duration) -> Option<Rung> {
        let ms = whole_ms(pause);
        let rung = RUNGS_MS.into_iter().find(|rung| *rung >= ms && self.has(Rung(*rung)))?;
        (rung - ms <= rung / RUNG_SLACK).then_some(Rung(rung))
    }

    fn has(&self, rung: Rung) -> bool {
        match self {
            Self::All => true,
            Self::Only(rungs) => rungs.contains(&rung),
        }
    }
}

fn whole_ms(pause: Duration) -> u64 {
    u64::try_from(pause.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Every rung.
pub(super) fn all_rungs() -> impl Iterator<Item = Rung> {
    RUNGS_MS.into_iter().map(Rung)
}

/// The rungs to which retries by `policy` come, whatever is drawn.
pub(super) fn rungs_of(policy: &RetryPolicy) -> Vec<Rung> {
    // From there on the pauses are the same.
    let retries = 1..=policy.max_retries().min(33);
    let pauses: Vec<_> = retries.map(|n| (whole_ms(policy.delay(n, 0.0)), whole_ms(policy.delay(n, 1.0)))).collect();
    let before = [0].into_iter().chain(RUNGS_MS);
    let reached = before.zip(RUNGS_MS).filter(|(before, rung)| {
        // The pauses that wait on this rung.
        let shortest = (before + 1).max(rung - rung / RUNG_SLACK);
        pauses.iter().any(|(from, to)| *from <= *rung && *to >= shortest)
    });
    reached.map(|(_, rung)| Rung(rung)).collect()
}

/// The rung with the shortest wait.
pub(super) const fn shortest_rung() -> Rung {
    Rung(RUNGS_MS[0])
}

/// The queues that all jobs share, under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Ladder {
    namespace: String,
}

impl Ladder {
    pub(super) const fn new(namespace: String) -> Self {
        Self { namespace }
    }

    /// What the names of its queues begin with.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where a job comes when its wait in a level is over.
    pub(super) fn due(&self) -> String {
        format!("{}.due", self.namespace)
    }

    /// The level in which a job that has `remaining_ms` to wait waits next:
    /// the longest that is not too long, or the shortest.
    pub(super) fn level(remaining_ms: u64) -> Level {
        Level(remaining_ms.max(1).ilog2().clamp(LEVEL_MIN, LEVEL_MAX))
    }

    /// Every level.
    pub(super) fn levels() -> impl Iterator<Item = Level> {
        (LEVEL_MIN..=LEVEL_MAX).map(Level)
    }

    /// Those that are there before the first job is taken: they are needed when something goes wrong, and what is
    /// declared just then may be lost.
    pub(super) fn levels_at_start() -> impl Iterator<Item = Level> {
        Self::levels().filter(|level| level.is_made_at_start())
    }

    pub(super) fn name(&self, level: Level) -> String {
        format!("{}.delay.{}", self.namespace, level.ms())
    }
}

/// One level of the ladder: a wait of 2^n milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Level(u32);

impl Level {
    pub(super) const fn ms(self) -> u64 {
        1 << self.0
    }

    /// Whether a worker makes it at its start.
    pub(super) const fn is_made_at_start(self) -> bool {
        self.0 <= LEVEL_AT_START_MAX
    }
}

/// The arguments of `q`.
pub(super) fn queue_arguments(queue: &QueueName, kind: QueueType, asked: &QueueOptions) -> FieldTable {
    let kind = asked.queue_type.unwrap_or(kind);
    let mut table = work_arguments(queue, kind, asked);
    // Or all leaders of a queue's shards would be on the node of whoever declares them. The first, which is the queue
    // itself, stays as a queue without shards is.
    if kind == QueueType::Quorum && shard::number(queue) > 0 {
        table.insert(LEADER_LOCATOR.into(), AMQPValue::LongString("balanced".into()));
    }
    if let Some(max) = asked.max_priority {
        table.insert(MAX_PRIORITY.into(), AMQPValue::LongInt(max.level().into()));
    }
    table
}

/// The arguments of `q_suspects`, and of `q` where no priorities are asked of it.
pub(super) fn work_arguments(queue: &QueueName, kind: QueueType, asked: &QueueOptions) -> FieldTable {
    let mut table = forwarding(kind, &dead_letters_as(queue, asked));
    if kind == QueueType::Quorum {
        table.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    }
    table
}

/// The arguments of a queue that people or workers empty, and that nothing leaves by itself.
pub(super) fn keeping_arguments(kind: QueueType) -> FieldTable {
    let mut table = of_kind(kind);
    if kind == QueueType::Quorum {
        table.insert("x-delivery-limit".into(), AMQPValue::LongInt(UNLIMITED));
    }
    table
}

/// The arguments of a dead-letter queue.
pub(super) fn dead_letter_arguments(kind: QueueType, asked: &QueueOptions) -> FieldTable {
    let mut table = keeping_arguments(kind);
    if let Some(ttl) = asked.dead_letter_ttl {
        table.insert(MESSAGE_TTL.into(), AMQPValue::LongLongInt(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
    }
    table
}

/// The arguments of a queue in which everything waits for `ms` and goes on to `target`.
fn waiting_arguments(kind: QueueType, ms: u64, target: &str) -> FieldTable {
    let mut table = forwarding(kind, target);
    table.insert(MESSAGE_TTL.into(), AMQPValue::LongLongInt(i64::try_from(ms).unwrap_or(i64::MAX)));
    table
}

/// The arguments of `q_retry_<ms>`.
pub(super) fn retry_arguments(queue: &QueueName, Rung(ms): Rung, kind: QueueType) -> FieldTable {
    waiting_arguments(kind, ms, queue.as_str())
}

impl Ladder {
    /// The arguments of `<ns>.delay.<ms>`.
    pub(super) fn arguments(&self, level: Level, kind: QueueType) -> FieldTable {
        waiting_arguments(kind, level.ms(), &self.due())
    }
}

fn of_kind(kind: QueueType) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(QUEUE_TYPE.into(), AMQPValue::LongString(kind.as_str().into()));
    table
}

/// What leaves the queue goes to `target`, without loss where the kind of queue can.
fn forwarding(kind: QueueType, target: &str) -> FieldTable {
    let mut table = of_kind(kind);
    let text = |text: &str| AMQPValue::LongString(text.into());
    table.insert("x-dead-letter-exchange".into(), text(""));
    table.insert("x-dead-letter-routing-key".into(), text(target));
    table.insert("x-overflow".into(), text("reject-publish"));
    if kind == QueueType::Quorum && !mutant::is(Mutant::ForwardedAtMostOnce) {
        table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retry::{DELAY_MAX, JITTER};

    fn rung_ms(pause: Duration) -> Option<u64> {
        Rungs::All.of(pause).map(|Rung(ms)| ms)
    }

    #[test]
    fn every_pause_of_the_default_backoff_has_a_rung() {
        let policy = RetryPolicy::new(20, RetryPolicy::DEFAULT.base(), RetryPolicy::DEFAULT.cap());
        for attempt in 1..=12 {
            for draw in [0.0, 0.01, 0.5, 0.51, 0.999] {
                let pause = policy.delay(attempt, draw);
                let rung = Duration::from_millis(rung_ms(pause).unwrap_or_else(|| panic!("no rung for {pause:?}")));
                assert!(rung >= pause && rung <= pause.mul_f64(1.0 + JITTER), "{pause:?} waits {rung:?}");
            }
        }
    }

    #[test]
    fn a_pause_far_from_every_rung_has_none() {
        for seconds in [0, 1, 4, 7, 15, 120, 420, 3_600] {
            assert_eq!(rung_ms(Duration::from_secs(seconds)), None, "{seconds} s");
        }
        assert_eq!(rung_ms(Duration::from_micros(4_999_999)), Some(5_000));
        assert_eq!(rung_ms(Duration::from_micros(5_000_001)), Some(5_625));
    }

    proptest! {
        #[test]
        fn a_rung_is_never_early_and_hardly_late(ms in 0_u64..1_000_000) {
            if let Some(rung) = rung_ms(Duration::from_millis(ms)) {
                prop_assert!(rung >= ms && rung - ms <= rung / 8);
            }
        }

        #[test]
        fn the_rungs_of_a_policy_are_all_that_its_retries_come_to(
            base_ms in 1_u64..900_000, cap_ms in 1_u64..900_000, retries in 1_u32..40, n in 1_u32..40, draw in 0.0..1.0,
        ) {
            let policy = RetryPolicy::new(retries, Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let planned = rungs_of(&policy);
            if let Some(rung) = Rungs::All.of(policy.delay(n.min(retries), draw)) {
                prop_assert!(planned.contains(&rung), "{rung:?} of {planned:?}");
            }
            prop_assert!(planned.iter().all(|Rung(ms)| *ms >= base_ms.min(cap_ms.max(base_ms))));
        }

        #[test]
        fn a_rung_that_is_not_there_is_not_chosen(ms in 0_u64..1_000_000, mask in any::<u32>()) {
            let there = all_rungs().enumerate().filter(|(n, _)| mask & (1 << n) != 0).map(|(_, rung)| rung);
            let there: BTreeSet<_> = there.collect();
            if let Some(rung) = Rungs::Only(there.clone()).of(Duration::from_millis(ms)) {
                prop_assert!(there.contains(&rung) && rung.0 >= ms && rung.0 - ms <= rung.0 / 8);
            }
        }

        #[test]
        fn a_level_is_never_too_long_but_for_the_last_of_all(ms in 0..=u64::try_from(DELAY_MAX.as_millis()).unwrap()) {
            let level = Ladder::level(ms).ms();
            prop_assert!(level <= ms.max(32));
            prop_assert!(level * 2 > ms, "at least half of the wait is done in one hop");
        }
    }

    #[test]
    fn names_say_what_a_queue_is_for() {
        let orders: QueueName = "orders".parse().unwrap();
        let names = [dead_letters(&orders), suspects(&orders), retry(&orders, Rung(5_000))];
        assert_eq!(names, ["orders_dlq", "orders_suspects", "orders_retry_5000"]);
        let ladder = Ladder::new("worker".into());
        assert_eq!(
            (ladder.due(), ladder.name(Ladder::level(3_000))),
            ("worker.due".into(), "worker.delay.2048".into())
        );
    }

    #[test]
    fn the_leaders_of_shards_are_spread_and_the_first_is_declared_as_a_queue_without_shards() {
        let balanced = |name: &str, kind| {
            let arguments = queue_arguments(&name.parse().unwrap(), kind, &QueueOptions::default());
            arguments.inner().contains_key(LEADER_LOCATOR)
        };
        assert!(balanced("orders.shard-1", QueueType::Quorum));
        assert!(!balanced("orders", QueueType::Quorum) && !balanced("orders.shard-1", QueueType::Classic));
    }

    #[test]
    fn a_quorum_queue_forwards_at_least_once_and_a_classic_one_does_not_claim_to() {
        let orders: QueueName = "orders".parse().unwrap();
        let has = |table: &FieldTable, key: &str| table.inner().contains_key(key);
        let nothing = QueueOptions::default();
        let quorum = work_arguments(&orders, QueueType::Quorum, &nothing);
        assert!(["x-dead-letter-strategy", "x-delivery-limit", "x-overflow"].iter().all(|key| has(&quorum, key)));
        // Refused on a classic queue with 406.
        let classic = work_arguments(&orders, QueueType::Classic, &nothing);
        assert!(!has(&classic, "x-dead-letter-strategy") && !has(&classic, "x-delivery-limit"));
    }
}
