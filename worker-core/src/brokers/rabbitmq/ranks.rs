//! What a queue is, and which priorities it tells apart. Pure.
//!
//! | queue | before 4.0 | 4.0 to 4.2 | from 4.3 |
//! |---|---|---|---|
//! | quorum | none | two: above 4, and the rest; two of the first for one of the rest | 0 to 31, strict |
//! | classic with `x-max-priority` | 0 to that, strict | the same | the same |
//! | classic without, and any other type | none | none | none |
//!
//! Source: the release notes of 4.0.1 and 4.3.0; measured on 3.10.8, 4.0.5 and 4.3.6.

use lapin::types::{AMQPValue, FieldTable};

use crate::{
    brokers::rabbitmq::{
        headers::integer,
        topology::{MAX_PRIORITY, MESSAGE_TTL, QUEUE_TYPE},
        version::Server,
    },
    envelope::Priority,
    error::BrokerError,
    queue::{QueueOptions, QueueType},
};

/// What a queue is, as far as it matters to the jobs in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nature {
    /// `None` for a type that no job asks for, a stream say.
    pub(super) queue_type: Option<QueueType>,
    pub(super) max_priority: Option<i64>,
    /// After how many milliseconds a message in it is dead, or gone.
    pub(super) message_ttl: Option<i64>,
}

/// Which priorities a queue tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranks {
    /// It ignores them.
    None,
    /// Above the usual one, and the rest.
    Two,
    /// From 0 to this.
    UpTo(i64),
    /// All that a job can have.
    All,
}

impl Nature {
    /// Of a queue with these arguments.
    pub(super) fn read(arguments: &FieldTable) -> Self {
        let queue_type = match arguments.inner().get(QUEUE_TYPE) {
            Some(AMQPValue::LongString(text)) => QueueType::parse(&text.to_string()),
            // What is declared with none and does not get one from its virtual host.
            _ => Some(QueueType::Classic),
        };
        let number = |name: &str| arguments.inner().get(name).and_then(integer);
        Self { queue_type, max_priority: number(MAX_PRIORITY), message_ttl: number(MESSAGE_TTL) }
    }

    pub(super) const fn ranks(self, server: &Server) -> Ranks {
        match (self.queue_type, self.max_priority) {
            (Some(QueueType::Quorum), _) => server.quorum_ranks(),
            (Some(QueueType::Classic), Some(max)) => Ranks::UpTo(max),
            _ => Ranks::None,
        }
    }

    /// What is `asked` of a queue and it cannot be: the argument, what the queue has, and what is asked.
    pub(super) fn lacks(self, asked: &QueueOptions) -> Option<(&'static str, String, String)> {
        let Self { queue_type, max_priority, .. } = self;
        if let Some(wanted) = asked.queue_type
            && queue_type != Some(wanted)
        {
            let found = queue_type.map_or("another", QueueType::as_str);
            return Some((QUEUE_TYPE, found.to_owned(), wanted.to_string()));
        }
        let wanted = asked.max_priority?;
        // More than was asked for serves as well.
        let enough = max_priority.is_some_and(|found| found >= wanted.level().into());
        let found = || max_priority.map_or_else(|| "none".to_owned(), |found| found.to_string());
        (!enough).then(|| (MAX_PRIORITY, found(), wanted.to_string()))
    }

    /// Why a job cannot have the priority `asked` in `queue`, which is this; `None` if it can.
    pub(super) fn refusal(self, server: &Server, queue: &str, asked: Priority) -> Option<BrokerError> {
        let unsupported = |what: String, ways_out: &str| Some(BrokerError::unsupported("RabbitMQ", &what, ways_out));
        match self.ranks(server) {
            Ranks::All | Ranks::Two => None,
            Ranks::UpTo(max) if max >= asked.level().into() => None,
            Ranks::UpTo(max) => unsupported(
                format!("priority {asked} in queue `{queue}`, which tells 0 to {max} apart (its `{MAX_PRIORITY}`)"),
                "ask for less, or for another queue with a higher `max_priority`",
            ),
            Ranks::None => {
                let what = match self.queue_type {
                    Some(QueueType::Quorum) => format!("{server} ignores them in quorum queues"),
                    Some(QueueType::Classic) => format!("it is a classic queue without `{MAX_PRIORITY}`"),
                    None => "its type has none".to_owned(),
                };
                unsupported(format!("priority {asked} in queue `{queue}`, which has no priorities: {what}"), WAYS_OUT)
            }
        }
    }
}

