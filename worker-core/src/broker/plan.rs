//! What a program needs of its broker, in full, and how what is there differs from it. Pure.
//!
//! A [`Topology`] names what an application has in mind: its queues, exchanges
//! and bindings. A broker may need more than that, queues in which retries
//! wait, say. A [`Plan`] has all of it, so that somebody else can make it, and
//! so that what is missing can be told before the first job is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::{
    broker::Topology,
    exchange::{Binding, Exchange},
    name::QueueName,
    queue::QueueOptions,
    retry::RetryPolicy,
};

/// What a program needs: what must exist, and how its jobs are retried.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Needs {
    /// Queues, exchanges and bindings.
    pub topology: Topology,
    /// How jobs of a queue are retried, each policy once: a broker whose retries wait in queues plans those.
    pub retries: Vec<(QueueName, RetryPolicy)>,
}

impl Needs {
    /// This topology, with nothing known about retries.
    #[must_use]
    pub const fn new(topology: Topology) -> Self {
        Self { topology, retries: Vec::new() }
    }

    /// And jobs of `queue` that are retried by `policy`.
    #[must_use]
    pub fn retried(mut self, queue: QueueName, policy: RetryPolicy) -> Self {
        if !self.retries.iter().any(|known| *known == (queue.clone(), policy)) {
            self.retries.push((queue, policy));
        }
        self
    }

    /// The policies of `queue`.
    pub fn policies<'a>(&'a self, queue: &'a QueueName) -> impl Iterator<Item = &'a RetryPolicy> {
        self.retries.iter().filter(move |(of, _)| of == queue).map(|(_, policy)| policy)
    }
}

/// Everything that must exist in a broker, down to what it makes by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// Queues: those of jobs, and those that belong to them.
    pub queues: Vec<PlannedQueue>,
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

/// One queue of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlannedQueue {
    /// Its name in the broker.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whose jobs it holds; `None` for those of all queues.
    pub of: Option<QueueName>,
    /// When a program that may declare makes it.
    pub made: Made,
    /// What it is declared with, where the broker's queues have arguments.
    pub arguments: BTreeMap<String, Value>,
    /// What its jobs ask of it by name, so that it must hold of one that is there.
    #[serde(skip)]
    pub asked: QueueOptions,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Jobs that are due.
    Jobs,
    /// Dead letters, kept for people.
    DeadLetters,
    /// Jobs that may have killed a worker.
    Suspects,
    /// Retries, until they are due.
    Retries,
    /// Jobs whose wait is over, until a worker carries them on.
    Due,
    /// Jobs that wait, of any queue.
    Delays,
}

impl Role {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::DeadLetters => "dead_letters",
            Self::Suspects => "suspects",
            Self::Retries => "retries",
            Self::Due => "due",
            Self::Delays => "delays",
        }
    }

    /// Whether everything in it waits for a fixed time and goes on to another queue by itself.
    #[must_use]
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Retries | Self::Delays)
    }
}

/// When a program makes a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Made {
    /// When a worker starts.
    AtStart,
    /// When the first job needs it.
    WhenNeeded,
}

impl Made {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AtStart => "at_start",
            Self::WhenNeeded => "when_needed",
        }
    }
}

impl PlannedQueue {
    /// A queue without arguments. For implementors of brokers.
    pub fn new(name: impl Into<String>, role: Role, of: Option<QueueName>, made: Made) -> Self {
        Self { name: name.into(), role, of, made, arguments: BTreeMap::new(), asked: QueueOptions::default() }
    }

    /// What kind of queue it is, where the broker has kinds.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.arguments.get("x-queue-type")?.as_str()
    }

    /// Where the broker itself puts what leaves it, if anywhere.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.arguments.get("x-dead-letter-routing-key")?.as_str()
    }
}

impl Plan {
    /// What a broker needs that has nothing but queues, exchanges and bindings.
    #[must_use]
    pub fn plain(needs: &Needs) -> Self {
        let Topology { queues, exchanges, bindings, .. } = &needs.topology;
        let queue = |queue: QueueName| PlannedQueue::new(queue.to_string(), Role::Jobs, Some(queue), Made::AtStart);
        Self {
            queues: once(queues).into_iter().map(queue).collect(),
            exchanges: once(exchanges),
            bindings: once(bindings),
        }
    }

