//! What this process knows of the server's queues: which it has seen, what they are, what was asked of them.
//!
//! It grows with the names that the program uses, which are few; nothing in it is needed to be right, since the server
//! says otherwise where it is not.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::MutexGuard,
    time::Duration,
};

use super::{Bound, Declarer, lock};
use crate::{
    broker::Topology,
    brokers::rabbitmq::{
        ranks::Nature,
        topology::{Rung, Rungs},
    },
    name::QueueName,
    queue::{QueueOptions, QueueType},
    time::monotonic_now,
};

/// How long an exchange that refused a message is not tried again: each try ends the channel with all that is on it.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long a queue that was looked for in vain is taken for absent.
const ABSENT_FOR: Duration = Duration::from_secs(60);

impl Declarer {
    /// Keeps what is asked of `queue`, without looking at it.
    pub(in crate::brokers::rabbitmq) fn ask(&self, queue: &QueueName, asked: &QueueOptions) {
        lock(&self.asked).insert(queue.clone(), asked.clone());
    }

    pub(in crate::brokers::rabbitmq) fn asked(&self, queue: &QueueName) -> QueueOptions {
        lock(&self.asked).get(queue).cloned().unwrap_or_default()
    }

    pub(super) fn know(&self, name: &str, nature: Option<Nature>) {
        lock(&self.natures).insert(name.to_owned(), nature);
    }

    /// Whether a queue is known to be a classic queue.
    pub(in crate::brokers::rabbitmq) fn is_classic(&self, name: &str) -> bool {
        let known = lock(&self.natures).get(name).copied().flatten();
        known.is_some_and(|nature| nature.queue_type == Some(QueueType::Classic))
    }

    /// Whether a queue is known to be a quorum queue.
    pub(in crate::brokers::rabbitmq) fn is_quorum(&self, name: &str) -> bool {
        let known = lock(&self.natures).get(name).copied().flatten();
        known.is_some_and(|nature| nature.queue_type == Some(QueueType::Quorum))
    }

    /// Keeps the exchanges and bindings that queues were declared with, and bound to.
    pub(in crate::brokers::rabbitmq) fn keep_bindings(&self, topology: &Topology) {
        for binding in &topology.bindings {
            let mut bound = lock(&self.bound);
            let Bound { exchanges, bindings, holds } = bound.entry(binding.queue.clone()).or_default();
            let of_it = topology.exchanges.iter().find(|exchange| exchange.name == binding.exchange);
            if let Some(exchange) = of_it.filter(|exchange| !exchanges.contains(exchange)) {
                exchanges.push(exchange.clone());
            }
            if !bindings.contains(binding) {
                bindings.push(binding.clone());
            }
            *holds = true;
        }
    }

    /// Whether a queue gets copies from what it was bound to, as far as is known.
    pub(in crate::brokers::rabbitmq) fn is_bound(&self, queue: &QueueName) -> bool {
        lock(&self.bound).get(queue).is_none_or(|bound| bound.holds)
    }

    /// A queue is gone, or may have been: its bindings went with it.
    pub(in crate::brokers::rabbitmq) fn unbound(&self, name: &str) {
        if let Some((_, bound)) = lock(&self.bound).iter_mut().find(|(queue, _)| queue.as_str() == name) {
            bound.holds = false;
        }
    }

    /// The rungs that retries of `queue` can wait on.
    pub(in crate::brokers::rabbitmq) fn rungs(&self, queue: &QueueName) -> Rungs {
        if self.declares {
            return Rungs::All;
        }
        Rungs::Only(self.known_rungs().get(queue).cloned().unwrap_or_default())
    }

    pub(super) fn known_rungs(&self) -> MutexGuard<'_, HashMap<QueueName, BTreeSet<Rung>>> {
        lock(&self.rungs)
    }

    /// Whether a queue was looked for in vain a short while ago.
    ///
    /// To look again costs a channel, which the server closes, and its number, of which a connection has 2,047.
    pub(in crate::brokers::rabbitmq) fn is_absent(&self, name: &str) -> bool {
        !self.is_seen(name) && lock(&self.absent).get(name).is_some_and(|at| at.elapsed() < ABSENT_FOR)
    }

    pub(in crate::brokers::rabbitmq) fn note_absent(&self, name: &str) {
        lock(&self.absent).insert(name.to_owned(), monotonic_now());
    }

    /// A message for `name` came back: it is gone, whatever was seen.
    pub(in crate::brokers::rabbitmq) fn forget(&self, name: &str) {
        self.seen().remove(name);
        lock(&self.natures).remove(name);
        self.unbound(name);
    }

    pub(in crate::brokers::rabbitmq) fn is_seen(&self, name: &str) -> bool {
        self.seen().contains(name)
    }

    pub(in crate::brokers::rabbitmq) fn saw(&self, name: &str) {
        self.seen().insert(name.to_owned());
    }

    /// The queues of jobs that this process has met.
    pub(in crate::brokers::rabbitmq) fn met(&self) -> Vec<QueueName> {
        let seen = self.seen().clone();
        // What has dead letters is a queue of jobs.
        let queues = seen.iter().filter_map(|name| name.parse::<QueueName>().ok());
        queues.filter(|queue| seen.contains(&self.dead_letters(queue))).collect()
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, HashSet<String>> {
        lock(&self.seen)
    }

    /// An exchange refused what was published to it.
    pub(in crate::brokers::rabbitmq) fn note_refusal(&self, name: &str, why: &str) {
        lock(&self.refusals).insert(name.to_owned(), (why.to_owned(), monotonic_now()));
    }

    /// Why an exchange refused what was published to it a short while ago.
    pub(in crate::brokers::rabbitmq) fn refusal(&self, name: &str) -> Option<String> {
        let refusals = lock(&self.refusals);
        refusals.get(name).filter(|(_, at)| at.elapsed() < REFUSED_FOR).map(|(why, _)| why.clone())
    }
}
