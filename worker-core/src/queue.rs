//! What a job may ask of its queue, beside a name. Pure.
//!
//! A queue is made by whoever meets it first, a program that enqueues as well as
//! one that runs the jobs. So what it is asked to be stands with the job, where
//! both find it, and all jobs of one queue must ask for the same.

use std::{fmt, num::NonZeroU8, time::Duration};

use serde::Serialize;

use crate::{
    envelope::Priority,
    name::QueueName,
    retry::DELAY_MAX,
    shard::{self, SHARDS_MAX},
};

/// How a server keeps a queue. A hint: only RabbitMQ has more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QueueType {
    /// Replicated, and safe when a node dies. The default.
    #[default]
    Quorum,
    /// On one node, and dead-lettering at most once: for programs that need what only such a queue has, which is
    /// [priorities](QueueOptions::max_priority) before RabbitMQ 4.3.
    Classic,
}

impl QueueType {
    /// Its name in AMQP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }

    /// The type of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Quorum, Self::Classic].into_iter().find(|known| known.as_str() == text)
    }
}

impl fmt::Display for QueueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is asked of a queue when it is made, and must hold of one that exists. By default, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
#[non_exhaustive]
pub struct QueueOptions {
    /// How the server keeps it; `None` for what the broker was opened with. Brokers without such a choice ignore it.
    pub queue_type: Option<QueueType>,
    /// The highest priority that it tells apart, 1 to 31; only of a [classic](QueueType::Classic) queue, which
    /// ignores priorities without. Brokers that always honour priorities ignore it.
    pub max_priority: Option<Priority>,
    /// Where its dead letters are kept, on RabbitMQ; `None` for the queue's name and `_dlq`. For a queue of others,
    /// whose dead letters have another name already. Brokers that keep them with their queue ignore it.
    pub dead_letter_queue: Option<QueueName>,
    /// After how long a dead letter is **deleted**, on RabbitMQ, 1 ms to 366 days; `None`, the default, to keep it until
    /// a person decides, which is what all other brokers do.
    pub dead_letter_ttl: Option<Duration>,
    /// How many queues of the broker it is, 1 to 64; `None` for one. See [`shard`].
    pub shards: Option<NonZeroU8>,
}

