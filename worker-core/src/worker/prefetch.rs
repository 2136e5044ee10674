//! How many jobs of a queue a worker holds, by how long they take. Pure.
//!
//! What is in hand beyond the slots has one purpose: that the next job is there when one ends. By
//! Little's law (J. D. C. Little, 1961) `slots / time` jobs end per second, so `slots * REFILL / time` of them are done,
//! or on their way, while one is fetched in the place of another. That many are held beside those that run: hundreds where
//! a job takes 100 µs, and where it takes 10 s nearly none, so that none waits here that another worker could run.

use std::{num::NonZeroU16, time::Duration};

use tokio::time::Instant;

/// How long it takes, at most, until another job is here for one that ended: its acknowledgement waits up to 3 ms
/// for others, and a server answers within 1 to 2 ms.
const REFILL: Duration = Duration::from_millis(5);

/// The most that are held of one queue without being told: from 256 to 1,024 a worker of a queue of RabbitMQ gains a fifth
/// (P1 in `docs/performance.md`), and what is beyond costs memory only.
pub(super) const MOST: usize = 1_000;

/// The most bytes that are held of one queue, by the size of those that ran; the least is held whatever it has.
const BYTES_MOST: u64 = 16 * 1024 * 1024;

/// How long is measured until something is changed.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// How long a queue whose jobs became slow is held few of: to give jobs back costs more than to fetch them late.
const CAUTION: Duration = Duration::from_secs(10);

/// For so many windows jobs may wait here of which none runs, because other queues have the slots.
const IDLE_MAX: u8 = 3;

/// What is held of a queue of which nothing is known yet, and of slow jobs: a quarter more than can run. Where some of its
/// jobs may not run as often as there are slots, twice as many: they wait in hand, and others must be beside them.
pub(super) const fn least(slots: usize, is_limited: bool) -> usize {
    slots + if is_limited { slots } else { slots.div_ceil(4) }
}

/// What is known of one queue's jobs.
#[derive(Debug)]
pub(super) struct Pace {
    slots: usize,
    least: usize,
    current: usize,
    began: Instant,
    now: Sums,
    /// Of the time before, of which the latest counts most.
    before: Sums,
    /// The most jobs that were in hand at once.
    most_in_hand: usize,
    /// Windows in a row in which jobs waited here and none ran: others have the slots.
    idle: u8,
    /// When it may grow again.
    cautious_until: Option<Instant>,
}

/// What was measured in some time.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// The time that jobs ran.
    busy: f64,
    ended: f64,
    /// What came by itself, and not in the message of another.
    messages: f64,
    bytes: f64,
}

impl Pace {
    /// Of a queue with so many slots, of which `least` are held at first.
    pub(super) fn new(slots: usize, least: NonZeroU16, now: Instant) -> Self {
        let least = usize::from(least.get());
        let (none, began) = (Sums::default(), now);
        Self {
            slots,
            least,
            current: least,
            began,
            now: none,
            before: none,
            most_in_hand: 0,
            idle: 0,
            cautious_until: None,
        }
    }

    /// A job ended that ran so long; `is_first` of its message, where several share one.
    #[expect(clippy::cast_precision_loss, reason = "a mean of sizes far below 2^52")]
    pub(super) fn ended(&mut self, elapsed: Duration, bytes: usize, is_first: bool) {
        let sums = &mut self.now;
        sums.busy += elapsed.min(WINDOW).as_secs_f64();
        sums.ended += 1.0;
        sums.messages += f64::from(u8::from(is_first));
        sums.bytes += bytes as f64;
    }

    /// So many of the queue's jobs are in hand, running or not started.
    pub(super) fn in_hand(&mut self, jobs: usize) {
        self.most_in_hand = self.most_in_hand.max(jobs);
    }

    /// Whether more is held than at first, so that a slow job must be noticed while it runs.
    pub(super) const fn is_grown(&self) -> bool {
        self.current > self.least
    }

