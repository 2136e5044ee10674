//! Everything that a program needs on a server, before anything is asked of one. Pure.
//!
//! The arguments are those of [`topology`](super::topology). A queue's rungs
//! are those that the retry policies of its jobs come to, and the shortest,
//! through which a full queue gets back what it gave; any other pause goes
//! down the ladder, which is planned whole.

use std::collections::{BTreeMap, BTreeSet};

use lapin::types::{FieldTable, ShortString};
use serde_json::Value;

use crate::{
    broker::{Made, Needs, Plan, PlannedQueue, Role},
    brokers::rabbitmq::{
        headers,
        options::RabbitOptions,
        topology::{self, Ladder, Rung},
    },
    name::QueueName,
    queue::QueueType,
};

impl RabbitOptions {
    /// Everything that must exist on the server for `needs`: without a server.
    #[must_use]
    pub fn plan(&self, needs: &Needs) -> Plan {
        plan(self.queue_type, &Ladder::new(self.namespace.clone()), needs)
    }
}

pub(super) fn plan(kind: QueueType, ladder: &Ladder, needs: &Needs) -> Plan {
    let Plan { queues, exchanges, bindings, .. } = Plan::plain(needs);
    let queues = queues.iter().filter_map(|queue| queue.of.as_ref());
    let mut planned: Vec<_> = queues.flat_map(|queue| of_queue(kind, queue, needs)).collect();
    planned.extend(shared(kind, ladder));
    let mut plan = Plan::default();
    (plan.queues, plan.exchanges, plan.bindings) = (planned, exchanges, bindings);
    plan
}

/// A queue of jobs, and what belongs to it alone.
fn of_queue(kind: QueueType, queue: &QueueName, needs: &Needs) -> Vec<PlannedQueue> {
    let asked = needs.topology.options.get(queue).cloned().unwrap_or_default();
    let of = |name, role, made, arguments| {
        let mut planned = planned(name, role, Some(queue.clone()), made, &arguments);
        planned.asked.clone_from(&asked);
        planned
    };
    let work = topology::work_arguments(queue, kind, &asked);
    let keeping = topology::dead_letter_arguments(kind, &asked);
    let mut queues = vec![
        of(queue.to_string(), Role::Jobs, Made::AtStart, topology::queue_arguments(queue, kind, &asked)),
        of(topology::dead_letters_as(queue, &asked), Role::DeadLetters, Made::AtStart, keeping),
        of(topology::suspects(queue), Role::Suspects, Made::AtStart, work),
    ];
    let policies: BTreeSet<Rung> = needs.policies(queue).flat_map(topology::rungs_of).collect();
    let rungs = policies.into_iter().chain([topology::shortest_rung()]).collect::<BTreeSet<_>>();
    queues.extend(rungs.into_iter().map(|rung| {
        let arguments = topology::retry_arguments(queue, rung, kind);
        of(topology::retry(queue, rung), Role::Retries, Made::WhenNeeded, arguments)
    }));
    queues
}

/// What the jobs of all queues wait in.
fn shared(kind: QueueType, ladder: &Ladder) -> Vec<PlannedQueue> {
    let (due, keeping) = (ladder.due(), topology::keeping_arguments(kind));
    let astray = format!("{due}{}", crate::name::DEAD_LETTER_SUFFIX);
    let mut queues = vec![
        planned(due, Role::Due, None, Made::AtStart, &keeping),
        planned(astray, Role::DeadLetters, None, Made::WhenNeeded, &keeping),
    ];
    queues.extend(Ladder::levels().map(|level| {
        let made = if level.is_made_at_start() { Made::AtStart } else { Made::WhenNeeded };
        planned(ladder.name(level), Role::Delays, None, made, &ladder.arguments(level, kind))
    }));
    queues
}

fn planned(name: String, role: Role, of: Option<QueueName>, made: Made, arguments: &FieldTable) -> PlannedQueue {
    let mut queue = PlannedQueue::new(name, role, of, made);
    queue.arguments =
        arguments.inner().iter().map(|(name, value)| (name.to_string(), headers::from_amqp(value))).collect();
    queue
}

/// Arguments as AMQP has them. A name that AMQP cannot have is in no plan of ours.
pub(super) fn table(arguments: &BTreeMap<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, headers::to_amqp(value));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{broker::Topology, queue::QueueOptions, retry::RetryPolicy};

    fn names(plan: &Plan, role: Role) -> Vec<&str> {
        plan.queues.iter().filter(|queue| queue.role == role).map(|queue| queue.name.as_str()).collect()
    }

    #[test]
    fn a_plan_has_all_that_the_retries_and_delays_of_its_queues_come_to() {
        let orders: QueueName = "orders".parse().unwrap();
        let slow = RetryPolicy::new(1, Duration::from_secs(90), Duration::from_secs(90));
        let needs = Needs::new(Topology::queues([orders.clone(), "emails".parse().unwrap()]));
        let needs = needs.retried(orders.clone(), RetryPolicy::DEFAULT).retried(orders, slow);
        let plan = RabbitOptions::default().plan(&needs);
        assert_eq!(names(&plan, Role::Jobs), ["orders", "emails"]);
        assert_eq!(names(&plan, Role::DeadLetters), ["orders_dlq", "emails_dlq", "worker.due_dlq"]);
        assert_eq!(names(&plan, Role::Suspects), ["orders_suspects", "emails_suspects"]);
        let rungs = [5_000, 5_625, 6_250, 10_000, 11_250, 12_500, 20_000, 22_500, 25_000, 90_000, 100_000];
        let mut expected: Vec<_> = rungs.iter().map(|ms| format!("orders_retry_{ms}")).collect();
        expected.push("emails_retry_5000".into()); // What a full queue gave.
        assert_eq!(names(&plan, Role::Retries), expected);
        assert_eq!(names(&plan, Role::Due), ["worker.due"]);
        assert_eq!(names(&plan, Role::Delays).len(), 31);
        let at_start = plan.queues.iter().filter(|queue| queue.role == Role::Delays && queue.made == Made::AtStart);
        let at_start: Vec<_> = at_start.map(|queue| queue.name.rsplit('.').next().unwrap()).collect();
        assert_eq!(at_start, ["32", "64", "128", "256", "512", "1024", "2048", "4096"]);
    }

    #[test]
    fn arguments_are_the_same_in_json_and_in_amqp() {
        let needs = Needs::new(Topology::queues(["orders".parse().unwrap()]));
        for kind in [QueueType::Quorum, QueueType::Classic] {
            let ladder = Ladder::new("worker".into());
            let plan = plan(kind, &ladder, &needs);
            let orders = &plan.queues[0];
            let expected = topology::work_arguments(&"orders".parse().unwrap(), kind, &QueueOptions::default());
            assert_eq!(table(&orders.arguments), expected);
            assert_eq!(orders.kind(), Some(if kind == QueueType::Quorum { "quorum" } else { "classic" }));
            assert_eq!(orders.target(), Some("orders_dlq"));
        }
    }
}
