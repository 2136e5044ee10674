//! What differs between RabbitMQ's versions: one table.
//!
//! | of a quorum queue | before 4.0 | 4.0 to 4.2 | from 4.3 |
//! |---|---|---|---|
//! | a `basic.nack` that requeues | counts as a delivery that failed | the same | does not |
//! | a delivery that may have killed its worker | `redelivered` is set | the same | `x-delivery-count` is above 0 |
//! | who says how long a delivery may be held | the server (`consumer_timeout`) | the same | the consumer, if it does |
//! | priorities | ignored | two: above 4, and the rest | 0 to 31, strict |
//! | what comes back | in its place | the same | before all that wait, whatever their priorities |
//!
//! A classic queue is on every version what it was before 4.0; its priorities are in [`ranks`](super::ranks).
//!
//! Source: the release notes of 4.3.0 ("unlimited returns", "strict priorities"),
//! checked on 3.10.8, 4.0.5 and 4.3.6.

use std::fmt;

use crate::{broker::Capabilities, brokers::rabbitmq::ranks::Ranks, queue::QueueType};

/// A server, as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    product: String,
    version: String,
    numbers: (u32, u32),
}

impl Server {
    pub(super) fn new(product: &str, version: &str) -> Self {
        // What the server says goes into logs and onto terminals.
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let numbers = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        Self { product: clean(product), version: clean(version), numbers }
    }

    /// Whether giving a delivery back to a quorum queue by `basic.nack` leaves no trace on it.
    pub(super) const fn nack_is_free(&self) -> bool {
        self.numbers.0 > 4 || self.numbers.0 == 4 && self.numbers.1 >= 3
    }

    /// Whether a consumer says itself how long it may hold a delivery of a quorum queue; before, the server's
    /// `consumer_timeout` says it.
    pub(super) const fn lets_consumers_hold(&self) -> bool {
        self.nack_is_free()
    }

    /// Which priorities a quorum queue tells apart.
    pub(super) const fn quorum_ranks(&self) -> Ranks {
        match self.numbers {
            (0..=3, _) => Ranks::None,
            (4, 0..=2) => Ranks::Two,
            _ => Ranks::All,
        }
    }

    /// What it can do where queues are declared of this type.
    pub(super) fn capabilities(&self, queue_type: QueueType) -> Capabilities {
        let everywhere = match queue_type {
            QueueType::Quorum => self.quorum_ranks(),
            QueueType::Classic => Ranks::None,
        };
        Capabilities {
            durable: true,
            shared: true,
            keeps_place: self.nack_is_free() && queue_type == QueueType::Quorum,
            priorities: everywhere == Ranks::All,
            two_priorities: everywhere == Ranks::Two,
            queue_priorities: true,
            exchanges: true,
            calls: true,
            bundles: true,
            server: Some(self.to_string()),
            ..Capabilities::none("rabbitmq")
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_decides_what_a_nack_costs_and_whether_priorities_count() {
        for (version, modern) in [
            ("3.10.8", false),
            ("3.13.7", false),
            ("4.0.5", false),
            ("4.2.9", false),
            ("4.3.0", true),
            ("4.10.1", true),
            ("5.0.0-rc.1", true),
        ] {
            let server = Server::new("RabbitMQ", version);
            assert_eq!(server.nack_is_free(), modern, "{version}");
            let capabilities = server.capabilities(QueueType::Quorum);
            assert_eq!((capabilities.priorities, capabilities.keeps_place), (modern, modern), "{version}");
            assert_eq!(capabilities.two_priorities, version.starts_with('4') && !modern, "{version}");
            let classic = server.capabilities(QueueType::Classic);
            assert!(!classic.priorities && !classic.two_priorities && !classic.keeps_place, "{version}");
            assert!(capabilities.queue_priorities && classic.queue_priorities, "{version}");
        }
    }

    #[test]
    fn what_no_version_can_do_is_not_claimed() {
        let capabilities = Server::new("RabbitMQ", "4.3.6").capabilities(QueueType::Quorum);
        let Capabilities { retry_is_atomic, exact_blame, counts_all, ranks_returned, .. } = capabilities;
        assert!(!retry_is_atomic && !exact_blame && !counts_all && !ranks_returned);
        assert_eq!(capabilities.server.as_deref(), Some("RabbitMQ 4.3.6"));
    }

    #[test]
    fn a_strange_version_is_an_old_one_and_prints_safely() {
        let server = Server::new("Rabbit\u{1b}[31m", "unknown\n");
        assert!(!server.nack_is_free());
        assert_eq!(server.to_string(), "Rabbit[31m unknown");
    }
}