    /// Looks at what was measured, where it is time: how many jobs run, since when, `running` says. What is to be held
    /// from now on, if that is another number; `in_hand` are now.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        running: impl Iterator<Item = Duration>,
        in_hand: usize,
    ) -> Option<NonZeroU16> {
        let window = now.saturating_duration_since(self.began);
        if window < WINDOW {
            return None;
        }
        self.began = now;
        let mut latest = std::mem::take(&mut self.now);
        // Those that have not ended yet count by what they took of this time: one that never ends must be noticed, too.
        latest.busy += running.map(|age| age.min(WINDOW).as_secs_f64()).sum::<f64>();
        if latest.busy <= 0.0 && latest.ended <= 0.0 {
            // Nothing was learnt, but that what waits here could be run elsewhere.
            self.idle = if in_hand > 0 { self.idle.saturating_add(1) } else { 0 };
            return if self.is_grown() && self.idle >= IDLE_MAX { self.go_to(self.least, now) } else { None };
        }
        self.idle = 0;
        self.before = self.before.halved().plus(latest);
        let most_in_hand = std::mem::take(&mut self.most_in_hand);
        let latest_ended = latest.ended;
        let (wanted, latest) = (self.wanted(self.before), self.wanted(latest));
        let is_used_up = latest_ended >= self.current as f64 && most_in_hand * 2 >= self.current;
        let most = self.most(self.before);
        let next = self.next((wanted, latest), most, is_used_up, now)?;
        self.go_to(next, now)
    }

    fn go_to(&mut self, next: usize, now: Instant) -> Option<NonZeroU16> {
        if next < self.current {
            self.cautious_until = Some(now + CAUTION);
        }
        self.current = next;
        u16::try_from(next).ok().and_then(NonZeroU16::new)
    }

    /// What should be held of such jobs, by the rule.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a float above the bound becomes it"
    )]
    fn wanted(&self, of: Sums) -> usize {
        let Self { slots, least, .. } = self;
        let beside = *slots as f64 * REFILL.as_secs_f64() / of.time();
        let jobs = (*slots as f64 + beside).ceil();
        let messages = jobs * of.messages / of.ended.max(1.0);
        (messages as usize).min(self.most(of)).max(*least)
    }

    /// The most that may be held of such jobs.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a float above the bound becomes it"
    )]
    fn most(&self, of: Sums) -> usize {
        let in_bytes = BYTES_MOST as f64 * of.messages / of.bytes.max(1.0);
        (in_bytes as usize).min(MOST).max(self.least)
    }

    /// Where to go from here: by doubling, so that it is not changed for little, and only where what is held is used.
    fn next(&self, (wanted, latest): (usize, usize), most: usize, is_used_up: bool, now: Instant) -> Option<usize> {
        let Self { least, current, .. } = *self;
        if wanted * 2 <= current && current > least {
            // At once as far as the latest says: to become slow is no mean of before and after.
            return Some(self.step(wanted.min(latest)).min(most));
        }
        let is_short = is_used_up && wanted * 4 > current * 5;
        let may_grow = self.cautious_until.is_none_or(|until| until <= now);
        let next = self.step(wanted).min(most);
        (is_short && may_grow && next > current).then_some(next)
    }

    /// The first doubling of the least that is enough.
    fn step(&self, wanted: usize) -> usize {
        let doubled = std::iter::successors(Some(self.least), |step| Some(step * 2)).find(|step| *step >= wanted);
        doubled.unwrap_or(self.least)
    }
}