/// What somebody can do who asked for a priority that a queue ignores.
pub(super) const WAYS_OUT: &str = "leave the priority out, give the job a queue of another name with \
    `queue_type = \"classic\", max_priority = 10`, or use a quorum queue on RabbitMQ 4.3 or later";

#[cfg(test)]
mod tests {
    use super::*;

    const QUORUM: Nature = Nature { queue_type: Some(QueueType::Quorum), max_priority: None, message_ttl: None };
    const PLAIN: Nature = Nature { queue_type: Some(QueueType::Classic), max_priority: None, message_ttl: None };
    const RANKED: Nature = Nature { queue_type: Some(QueueType::Classic), max_priority: Some(10), message_ttl: None };

    fn level(level: u8) -> Priority {
        Priority::new(level).unwrap()
    }

    #[test]
    fn version_and_type_decide_which_priorities_there_are() {
        for (version, quorum) in [
            ("3.10.8", Ranks::None),
            ("3.13.7", Ranks::None),
            ("4.0.5", Ranks::Two),
            ("4.2.9", Ranks::Two),
            ("4.3.0", Ranks::All),
            ("5.0.0", Ranks::All),
        ] {
            let server = Server::new("RabbitMQ", version);
            assert_eq!(QUORUM.ranks(&server), quorum, "{version}");
            assert_eq!((PLAIN.ranks(&server), RANKED.ranks(&server)), (Ranks::None, Ranks::UpTo(10)), "{version}");
            let stream = Nature { queue_type: None, max_priority: None, message_ttl: None };
            assert_eq!(stream.ranks(&server), Ranks::None, "{version}");
        }
    }

    #[test]
    fn a_queue_is_read_from_what_it_was_declared_with() {
        let mut table = FieldTable::default();
        assert_eq!(Nature::read(&table), PLAIN);
        table.insert(MAX_PRIORITY.into(), AMQPValue::ShortShortUInt(10));
        assert_eq!(Nature::read(&table), RANKED);
        let mut table = FieldTable::default();
        for (name, queue_type) in [("quorum", Some(QueueType::Quorum)), ("stream", None)] {
            table.insert(QUEUE_TYPE.into(), AMQPValue::LongString(name.into()));
            assert_eq!(Nature::read(&table).queue_type, queue_type, "{name}");
        }
    }

    #[test]
    fn what_a_queue_lacks_is_named_with_both_values_and_more_than_asked_is_enough() {
        let asked = QueueOptions::default().queue_type(QueueType::Classic).max_priority(level(5));
        assert_eq!(RANKED.lacks(&asked), None);
        assert_eq!(
            RANKED.lacks(&asked.clone().max_priority(level(11))),
            Some((MAX_PRIORITY, "10".into(), "11".into()))
        );
        assert_eq!(PLAIN.lacks(&asked), Some((MAX_PRIORITY, "none".into(), "5".into())));
        assert_eq!(QUORUM.lacks(&asked), Some((QUEUE_TYPE, "quorum".into(), "classic".into())));
        assert_eq!(QUORUM.lacks(&QueueOptions::default()), None, "nothing was asked");
    }

    #[test]
    fn a_priority_that_a_queue_ignores_is_refused_by_name_with_the_ways_out() {
        let (old, new) = (Server::new("RabbitMQ", "3.10.8"), Server::new("RabbitMQ", "4.3.6"));
        assert!(QUORUM.refusal(&new, "q", Priority::MAX).is_none());
        assert!(RANKED.refusal(&old, "q", level(10)).is_none());
        let text = |nature: Nature, server, asked| nature.refusal(server, "q", asked).unwrap().to_string();
        let ignored = text(QUORUM, &old, Priority::MAX);
        for part in ["priority 31", "`q`", "RabbitMQ 3.10.8 ignores them", "max_priority = 10", "4.3"] {
            assert!(ignored.contains(part), "{ignored}");
        }
        let above = text(RANKED, &new, level(11));
        assert!(above.contains("priority 11") && above.contains("0 to 10"), "{above}");
        assert!(text(PLAIN, &new, level(0)).contains("without `x-max-priority`"));
    }
}
