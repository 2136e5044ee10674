//! What people see of the memory broker: counts, the dead, and what they do with them.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Job, Queue, Session, Shared, Store};
use crate::{
    broker::{Cursor, DeadJob, DeadPage, Finding, Inspector, Page, Plan, QueueStats, Selection, Topology},
    envelope::Envelope,
    error::BrokerError,
    exchange::Exchange,
    name::QueueName,
};

/// The view for people, of one process.
pub(super) struct View {
    shared: Arc<Shared>,
    session: Arc<Session>,
}

impl View {
    pub(super) const fn new(shared: Arc<Shared>, session: Arc<Session>) -> Self {
        Self { shared, session }
    }
}

#[async_trait]
impl Inspector for View {
    async fn queues(&self, _known: &[QueueName]) -> Result<Vec<QueueStats>, BrokerError> {
        self.session.check()?;
        let now = self.shared.clock.now();
        let stats = |(name, queue): (&QueueName, &mut Queue)| {
            queue.wake_the_due(now);
            QueueStats {
                ready: (queue.ready.len() + queue.suspects.len()) as u64,
                running: Some(queue.held.len() as u64),
                delayed: Some(queue.delayed.len() as u64),
                retrying: Some(queue.delayed.values().filter(|job| job.retries > 0).count() as u64),
                dead: queue.dead.len() as u64,
                consumers: queue.consumers.len() as u64,
                ..QueueStats::empty(name.clone())
            }
        };
        Ok(self.shared.store().queues.iter_mut().map(stats).collect())
    }

    async fn compare(&self, plan: &Plan) -> Result<Vec<Finding>, BrokerError> {
        self.session.check()?;
        let store = self.shared.store();
        let mut there = Topology::queues(store.queues.keys().cloned());
        there.exchanges = store.exchanges.iter().map(|(name, kind)| Exchange::new(name.clone(), *kind)).collect();
        there.bindings.clone_from(&store.bindings);
        Ok(plan.against(&there))
    }

    async fn dead(&self, selection: &Selection, page: Page) -> Result<DeadPage, BrokerError> {
        self.session.check()?;
        let store = self.shared.store();
        let after = page.after.map_or(0, |Cursor(place)| u64::try_from(place).unwrap_or(u64::MAX));
        let mut places = store.selected(selection);
        places.retain(|(place, _)| *place > after);
        let more = places.len() > page.limit;
        places.truncate(page.limit);
        let next = places.last().filter(|_| more).map(|(place, _)| Cursor((*place).into()));
        let jobs =
            places.iter().filter_map(|(place, queue)| store.queues.get(queue)?.dead.get(place).cloned()).collect();
        Ok(DeadPage::new(jobs, next))
    }

    async fn count_dead(&self, selection: &Selection) -> Result<u64, BrokerError> {
        self.session.check()?;
        Ok(self.shared.store().selected(selection).len() as u64)
    }

    async fn replay(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        self.session.check()?;
        Ok(self.shared.change(|store| {
            let dead = store.take_dead(selection, limit);
            for DeadJob { id, queue, job, headers, body, enqueued_at, priority, .. } in &dead {
                let mut envelope = Envelope::new(id.clone(), queue.clone(), job.clone(), body.0.clone(), *enqueued_at);
                (envelope.headers, envelope.priority) = (headers.clone(), *priority);
                store.last += 1;
                let replayed = Job { seq: store.last, envelope, retries: 0, starts: 0 };
                if let Some(queue) = store.queues.get_mut(queue) {
                    queue.put(replayed, None);
                }
            }
            dead.len() as u64
        }))
    }

    async fn drop_dead(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        self.session.check()?;
        Ok(self.shared.change(|store| store.take_dead(selection, limit).len() as u64))
    }
}

impl Selection {
    fn selects(&self, dead: &DeadJob) -> bool {
        (self.queues.is_empty() || self.queues.contains(&dead.queue))
            && self.job.as_ref().is_none_or(|job| dead.job.as_ref() == Some(job))
            && self.kind.is_none_or(|kind| kind == dead.failure.kind)
            && (self.ids.is_empty() || self.ids.contains(&dead.id))
            && self.died_until.is_none_or(|date| dead.died_at <= date)
    }
}

impl Store {
    /// The places of the selected dead jobs, oldest first.
    fn selected(&self, selection: &Selection) -> Vec<(u64, QueueName)> {
        let dead = self
            .queues
            .iter()
            .flat_map(|(name, queue)| queue.dead.iter().map(move |(place, dead)| (place, name, dead)));
        let mut places: Vec<_> = dead
            .filter(|(_, _, dead)| selection.selects(dead))
            .map(|(place, name, _)| (*place, name.clone()))
            .collect();
        places.sort_unstable();
        places
    }

    fn take_dead(&mut self, selection: &Selection, limit: usize) -> Vec<DeadJob> {
        let places = self.selected(selection).into_iter().take(limit);
        places.filter_map(|(place, queue)| self.queues.get_mut(&queue)?.dead.remove(&place)).collect()
    }
}
