//! Takes deliveries from one queue and hands them to the dispatcher.
//!
//! One task per queue. It holds no delivery of its own: a batch goes to the
//! dispatcher before the next is asked for, and what the source has fetched
//! beyond that is given back when the worker drains.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Delivery, Settler, Source, Subscription, Topology},
    error::{BrokerError, BrokerErrorKind},
    telemetry::TARGET,
};

/// The first and the longest pause after the broker failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The longest where a source failed: it tries by itself and only tells, so that to pause is
/// to leave lying what it has fetched meanwhile.
const PAUSE_SOURCE_MAX: Duration = Duration::from_secs(1);

/// What one queue's task has to say.
pub(super) enum Fetched {
    /// Deliveries of the lane, ours to settle with this settler.
    Batch { lane: usize, settler: Arc<dyn Settler>, deliveries: Vec<Delivery> },
    /// This queue cannot be consumed, and will not become so.
    Failed(BrokerError),
}

/// Consumes `subscription` until `draining`, and then stops in an orderly way.
pub(super) async fn fetch(
    lane: usize,
    broker: Arc<dyn Broker>,
    subscription: Subscription,
    fetched: mpsc::Sender<Fetched>,
    draining: CancellationToken,
) {
    let mut pause = Pause::new(draining.clone());
    while !draining.is_cancelled() {
        let subscribed = tokio::select! {
            biased;
            // The broker may be slow to answer, or never do.
            () = draining.cancelled() => return,
            subscribed = subscribe(&*broker, &subscription) => subscribed,
        };
        let error = match subscribed {
            Ok((source, settler)) => {
                let prefetch = subscription.prefetch;
                match consume(lane, source, settler, prefetch, &fetched, &draining, &mut pause).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if error.kind() != BrokerErrorKind::Transient {
            // The dispatcher has ended already where nobody listens.
            return drop(fetched.send(Fetched::Failed(error)).await);
        }
        pause.after(&error, PAUSE.1).await;
    }
}

/// Consumes the queue, which is declared first: a queue may be new, or gone.
async fn subscribe(
    broker: &dyn Broker,
    subscription: &Subscription,
) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
    broker.declare(&Topology::queues([subscription.queue.clone()])).await?;
    broker.consume(subscription.clone()).await
}

/// Hands over batches until the worker drains; `Err` when the source is of no more use.
async fn consume(
    lane: usize,
    mut source: Box<dyn Source>,
    settler: Arc<dyn Settler>,
    prefetch: NonZeroU16,
    fetched: &mpsc::Sender<Fetched>,
    draining: &CancellationToken,
    pause: &mut Pause,
) -> Result<(), BrokerError> {
    loop {
        let batch = tokio::select! {
            biased;
            () = draining.cancelled() => break,
            batch = source.next_batch(prefetch.get().into()) => batch,
        };
        match batch {
            // No broker should, but a worker that idles for ever because one does is worse.
            Ok(deliveries) if deliveries.is_empty() => {
                return Err(BrokerError::new(BrokerErrorKind::Transient, "the source ended by itself"));
            }
            Ok(deliveries) => {
                pause.reset();
                let settler = Arc::clone(&settler);
                if fetched.send(Fetched::Batch { lane, settler, deliveries }).await.is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == BrokerErrorKind::Transient => pause.after(&error, PAUSE_SOURCE_MAX).await,
            Err(error) => return Err(error),
        }
    }
    if let Err(error) = source.stop().await {
        tracing::warn!(target: TARGET, error = error.detail(), "what was fetched could not be given back; the broker does so when this process ends");
    }
    Ok(())
}

/// A pause that grows with each failure in a row.
struct Pause {
    next: Duration,
    draining: CancellationToken,
}

impl Pause {
    const fn new(draining: CancellationToken) -> Self {
        Self { next: PAUSE.0, draining }
    }

    const fn reset(&mut self) {
        self.next = PAUSE.0;
    }

    async fn after(&mut self, error: &BrokerError, longest: Duration) {
        let pause = self.next.min(longest).mul_f64(1.0 + fastrand::f64() / 2.0);
        tracing::warn!(target: TARGET, error = error.detail(), ?pause, "the broker failed; trying again");
        self.next = (self.next * 2).min(PAUSE.1);
        tokio::select! {
            () = self.draining.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}