    /// The queues of jobs, the exchanges and the bindings.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let jobs = self.queues.iter().filter(|queue| queue.role == Role::Jobs);
        let queues = jobs.filter_map(|queue| queue.of.clone()).collect();
        Topology { queues, exchanges: self.exchanges.clone(), bindings: self.bindings.clone(), ..Topology::default() }
    }

    /// How `there`, which is all that a broker has, differs from it. For implementors of brokers that can say
    /// all that they have, and whose queues have no arguments.
    #[must_use]
    pub fn against(&self, there: &Topology) -> Vec<Finding> {
        let there_are: BTreeSet<_> = there.queues.iter().map(QueueName::as_str).collect();
        let found = |yes: bool| if yes { Standing::Same } else { Standing::Missing };
        let queues = self.queues.iter().map(|queue| Finding::queue(queue, found(there_are.contains(&*queue.name))));
        let exchanges = self.exchanges.iter().map(|wanted| {
            match there.exchanges.iter().find(|exchange| exchange.name == wanted.name) {
                Some(exchange) if exchange.kind == wanted.kind => Finding::exchange(wanted, Standing::Same),
                Some(exchange) => Finding::exchange(wanted, Standing::Different)
                    .because(format!("it is {}, and {} is needed", exchange.kind, wanted.kind)),
                None => Finding::exchange(wanted, Standing::Missing),
            }
        });
        let bindings =
            self.bindings.iter().map(|binding| Finding::binding(binding, found(there.bindings.contains(binding))));
        queues.chain(exchanges).chain(bindings).collect()
    }
}

/// Each of `items` once, in their order.
pub(crate) fn once<T: Clone + PartialEq>(items: &[T]) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(item) {
            found.push(item.clone());
        }
    }
    found
}

/// How one thing that a plan has is in the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// Its name; of a binding, exchange, queue and what it takes.
    pub name: String,
    /// How it is.
    pub standing: Standing,
    /// What there is to say about it.
    pub detail: Option<String>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
    /// A binding.
    Binding,
}

impl What {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
            Self::Binding => "binding",
        }
    }
}

/// How something is in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// As it would be declared.
    Same,
    /// It was declared by others in another way, and is used as it is.
    Adopted,
    /// The broker does not show it, or not to this user.
    Unseen,
    /// It is not there.
    Missing,
    /// It is there, and cannot do what it is for.
    Different,
}

impl Standing {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Adopted => "adopted",
            Self::Unseen => "unseen",
            Self::Missing => "missing",
            Self::Different => "different",
        }
    }

    /// Whether a program can work with it, as far as is known.
    #[must_use]
    pub const fn is_fine(self) -> bool {
        !matches!(self, Self::Missing | Self::Different)
    }
}

impl Finding {
    /// About a queue. For implementors of brokers, as the next.
    #[must_use]
    pub fn queue(queue: &PlannedQueue, standing: Standing) -> Self {
        Self { what: What::Queue, name: queue.name.clone(), standing, detail: None }
    }

    /// About an exchange.
    #[must_use]
    pub fn exchange(exchange: &Exchange, standing: Standing) -> Self {
        Self { what: What::Exchange, name: exchange.name.to_string(), standing, detail: None }
    }

    /// About a binding.
    #[must_use]
    pub fn binding(binding: &Binding, standing: Standing) -> Self {
        let Binding { exchange, queue, on } = binding;
        let on = on.to_string();
        let taking = if on.is_empty() { String::new() } else { format!(" ({on})") };
        Self { what: What::Binding, name: format!("{exchange} to {queue}{taking}"), standing, detail: None }
    }

    /// With what there is to say.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::ExchangeKind;

    fn needs() -> Needs {
        let (events, audit) = ("events".parse().unwrap(), "audit".parse().unwrap());
        let topology = Topology::queues(["orders".parse().unwrap(), "audit".parse().unwrap()]);
        let topology = topology.exchange("events".parse().unwrap(), ExchangeKind::Topic);
        Needs::new(topology.bind(Binding::by_key(events, audit, "order.#")))
    }

    fn standings(there: &Topology) -> Vec<(String, Standing)> {
        let found = Plan::plain(&needs()).against(there);
        found.into_iter().map(|finding| (finding.name, finding.standing)).collect()
    }

    #[test]
    fn what_is_there_is_the_same_and_what_is_not_is_missing() {
        let all = needs().topology;
        assert!(standings(&all).iter().all(|(_, standing)| *standing == Standing::Same));
        let none = standings(&Topology::default());
        let names: Vec<_> = none.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["orders", "audit", "events", "events to audit (order.#)"]);
        assert!(none.iter().all(|(_, standing)| *standing == Standing::Missing && !standing.is_fine()));
    }

    #[test]
    fn an_exchange_of_another_kind_is_different_and_says_how() {
        let mut there = needs().topology;
        there.exchanges[0].kind = ExchangeKind::Fanout;
        let found = Plan::plain(&needs()).against(&there);
        let exchange = found.iter().find(|finding| finding.what == What::Exchange).unwrap();
        assert_eq!(exchange.standing, Standing::Different);
        assert_eq!(exchange.detail.as_deref(), Some("it is fanout, and topic is needed"));
    }

    #[test]
    fn what_is_asked_for_twice_is_planned_once() {
        let needs = needs();
        let mut twice = needs.clone();
        twice.topology.queues.extend(needs.topology.queues.clone());
        twice.topology.exchanges.extend(needs.topology.exchanges.clone());
        twice.topology.bindings.extend(needs.topology.bindings.clone());
        assert_eq!(Plan::plain(&twice), Plan::plain(&needs));
        assert_eq!(Plan::plain(&needs).topology(), needs.topology);
    }
}
