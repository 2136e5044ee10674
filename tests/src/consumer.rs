//! Both halves of a subscription, as a conformance case sees them.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::timeout;
use worker_core::{
    JobId,
    broker::{Begin, Delivery, SettleError, Settler, Source},
    settlement::Settlement,
};

use crate::{
    eventually::soon,
    sample::{copy, four_settlements},
};

/// Both halves of a subscription.
pub struct Consumer {
    /// Where deliveries come from.
    pub source: Box<dyn Source>,
    /// Where settlements go.
    pub settler: Arc<dyn Settler>,
    quiet: Duration,
}

impl Consumer {
    /// Of these halves; `quiet` is how long [`nothing`](Self::nothing) watches.
    #[must_use]
    pub fn new(source: Box<dyn Source>, settler: Arc<dyn Settler>, quiet: Duration) -> Self {
        Self { source, settler, quiet }
    }

    /// The next batch of 1 to `max`.
    ///
    /// # Panics
    ///
    /// When none comes, or one that is empty or too large.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; so are the others that wait for deliveries, up to what they had taken.
    pub async fn batch(&mut self, max: usize) -> Vec<Delivery> {
        let batch = soon("a job is delivered", self.source.next_batch(max)).await.expect("it can be consumed");
        assert!((1..=max).contains(&batch.len()), "a batch of {} where 1 to {max} were asked for", batch.len());
        batch
    }

    /// The next delivery.
    ///
    /// # Panics
    ///
    /// When none comes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn one(&mut self) -> Delivery {
        self.batch(1).await.remove(0)
    }

    /// The next `count` deliveries.
    ///
    /// # Panics
    ///
    /// When they do not come.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.extend(self.batch(count - taken.len()).await);
        }
        taken
    }

    /// The next delivery, which must be of the job `id`.
    ///
    /// # Panics
    ///
    /// When it is not, or none comes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn expect(&mut self, id: &str) -> Delivery {
        let delivery = self.one().await;
        assert_eq!(delivery.envelope.id, id.parse::<JobId>().unwrap());
        delivery
    }

    /// Watches for a while that nothing is delivered.
    ///
    /// # Panics
    ///
    /// When something is, or the broker fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn nothing(&mut self) {
        if let Ok(batch) = timeout(self.quiet, self.source.next_batch(usize::from(u16::MAX))).await {
            panic!("nothing was to be delivered, but there is {batch:?}");
        }
    }

    /// Says that the job is about to start; the delivery must still be ours.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn begin(&self, delivery: &Delivery) {
        assert_eq!(self.settler.begin(delivery), Begin::Go);
    }

    /// Settles, and waits for the broker's word.
    ///
    /// # Errors
    ///
    /// What the ticket says.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn try_settle(&self, delivery: Delivery, settlement: Settlement) -> Result<(), SettleError> {
        soon("a settlement is answered", self.settler.submit(delivery, settlement)).await
    }

    /// Settles, which must succeed.
    ///
    /// # Panics
    ///
    /// When it does not.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn settle(&self, delivery: Delivery, settlement: Settlement) {
        self.try_settle(delivery, settlement).await.expect("it can be settled");
    }

    /// The job is done.
    ///
    /// # Panics
    ///
    /// When that cannot be settled.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn ack(&self, delivery: Delivery) {
        self.settle(delivery, Settlement::Ack { reply: None }).await;
    }

    /// These jobs are done: told all at once, in this order.
    ///
    /// # Panics
    ///
    /// When one cannot be settled.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn ack_all(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let submit = |delivery| self.settler.submit(delivery, Settlement::Ack { reply: None });
        let tickets: Vec<_> = deliveries.into_iter().map(submit).collect();
        for ticket in tickets {
            soon("a settlement is answered", ticket).await.expect("it can be acknowledged");
        }
    }

    /// Owns at most `prefetch` from now on.
    ///
    /// # Panics
    ///
    /// When the broker cannot.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn resize(&mut self, prefetch: u16) {
        let prefetch = prefetch.try_into().unwrap();
        soon("a subscription is resized", self.source.resize(prefetch)).await.expect("it can be resized");
    }

    /// Stops taking.
    ///
    /// # Panics
    ///
    /// When the broker cannot.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn stop(&mut self) {
        soon("a source stops", self.source.stop()).await.expect("it can stop");
    }

    /// Settling `delivery` again must be refused as lost, whatever the settlement.
    ///
    /// # Panics
    ///
    /// When it is not.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn assert_lost(&self, delivery: &Delivery) {
        assert_eq!(self.settler.begin(delivery), Begin::Lost, "{delivery:?}");
        for settlement in four_settlements() {
            let answer = self.try_settle(copy(delivery), settlement.clone()).await;
            assert!(matches!(answer, Err(SettleError::Lost)), "{settlement:?} of {delivery:?}: {answer:?}");
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}
