//! Handing jobs out, and taking back what became of them.

use std::{num::NonZeroU16, pin::pin, sync::Arc};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Held, Session, Shared};
use crate::{
    broker::{Begin, Delivery, Receipt, SettleError, Settler, Source, Subscription, Ticket},
    envelope::{Due, Envelope},
    error::BrokerError,
    settlement::{Note, Settlement},
};

/// Both halves of a subscription. Dropping the last of them gives back what is still owned.
struct Half {
    shared: Arc<Shared>,
    session: Arc<Session>,
    subscription: Subscription,
    id: u64,
}

/// The halves of a subscription that is listed with its queue as `id`.
pub(super) fn halves(
    shared: Arc<Shared>,
    session: Arc<Session>,
    subscription: Subscription,
    id: u64,
) -> (Box<dyn Source>, Arc<dyn Settler>) {
    let prefetch = subscription.prefetch;
    let half = Arc::new(Half { shared, session, subscription, id });
    (Box::new(MemorySource { half: Arc::clone(&half), prefetch, stopped: false }), half)
}

impl Drop for Half {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.change(|store| {
            store.give_back(|held| held.subscription == self.id, false, now);
            if let Some(queue) = store.queues.get_mut(&self.subscription.queue) {
                queue.consumers.remove(&self.id);
            }
        });
    }
}

struct MemorySource {
    half: Arc<Half>,
    prefetch: NonZeroU16,
    stopped: bool,
}

#[async_trait]
impl Source for MemorySource {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        let Half { shared, session, subscription, id } = &*self.half;
        if self.stopped {
            return Ok(Vec::new());
        }
        loop {
            let mut changed = pin!(shared.changed.notified());
            // From here on, so that no change is missed between the look and the wait.
            changed.as_mut().enable();
            session.check()?;
            let now = shared.clock.now();
            let (batch, next_due) = {
                let store = &mut *shared.store();
                let Some(queue) = store.queues.get_mut(&subscription.queue) else {
                    unreachable!("queues are not deleted")
                };
                queue.wake_the_due(now);
                let owned = queue.held.values().filter(|held| held.subscription == *id).count();
                let room = max.min(usize::from(self.prefetch.get()).saturating_sub(owned));
                let (mut batch, lost) = (Vec::new(), CancellationToken::new());
                while batch.len() < room
                    && let Some(job) = queue.take(*id)
                {
                    store.last += 1;
                    let receipt = Receipt { epoch: session.id, tag: store.last, part: 0 };
                    let envelope = Envelope { due: Due::Now, bundle: None, ..job.envelope.clone() };
                    let counts = (job.retries + 1, job.starts);
                    batch.push(Delivery::new(envelope, subscription.queue.clone(), counts, receipt, lost.clone()));
                    let (session, subscription, lost) = (session.id, *id, lost.clone());
                    queue.held.insert(store.last, Held { job, session, subscription, begun: false, lost });
                }
                (batch, queue.next_due())
            };
            if !batch.is_empty() {
                return Ok(batch);
            }
            match next_due {
                None => changed.await,
                Some(due) => drop(tokio::time::timeout(due.since(now), changed).await),
            }
        }
    }

    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError> {
        self.prefetch = prefetch.max(self.half.subscription.prefetch); // Nothing was fetched that was not returned.
        self.half.session.check()
    }

    async fn stop(&mut self) -> Result<(), BrokerError> {
        self.stopped = true; // Nothing was fetched that was not returned.
        let Half { shared, subscription, id, .. } = &*self.half;
        shared.change(|store| store.queues.get_mut(&subscription.queue).map(|queue| queue.consumers.remove(id)));
        Ok(())
    }
}

impl Settler for Half {
    fn begin(&self, delivery: &Delivery) -> Begin {
        let store = &mut *self.shared.store();
        match store.queues.get_mut(&delivery.queue).and_then(|queue| queue.held.get_mut(&delivery.receipt.tag)) {
            Some(held) => {
                held.begun = true;
                Begin::Go
            }
            None => Begin::Lost,
        }
    }

    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket {
        let now = self.shared.clock.now();
        let settled = self.shared.change(|store| {
            let queue = store.queues.get_mut(&delivery.queue)?;
            let mut job = queue.held.remove(&delivery.receipt.tag)?.job;
            let settlement = match settlement {
                Settlement::Ack { reply } => match store.tell(job.envelope.caller.as_ref(), reply) {
                    Some(failure) => Settlement::DeadLetter { failure },
                    None => return Some(()),
                },
                settlement => settlement,
            };
            let queue = store.queues.get_mut(&delivery.queue)?;
            match settlement {
                Settlement::Ack { .. } => {}
                Settlement::DeadLetter { failure } => {
                    store.last += 1;
                    queue.bury(store.last, failure, job, now);
                }
                Settlement::Release { after, note } => {
                    if let Some(Note::UnknownSince(since)) = note {
                        job.envelope.unknown_since = Some(since);
                    }
                    queue.put(job, Due::In(after).date(now));
                }
                Settlement::Retry { after, .. } => {
                    job.retries += 1;
                    job.starts = 0;
                    job.envelope.unknown_since = None;
                    queue.put(job, Due::In(after).date(now));
                }
            }
            Some(())
        });
        Ticket::resolved(settled.ok_or(SettleError::Lost))
    }
}