impl Sums {
    fn halved(self) -> Self {
        let Self { busy, ended, messages, bytes } = self;
        Self { busy: busy / 2.0, ended: ended / 2.0, messages: messages / 2.0, bytes: bytes / 2.0 }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            busy: self.busy + other.busy,
            ended: self.ended + other.ended,
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
        }
    }

    /// What a job takes, in seconds: the time that all ran, by how many ended of it.
    fn time(self) -> f64 {
        // A microsecond: less is not measured well.
        (self.busy / self.ended.max(f64::MIN_POSITIVE)).max(1e-6)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::monotonic_now;

    /// A queue with its own time.
    struct Queue {
        pace: Pace,
        now: Instant,
        bytes: usize,
        bundle: u64,
        waiting: usize,
    }

    impl Queue {
        fn of(slots: usize) -> Self {
            let (now, first) = (monotonic_now(), u16::try_from(least(slots, false)).unwrap().try_into().unwrap());
            Self { pace: Pace::new(slots, first, now), now, bytes: 100, bundle: 1, waiting: 0 }
        }

        /// For so many windows all slots have jobs that take so long; what is held then.
        fn busy(&mut self, windows: u32, time: Duration) -> usize {
            let per_window = u64::try_from(self.pace.slots as u128 * WINDOW.as_micros() / time.as_micros()).unwrap();
            self.works(windows, per_window, time, &[])
        }

        fn works(&mut self, windows: u32, per_window: u64, time: Duration, running: &[Duration]) -> usize {
            for _ in 0..windows {
                // A server sends what it may, where there is so much.
                self.pace.in_hand(usize::try_from(per_window).unwrap().min(self.pace.current));
                (0..per_window).for_each(|n| self.pace.ended(time, self.bytes, n % self.bundle == 0));
                self.now += WINDOW;
                self.pace.turn(self.now, running.iter().copied(), self.waiting);
            }
            self.pace.current
        }
    }

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn what_is_held_beside_the_slots_is_what_is_done_in_five_milliseconds() {
        for (slots, time, held) in [
            (16, micros(100), 1_000),
            (16, micros(500), 320),
            (16, micros(2_000), 80),
            (16, micros(10_000), 20),
            (16, micros(100_000), 20),
            (1, micros(100), 64),
            (1, micros(1_000), 8),
            (100, micros(2_000), 500),
            (2_000, micros(100), 2_500),
        ] {
            assert_eq!(Queue::of(slots).busy(20, time), held, "{slots} slots, {time:?}");
        }
    }

    #[test]
    fn it_is_decided_within_a_window() {
        assert_eq!(Queue::of(16).busy(1, micros(2_000)), 80);
    }

    #[test]
    fn quick_jobs_that_come_now_and_then_need_no_more() {
        let mut queue = Queue::of(16);
        assert_eq!(queue.works(20, 19, micros(100), &[]), 20);
        assert_eq!(queue.works(1, 20, micros(100), &[]), 1_000, "until what may be held is done within a window");
    }

    #[test]
    fn slow_jobs_are_noticed_within_a_second_while_they_run() {
        let mut queue = Queue::of(16);
        queue.busy(20, micros(100));
        let running = [Duration::from_secs(1); 16];
        let windows = (1..=10).find(|_| queue.works(1, 0, Duration::ZERO, &running) == 20);
        assert!(windows.is_some(), "{:?}", queue.pace);
        assert!(!queue.pace.is_grown());
    }

    #[test]
    fn one_slow_job_among_quick_ones_changes_nothing() {
        let mut queue = Queue::of(16);
        assert_eq!(queue.busy(20, micros(1_000)), 160);
        let per_window = 15 * 100;
        assert_eq!(queue.works(100, per_window, micros(1_000), &[Duration::from_secs(60)]), 160);
    }

    #[test]
    fn what_shrank_grows_again_after_a_while_only() {
        let mut queue = Queue::of(16);
        queue.busy(20, micros(1_000));
        while queue.busy(1, micros(200_000)) > 20 {}
        assert_eq!(queue.busy(99, micros(1_000)), 20, "for ten seconds");
        assert_eq!(queue.busy(3, micros(1_000)), 160);
    }

    #[test]
    fn a_time_between_two_steps_does_not_make_it_go_to_and_fro() {
        let mut queue = Queue::of(16);
        let held: Vec<_> =
            (0..400).map(|n| queue.busy(1, micros(if n % 2 == 0 { 1_300 } else { 1_500 }))).skip(10).collect();
        assert!(held.iter().all(|next| *next == held[0]), "{held:?}");
    }

    #[test]
    fn large_jobs_are_bounded_by_their_bytes() {
        let mut queue = Queue::of(16);
        queue.bytes = 256 * 1024;
        // 64 of them are 16 MiB; the next step would be 80.
        assert_eq!(queue.busy(20, micros(100)), 64);
    }

    #[test]
    fn of_jobs_that_share_messages_the_messages_are_counted() {
        let mut queue = Queue::of(16);
        queue.bundle = 100;
        assert_eq!(queue.busy(20, micros(100)), 20);
        let mut queue = Queue::of(100);
        (queue.bundle, queue.bytes) = (100, 2_500);
        // 67 messages of 250 kB are 16 MiB.
        assert_eq!(queue.busy(20, micros(50)), 125);
    }

    #[test]
    fn what_waits_here_because_others_have_the_slots_goes_elsewhere() {
        let mut queue = Queue::of(16);
        queue.busy(20, micros(1_000));
        queue.waiting = 100;
        assert_eq!(queue.works(2, 0, Duration::ZERO, &[]), 160);
        assert_eq!(queue.works(1, 0, Duration::ZERO, &[]), 20);
    }

    #[test]
    fn an_idle_queue_is_left_as_it_is() {
        let mut queue = Queue::of(16);
        queue.busy(20, micros(1_000));
        assert_eq!(queue.works(1_000, 0, Duration::ZERO, &[]), 160);
    }

    proptest! {
        #[test]
        fn it_is_never_less_than_the_least_nor_more_than_the_most(
            slots in 1..3_000_usize,
            rounds in prop::collection::vec((0..3_000_u64, 0..300_000_u64, 0..2_000_000_usize, 0..20_usize), 1..40),
        ) {
            let mut queue = Queue::of(slots);
            for (ended, time, bytes, running) in rounds {
                queue.bytes = bytes;
                let held = queue.works(1, ended, micros(time), &vec![Duration::from_secs(2); running]);
                let least = least(slots, false);
                prop_assert!((least..=MOST.max(least)).contains(&held), "{held}");
            }
        }
    }
}
