//! Takes deliveries from one queue and hands them to the dispatcher.
//!
//! One task per queue. It holds no delivery of its own: a batch goes to the
//! dispatcher before the next is asked for, and what the source has fetched
//! beyond that is given back when the worker drains.

use std::{future::pending, num::NonZeroU16, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Delivery, Settler, Source, Subscription, Topology},
    error::{BrokerError, BrokerErrorKind},
    telemetry::TARGET,
    time::monotonic_now,
    worker::status::LaneBoard,
};

/// The first and the longest pause after the broker failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The longest between two failures of a source: it tries by itself and only tells. It is asked again at once, so that
/// what it has by then does not lie; one that fails over and over is not asked more often than this for long.
const PAUSE_SOURCE_MAX: Duration = Duration::from_millis(500);

/// A source that failed and has then waited this long without an error works again. An
/// empty queue would not tell otherwise.
const SOUND_AFTER: Duration = Duration::from_secs(1);

/// How long a source may be about to hold another number until what it has fetched meanwhile is looked for.
const RESIZE_LOOK: Duration = Duration::from_millis(10);

/// What one queue's task has to say.
pub(super) enum Fetched {
    /// Deliveries of the lane, ours to settle with this settler.
    Batch { lane: usize, settler: Arc<dyn Settler>, deliveries: Vec<Delivery> },
    /// The lane holds fewer from now on: what waits beyond is another worker's.
    Narrowed { lane: usize, prefetch: NonZeroU16 },
    /// This queue cannot be consumed, and will not become so.
    Failed(BrokerError),
}

/// One queue's task.
pub(super) struct Fetching {
    pub(super) lane: usize,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) subscription: Subscription,
    /// What the jobs of the queue need.
    pub(super) topology: Topology,
    /// How many to hold, which may change.
    pub(super) prefetch: watch::Receiver<NonZeroU16>,
    pub(super) fetched: mpsc::Sender<Fetched>,
    pub(super) draining: CancellationToken,
    pub(super) board: LaneBoard,
}

