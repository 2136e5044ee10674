//! A broker that writes down what becomes true in it.
//!
//! It stands between the faults and the memory broker: what the worker is told
//! may be wrong, what stands in the record is not.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use worker_core::{
    BrokerError, CallFailure, EnqueueFailure,
    broker::{
        Begin, Broker, Capabilities, Declared, Delivery, Inspector, Needs, Plan, Reach, SettleError, Settler, Source,
        Subscription, Ticket, Topology,
    },
    brokers::memory::MemoryBroker,
    envelope::{Due, Envelope},
    reply::Reply,
    settlement::Settlement,
};

use crate::sim::{
    record::{Handed, What},
    stage::Stage,
};

/// One process's view of the broker.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) inner: Arc<MemoryBroker>,
    pub(super) stage: Arc<Stage>,
    pub(super) process: u64,
}

fn handed(delivery: &Delivery) -> Handed {
    let job = delivery.envelope.id.to_string();
    Handed { tag: delivery.receipt.tag, job, attempt: delivery.attempt, starts: delivery.starts }
}

#[async_trait]
impl Broker for Witness {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn reach(&self) -> Reach {
        self.inner.reach()
    }

    fn know(&self, topology: &Topology) {
        self.inner.know(topology);
    }

    fn queues_at_most(&self) -> Option<usize> {
        self.inner.queues_at_most()
    }

    fn resizes_in_order(&self) -> bool {
        self.inner.resizes_in_order()
    }

    fn held_at_most(&self) -> Option<Duration> {
        self.inner.held_at_most()
    }

    fn enqueue_limit(&self) -> Option<Duration> {
        self.inner.enqueue_limit()
    }

    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        self.inner.declare(topology).await
    }

    fn plan(&self, needs: &Needs) -> Plan {
        self.inner.plan(needs)
    }

    async fn apply(&self, plan: &Plan) -> Result<(), BrokerError> {
        self.inner.apply(plan).await
    }

    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
        let jobs: Vec<_> = batch.iter().map(|envelope| (envelope.id.to_string(), envelope.due)).collect();
        let answers = self.inner.enqueue(batch).await;
        for ((job, due), _) in jobs.into_iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
            let due_in = if let Due::In(delay) = due { delay } else { Duration::ZERO };
            self.stage.record.write(self.process, What::Stored { job, due_in });
        }
        answers
    }

    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        self.inner.call(envelope).await
    }

    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        let queue = subscription.queue.to_string();
        let (source, settler) = self.inner.consume(subscription).await?;
        let half = Arc::new(Half {
            stage: Arc::clone(&self.stage),
            process: self.process,
            subscription: self.stage.record.number(),
        });
        self.stage.record.write(self.process, What::Subscribed { subscription: half.subscription, queue });
        let source = WitnessSource { half: Arc::clone(&half), inner: source };
        Ok((Box::new(source), Arc::new(WitnessSettler { half, inner: settler })))
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        self.inner.inspector()
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

/// Dropped with the first field of the last wrapper, and so before the broker's own halves.
struct Half {
    stage: Arc<Stage>,
    process: u64,
    subscription: u64,
}

impl Half {
    fn write(&self, what: What) {
        self.stage.record.write(self.process, what);
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.write(What::Unsubscribed { subscription: self.subscription });
    }
}

struct WitnessSource {
    half: Arc<Half>,
    inner: Box<dyn Source>,
}

#[async_trait]
impl Source for WitnessSource {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        let batch = self.inner.next_batch(max).await?;
        for delivery in &batch {
            let (subscription, handed) = (self.half.subscription, handed(delivery));
            self.half.write(What::Delivered { subscription, handed });
        }
        Ok(batch)
    }

    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError> {
        self.inner.resize(prefetch).await
    }

    async fn stop(&mut self) -> Result<(), BrokerError> {
        self.inner.stop().await
    }
}

struct WitnessSettler {
    half: Arc<Half>,
    inner: Arc<dyn Settler>,
}

impl Settler for WitnessSettler {
    fn begin(&self, delivery: &Delivery) -> Begin {
        let answer = self.inner.begin(delivery);
        if answer == Begin::Go {
            self.half.write(What::Began { handed: handed(delivery) });
        }
        answer
    }

    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket {
        let handed = handed(&delivery);
        // The memory broker answers at once, so the order of the record is that of the truth.
        let answer = self.inner.submit(delivery, settlement.clone()).now_or_never().unwrap();
        self.half.write(match &answer {
            Ok(()) => What::Settled { handed, settlement },
            Err(SettleError::Lost) => What::TooLate { handed },
            Err(error) => panic!("the memory broker is never busy: {error:?}"),
        });
        Ticket::resolved(answer)
    }
}
