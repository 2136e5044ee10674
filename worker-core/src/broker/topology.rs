//! What must exist in a broker, what to consume of it, and what it can do.

use std::{collections::BTreeMap, num::NonZeroU16};

use serde::Serialize;

use crate::{
    exchange::{Binding, Exchange, ExchangeKind},
    name::{ExchangeName, QueueName},
    queue::QueueOptions,
    shard,
};

/// What must exist in the broker.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Topology {
    /// Queues, each with its dead-letter queue.
    pub queues: Vec<QueueName>,
    /// What is asked of some of them, beside that they exist.
    pub options: BTreeMap<QueueName, QueueOptions>,
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Which queue gets a copy of what is published to which exchange; both are
    /// in this topology or were declared before.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// These queues.
    pub fn queues(queues: impl IntoIterator<Item = QueueName>) -> Self {
        Self { queues: queues.into_iter().collect(), ..Self::default() }
    }

    /// And this queue, of which `options` are asked; all of its shards, where it has some.
    #[must_use]
    pub fn queue(mut self, name: QueueName, options: QueueOptions) -> Self {
        // What cannot be stays as it was asked for, so that `problem` finds it.
        if options.shards.is_some() && options.problem(&name).is_none() {
            let shards = options.queues(&name).into_iter();
            return shards.fold(self, |all, shard| {
                let options = options.of_shard(shard::number(&shard));
                all.queue(shard, options)
            });
        }
        if !options.is_empty() {
            self.options.insert(name.clone(), options);
        }
        self.queues.push(name);
        self
    }

    /// And this exchange.
    #[must_use]
    pub fn exchange(mut self, name: ExchangeName, kind: ExchangeKind) -> Self {
        self.exchanges.push(Exchange::new(name, kind));
        self
    }

    /// And this binding.
    #[must_use]
    pub fn bind(mut self, binding: Binding) -> Self {
        self.bindings.push(binding);
        self
    }

    /// What is wrong with it, whatever the broker; `None` if nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let twice = self.exchanges.iter().find_map(|exchange| {
            let other =
                self.exchanges.iter().find(|other| other.name == exchange.name && other.kind != exchange.kind)?;
            Some(format!(
                "exchange `{}` is asked for as {} and as {}; write one `kind` on all of them",
                exchange.name, exchange.kind, other.kind
            ))
        });
        let queue = || {
            let mut queues = self.options.iter();
            queues.find_map(|(name, options)| options.problem(name).map(|problem| format!("queue `{name}`: {problem}")))
        };
        twice.or_else(queue).or_else(|| self.bindings.iter().find_map(Binding::problem))
    }
}

/// What [`Broker::declare`](super::Broker::declare) created, as opposed to found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// The queues that did not exist before.
    pub created: Vec<QueueName>,
}

impl Declared {
    /// These queues were created. For implementors of brokers.
    #[must_use]
    pub const fn created(created: Vec<QueueName>) -> Self {
        Self { created }
    }
}

/// What to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// The queue.
    pub queue: QueueName,
    /// The most unsettled deliveries to own; of jobs that share a message, the most messages.
    pub prefetch: NonZeroU16,
}

impl Subscription {
    /// `queue`, with at most `prefetch` unsettled deliveries.
    #[must_use]
    pub const fn new(queue: QueueName, prefetch: NonZeroU16) -> Self {
        Self { queue, prefetch }
    }
}

/// What a broker can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The broker's name, as in its URL.
    pub broker: &'static str,
    /// Jobs outlive the process.
    pub durable: bool,
    /// Several processes can share it.
    pub shared: bool,
    /// A retry happens in one step, so that a crash in it cannot duplicate the job.
    pub retry_is_atomic: bool,
    /// A start is recorded, so that of a dead process's jobs only those that had begun
    /// are blamed. Without it, all that it owned are suspects.
    pub exact_blame: bool,
    /// A job that is given back unstarted keeps its place in its queue. Without it,
    /// it goes to the end.
    pub keeps_place: bool,
    /// [`QueueStats`](super::QueueStats) has every number, and every queue is listed.
    pub counts_all: bool,
    /// Higher priorities are delivered first, in every queue that jobs ask nothing of: 0 to 31, and strictly.
    pub priorities: bool,
    /// Where [`priorities`](Self::priorities) is not set: there are two, in every queue that jobs ask nothing of. What
    /// is above the usual 4 is delivered first, and one of the rest after each two of it.
    pub two_priorities: bool,
    /// A queue can be declared with a [`max_priority`](crate::queue::QueueOptions::max_priority), up to which higher
    /// priorities are delivered first, and strictly.
    pub queue_priorities: bool,
    /// A job that comes back, given back or after its worker's death, waits by its priority
    /// again. Without it, it comes before all that wait.
    pub ranks_returned: bool,
    /// There are [exchanges](crate::exchange), and [`Route::Exchange`](crate::envelope::Route::Exchange) works.
    pub exchanges: bool,
    /// [`Broker::call`](super::Broker::call) works.
    pub calls: bool,
    /// Jobs that [may](crate::Enqueue::bundle) share a message do, and are acknowledged together. Without it each is
    /// stored and settled by itself.
    pub bundles: bool,
    /// The server's product and version, where there is a server.
    pub server: Option<String>,
}

impl Capabilities {
    /// A broker of this name that can do nothing special. For implementors of brokers.
    #[must_use]
    pub const fn none(broker: &'static str) -> Self {
        Self {
            broker,
            durable: false,
            shared: false,
            retry_is_atomic: false,
            exact_blame: false,
            keeps_place: false,
            counts_all: false,
            priorities: false,
            two_priorities: false,
            queue_priorities: false,
            ranks_returned: false,
            exchanges: false,
            calls: false,
            bundles: false,
            server: None,
        }
    }
}

/// How the way to what stores the jobs is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// Jobs can come and go.
    Up,
    /// Jobs are delivered and acknowledged, but the server takes no new ones: no
    /// enqueue, no retry, no dead letter.
    Blocked {
        /// What the server says.
        reason: String,
    },
    /// There is no connection; it is being made again.
    Down {
        /// Why the last one ended or could not be made. No credentials.
        error: String,
    },
}

impl Reach {
    /// `up`, `blocked` or `down`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Blocked { .. } => "blocked",
            Self::Down { .. } => "down",
        }
    }
}