impl QueueOptions {
    /// Of this type.
    #[must_use]
    pub const fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = Some(queue_type);
        self
    }

    /// With priorities from 0 to this.
    #[must_use]
    pub const fn max_priority(mut self, max_priority: Priority) -> Self {
        self.max_priority = Some(max_priority);
        self
    }

    /// With dead letters in this queue.
    #[must_use]
    pub fn dead_letter_queue(mut self, name: QueueName) -> Self {
        self.dead_letter_queue = Some(name);
        self
    }

    /// With dead letters that are deleted after `ttl`.
    #[must_use]
    pub const fn dead_letter_ttl(mut self, ttl: Duration) -> Self {
        self.dead_letter_ttl = Some(ttl);
        self
    }

    /// Of so many queues.
    #[must_use]
    pub const fn shards(mut self, shards: NonZeroU8) -> Self {
        self.shards = Some(shards);
        self
    }

    /// What is asked of shard `n` alone. Its dead letters are its own, as those of every queue.
    #[must_use]
    pub fn of_shard(&self, n: u8) -> Self {
        let dead_letter_queue = self.dead_letter_queue.as_ref();
        Self {
            dead_letter_queue: dead_letter_queue.map(|dead| shard::name(dead, n).unwrap_or_else(|| dead.clone())),
            shards: None,
            ..self.clone()
        }
    }

    /// The queues that `name` is in the broker: itself, and its other shards.
    #[must_use]
    pub fn queues(&self, name: &QueueName) -> Vec<QueueName> {
        let more = 1..self.shards.map_or(1, NonZeroU8::get);
        [name.clone()].into_iter().chain(more.filter_map(|n| shard::name(name, n))).collect()
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with them for the queue `name`, whatever the broker; `None` if nothing is.
    #[must_use]
    pub fn problem(&self, name: &QueueName) -> Option<String> {
        let Self { queue_type, max_priority, dead_letter_queue, dead_letter_ttl, shards } = self;
        if let Some(shards) = shards {
            if shards.get() > SHARDS_MAX {
                return Some(format!("`shards` is {shards}; use 1 to {SHARDS_MAX}"));
            }
            let is_long = |name: &&QueueName| name.as_str().len() > shard::QUEUE_BYTES_MAX;
            if let Some(long) = [Some(name), dead_letter_queue.as_ref()].into_iter().flatten().find(is_long) {
                return Some(format!(
                    "`{long}` is too long a name for a queue with shards, whose number comes behind it; use {} bytes \
                     at most",
                    shard::QUEUE_BYTES_MAX
                ));
            }
        }
        if let Some(dead) = dead_letter_queue
            && is_run_from(dead, name)
        {
            return Some(format!("`dead_letter_queue` is `{dead}`, from which jobs are run; name another"));
        }
        if let Some(ttl) = dead_letter_ttl
            && (ttl.as_millis() == 0 || *ttl > DELAY_MAX)
        {
            return Some(format!(
                "`dead_letter_ttl` is {ttl:?}; use 1 ms to 366 days, or leave it out to keep dead letters"
            ));
        }
        match max_priority {
            Some(Priority::MIN) => Some("`max_priority` is 0, which tells none apart; use 1 to 31".into()),
            // Not by itself: it would cost the replication that a quorum queue has, and that must be written somewhere.
            Some(max) if *queue_type != Some(QueueType::Classic) => Some(format!(
                "`max_priority` is {max}, which only a classic queue has; write `queue_type = \"classic\"` beside it, \
                 or leave it out where the broker has priorities in every queue"
            )),
            _ => None,
        }
    }

    /// Why a job of such a queue cannot have `asked`, whatever the broker; `None` if it can.
    ///
    /// The same on every broker, so that a program that works on a file does on a server.
    pub(crate) fn refusal(&self, asked: Priority) -> Option<String> {
        match (self.queue_type, self.max_priority) {
            (_, Some(max)) if asked > max => Some(format!(
                "its priority is {asked}, and its queue tells 0 to {max} apart (`max_priority`); ask for less, or for \
                 a queue of another name with a higher `max_priority`"
            )),
            (Some(QueueType::Classic), None) if asked != Priority::DEFAULT => Some(format!(
                "its priority is {asked}, and a classic queue ignores priorities without `max_priority`; add it to \
                 all jobs of a queue that is new"
            )),
            _ => None,
        }
    }

    /// The priority of a job that asks for none: the usual one, or the highest that there is.
    pub(crate) fn usual(&self) -> Priority {
        self.max_priority.map_or(Priority::DEFAULT, |max| max.min(Priority::DEFAULT))
    }
}

/// Whether jobs of `queue` are run from the queue `name`: itself, its shards, and where RabbitMQ has suspects and
/// retries of these.
pub(crate) fn is_run_from(name: &QueueName, queue: &QueueName) -> bool {
    let text = name.as_str();
    let is_of = |text: &str| text.parse::<QueueName>().is_ok_and(|name| shard::is_of(&name, queue));
    let derived = |mark: &str| text.match_indices(mark).any(|(at, _)| is_of(&text[..at]));
    name == queue || is_of(text) || derived("_suspects") || derived("_retry_")
}

