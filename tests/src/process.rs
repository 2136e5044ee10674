//! One process on the broker under test, as a conformance case sees it.
//!
//! What must succeed for a case to say anything is unwrapped here, so that the
//! cases are left with what they are about.

use std::sync::Arc;

use worker_core::{
    broker::{Broker, DeadJob, Declared, Inspector, Page, QueueStats, Selection, Subscription, Topology},
    envelope::Envelope,
    queue::QueueOptions,
};

use crate::{
    consumer::Consumer,
    fixture::BrokerFixture,
    sample::{QUEUE, queue_name},
};

/// A process on the broker under test.
#[derive(Debug)]
pub struct Process<'f, F: BrokerFixture> {
    /// Its handle.
    pub broker: F::Broker,
    fixture: &'f F,
}

impl<'f, F: BrokerFixture> Process<'f, F> {
    /// A process of `fixture` with this handle.
    pub const fn new(fixture: &'f F, broker: F::Broker) -> Self {
        Self { broker, fixture }
    }

    /// Declares `queue`.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::declare`]; this holds for all methods here with their broker's.
    pub async fn declare(&self, queue: &str) -> Declared {
        self.broker.declare(&Topology::queues([queue_name(queue)])).await.expect("it can be declared")
    }

    /// Declares `queue`, of which `options` are asked.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::declare`].
    pub async fn declare_asking(&self, queue: &str, options: QueueOptions) -> Declared {
        let topology = Topology::default().queue(queue_name(queue), options);
        self.broker.declare(&topology).await.expect("it can be declared")
    }

    /// Enqueues `jobs`, all of which must be accepted.
    ///
    /// # Panics
    ///
    /// When one is not.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn enqueue(&self, jobs: impl IntoIterator<Item = Envelope>) {
        for answer in self.broker.enqueue(jobs.into_iter().collect()).await {
            answer.expect("it can be enqueued");
        }
    }

    /// Consumes [`QUEUE`].
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn consume(&self, prefetch: u16) -> Consumer {
        self.consume_from(QUEUE, prefetch).await
    }

    /// Consumes `queue`.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn consume_from(&self, queue: &str, prefetch: u16) -> Consumer {
        let subscription = Subscription::new(queue_name(queue), prefetch.try_into().unwrap());
        let (source, settler) = self.broker.consume(subscription).await.expect("it can be consumed");
        Consumer::new(source, settler, self.fixture.quiet())
    }

    /// The view for people.
    ///
    /// # Panics
    ///
    /// When the broker has none.
    pub fn inspector(&self) -> Arc<dyn Inspector> {
        self.broker.inspector().expect("every broker has a view for people so far")
    }

    /// [`QUEUE`] in numbers.
    ///
    /// # Panics
    ///
    /// When it cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn stats(&self) -> QueueStats {
        self.stats_of(QUEUE).await
    }

    /// `queue` in numbers.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn stats_of(&self, queue: &str) -> QueueStats {
        let all = self.inspector().queues(&[queue_name(queue)]).await.expect("it can be inspected");
        all.into_iter().find(|stats| stats.queue == *queue).expect("a declared queue is listed")
    }

    /// All dead jobs.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn dead(&self) -> Vec<DeadJob> {
        self.selected(&Selection::default()).await
    }

    /// The selected dead jobs, at most 1,000.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn selected(&self, selection: &Selection) -> Vec<DeadJob> {
        let page = self.inspector().dead(selection, Page::first(1_000)).await.expect("the dead can be listed");
        assert_eq!(page.next, None, "more dead than a case makes");
        page.jobs
    }

    /// The sudden end of this process.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn crash(&self) {
        self.fixture.crash(&self.broker).await;
    }
}