impl Fetching {
    /// Consumes the queue until `draining`, and then stops in an orderly way.
    pub(super) async fn run(mut self) {
        let mut pause = Pause::new(self.draining.clone());
        while !self.draining.is_cancelled() {
            let subscribed = tokio::select! {
                biased;
                // The broker may be slow to answer, or never do.
                () = self.draining.cancelled() => break,
                subscribed = self.subscribe() => subscribed,
            };
            let error = match subscribed {
                Ok((source, settler)) => {
                    self.board.consuming();
                    match self.consume(source, settler, &mut pause).await {
                        Ok(()) => break,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.board.failing(&error);
            if error.kind() != BrokerErrorKind::Transient {
                // The dispatcher has ended already where nobody listens.
                return drop(self.fetched.send(Fetched::Failed(error)).await);
            }
            pause.after(&error, PAUSE.1).await;
        }
        self.board.ended();
    }

    /// Consumes the queue, which is declared first, with what sends to it: it may be new, or gone.
    async fn subscribe(&self) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        self.broker.declare(&self.topology).await?;
        self.broker.consume(self.subscription.clone()).await
    }

    /// Hands over batches until the worker drains; `Err` when the source is of no more use.
    async fn consume(
        &mut self,
        mut source: Box<dyn Source>,
        settler: Arc<dyn Settler>,
        pause: &mut Pause,
    ) -> Result<(), BrokerError> {
        let mut failing = false;
        let mut next_failure = monotonic_now();
        let mut held = self.subscription.prefetch;
        self.board.holds(held);
        loop {
            let batch = tokio::select! {
                biased;
                () = self.draining.cancelled() => break,
                prefetch = changed(&mut self.prefetch, held) => {
                    self.resize(&mut *source, &settler, (held, prefetch)).await;
                    held = prefetch;
                    continue;
                }
                batch = source.next_batch(held.get().into()) => batch,
                () = sleep(SOUND_AFTER), if failing => {
                    failing = false;
                    self.board.consuming();
                    continue;
                }
            };
            match batch {
                // No broker should, but a worker that idles for ever because one does is worse.
                Ok(deliveries) if deliveries.is_empty() => {
                    return Err(BrokerError::new(BrokerErrorKind::Transient, "the source ended by itself"));
                }
                Ok(deliveries) => {
                    pause.reset();
                    failing = false;
                    self.board.consuming();
                    if self.hand_over(&settler, deliveries).await.is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == BrokerErrorKind::Transient => {
                    failing = true;
                    self.board.failing(&error);
                    pause.until(next_failure).await;
                    next_failure = monotonic_now() + pause.grow(&error, PAUSE_SOURCE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
        if let Err(error) = source.stop().await {
            tracing::warn!(target: TARGET, error = error.detail(), "what was fetched could not be given back; the broker does so when this process ends");
        }
        Ok(())
    }
}

impl Fetching {
    /// `Err` where the dispatcher has ended.
    async fn hand_over(
        &self,
        settler: &Arc<dyn Settler>,
        deliveries: Vec<Delivery>,
    ) -> Result<(), mpsc::error::SendError<Fetched>> {
        self.fetched.send(Fetched::Batch { lane: self.lane, settler: Arc::clone(settler), deliveries }).await
    }

    /// Holds another number, unless the worker drains meanwhile. What comes until that is so is handed over, too.
    async fn resize(&self, source: &mut dyn Source, settler: &Arc<dyn Settler>, (from, to): (NonZeroU16, NonZeroU16)) {
        let mut resized = None;
        while resized.is_none() {
            resized = tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                resized = timeout(RESIZE_LOOK, source.resize(to)) => resized.ok(),
            };
            // What was fetched before waits there, too. An error comes again.
            while let Some(Ok(deliveries)) = source.next_batch(usize::from(u16::MAX)).now_or_never() {
                if deliveries.is_empty() || self.hand_over(settler, deliveries).await.is_err() {
                    return;
                }
            }
        }
        self.board.holds(to);
        if let Some(Err(error)) = resized {
            tracing::warn!(target: TARGET, queue = %self.subscription.queue, error = error.detail(), "another prefetch could not be had");
        }
        if to < from {
            // The dispatcher may have ended.
            drop(self.fetched.send(Fetched::Narrowed { lane: self.lane, prefetch: to }).await);
        }
    }
}

/// Resolves when another number than `held` is asked for, with that.
async fn changed(prefetch: &mut watch::Receiver<NonZeroU16>, held: NonZeroU16) -> NonZeroU16 {
    let wanted = prefetch.wait_for(|wanted| *wanted != held).await.map(|wanted| *wanted);
    match wanted {
        Ok(wanted) => wanted,
        // The dispatcher has ended, and asks for nothing any more.
        Err(_) => pending().await,
    }
}

/// A pause that grows with each failure in a row.
struct Pause {
    next: Duration,
    /// What goes on is said again from then on.
    silent_until: Option<Instant>,
    draining: CancellationToken,
}

impl Pause {
    const fn new(draining: CancellationToken) -> Self {
        Self { next: PAUSE.0, silent_until: None, draining }
    }

    const fn reset(&mut self) {
        (self.next, self.silent_until) = (PAUSE.0, None);
    }

    /// How long the next pause is, which is told now and then.
    fn grow(&mut self, error: &BrokerError, longest: Duration) -> Duration {
        let pause = self.next.min(longest).mul_f64(1.0 + fastrand::f64() / 2.0);
        let now = monotonic_now();
        if self.silent_until.is_none_or(|until| until <= now) {
            tracing::warn!(target: TARGET, error = error.detail(), ?pause, "the broker failed; trying again");
            self.silent_until = Some(now + self.next);
        }
        self.next = (self.next * 2).min(PAUSE.1);
        pause
    }

    async fn after(&mut self, error: &BrokerError, longest: Duration) {
        let over = monotonic_now() + self.grow(error, longest);
        self.until(over).await;
    }

    async fn until(&self, over: Instant) {
        tokio::select! {
            () = self.draining.cancelled() => {}
            () = sleep_until(over) => {}
        }
    }
}