impl fmt::Display for QueueOptions {
    /// As it is written on a job.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue_type, max_priority, dead_letter_queue, dead_letter_ttl, shards } = self;
        let parts = [
            queue_type.map(|queue_type| format!("queue_type = \"{queue_type}\"")),
            max_priority.map(|max| format!("max_priority = {max}")),
            dead_letter_queue.as_ref().map(|dead| format!("dead_letter_queue = \"{dead}\"")),
            dead_letter_ttl.map(|ttl| format!("dead_letter_ttl = \"{}\"", humantime::format_duration(ttl))),
            shards.map(|shards| format!("shards = {shards}")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.pad(&if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> QueueName {
        "orders".parse().unwrap()
    }

    fn ranked(max: u8) -> QueueOptions {
        QueueOptions::default().queue_type(QueueType::Classic).max_priority(Priority::new(max).unwrap())
    }

    #[test]
    fn what_no_queue_can_be_is_said_with_the_way_out() {
        assert_eq!(QueueOptions::default().problem(&orders()), None);
        assert_eq!(ranked(1).problem(&orders()), None);
        assert!(ranked(0).problem(&orders()).unwrap().contains("use 1 to 31"));
        for queue_type in [None, Some(QueueType::Quorum)] {
            let problem = QueueOptions { queue_type, ..ranked(10) }.problem(&orders()).unwrap();
            assert!(
                problem.contains("`max_priority` is 10") && problem.contains("queue_type = \"classic\""),
                "{problem}"
            );
        }
    }

    #[test]
    fn dead_letters_cannot_be_where_jobs_are_run_nor_be_gone_at_once() {
        let problem = |dead: &str| QueueOptions::default().dead_letter_queue(dead.parse().unwrap()).problem(&orders());
        for dead in ["orders", "orders_suspects", "orders_retry_5000"] {
            assert!(problem(dead).unwrap().contains(&format!("`{dead}`")), "{dead}");
        }
        assert_eq!((problem("orders_dlq"), problem("orders_dead"), problem("dead")), (None, None, None));
        let ttl = |ttl| QueueOptions::default().dead_letter_ttl(ttl).problem(&orders());
        assert!(ttl(Duration::from_micros(999)).unwrap().contains("1 ms to 366 days"));
        assert!(ttl(DELAY_MAX + Duration::from_millis(1)).is_some());
        assert_eq!((ttl(Duration::from_millis(1)), ttl(DELAY_MAX)), (None, None));
    }

    #[test]
    fn a_priority_that_its_queue_does_not_tell_apart_is_refused_with_both_numbers() {
        let level = |level| Priority::new(level).unwrap();
        assert_eq!(ranked(10).refusal(level(10)), None);
        let refusal = ranked(10).refusal(level(11)).unwrap();
        assert!(refusal.contains("is 11,") && refusal.contains("0 to 10"), "{refusal}");
        let classic = QueueOptions::default().queue_type(QueueType::Classic);
        assert!(classic.refusal(level(5)).unwrap().contains("`max_priority`"));
        assert_eq!(classic.refusal(Priority::DEFAULT), None, "which asks for nothing");
        assert_eq!(QueueOptions::default().refusal(Priority::MAX), None);
    }

    #[test]
    fn who_asks_for_no_priority_has_the_usual_one_or_the_highest_there_is() {
        let usual = |options: QueueOptions| options.usual().level();
        assert_eq!((usual(QueueOptions::default()), usual(ranked(10)), usual(ranked(3))), (4, 4, 3));
    }

    #[test]
    fn options_read_as_they_are_written_on_a_job() {
        assert_eq!(ranked(10).to_string(), r#"queue_type = "classic", max_priority = 10"#);
        let dead = QueueOptions::default().dead_letter_queue("dead".parse().unwrap());
        let dead = dead.dead_letter_ttl(crate::time::days(7));
        assert_eq!(dead.to_string(), r#"dead_letter_queue = "dead", dead_letter_ttl = "7days""#);
        assert_eq!(sharded(4).to_string(), "shards = 4");
        assert_eq!(QueueOptions::default().to_string(), "nothing");
    }

    fn sharded(shards: u8) -> QueueOptions {
        QueueOptions::default().shards(NonZeroU8::new(shards).unwrap())
    }

    #[test]
    fn shards_are_1_to_64_with_room_for_their_numbers() {
        assert_eq!((sharded(1).problem(&orders()), sharded(64).problem(&orders())), (None, None));
        assert!(sharded(65).problem(&orders()).unwrap().contains("`shards` is 65; use 1 to 64"));
        let long: QueueName = "q".repeat(128).parse().unwrap();
        assert!(sharded(2).problem(&long).unwrap().contains("119 bytes"));
        assert!(sharded(2).dead_letter_queue(long).problem(&orders()).unwrap().contains("119 bytes"));
    }

    #[test]
    fn each_shard_has_dead_letters_of_its_own() {
        let asked = sharded(3).dead_letter_queue("dead".parse().unwrap());
        let dead = |n| asked.of_shard(n).dead_letter_queue.unwrap().to_string();
        assert_eq!([dead(0), dead(1), dead(2)], ["dead", "dead.shard-1", "dead.shard-2"]);
        assert_eq!(asked.of_shard(1).shards, None);
        assert_eq!(asked.queues(&orders()), ["orders", "orders.shard-1", "orders.shard-2"]);
    }
}
