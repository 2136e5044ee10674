//! When the suspects' queue is looked into.
//!
//! To the server a suspect that was delivered is one that was started: it tells
//! no more than that it was delivered before. So a process takes one at a time,
//! of all its queues together, by asking for it and not by consuming: what is
//! not taken cannot be blamed for what another suspect does to the process.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::{
    brokers::rabbitmq::{
        link::{Channel, LinkError},
        wire::Incoming,
    },
    time::monotonic_now,
};

/// The shortest and the longest pause between two looks into a queue that is empty. Whoever moves
/// a suspect there looks soon; the longest is for what another left, who died before it looked.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// The pause before the first look. To ask a queue of RabbitMQ 3.10 whose process is only starting, as that of one that
/// another worker declares at this moment, ends the whole connection (541, `noproc`), and costs all that was delivered.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The pause before a suspects' queue is looked for again that is not there.
const PAUSE_MISSING: Duration = Duration::from_secs(10);

/// The pause after one could not be started.
const PAUSE_PUT_OFF: Duration = Duration::from_millis(500);

type Asking = BoxFuture<'static, Result<Option<(Incoming, u32)>, LinkError>>;

pub(super) struct Look {
    /// One, for the process; given in the order of asking, so that no queue's suspects wait for all of another's.
    permits: Arc<Semaphore>,
    acquiring: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    /// Ours while we ask, and while a suspect is in hand.
    permit: Option<OwnedSemaphorePermit>,
    asking: Option<Asking>,
    next: Instant,
    pause: Duration,
}

impl Look {
    pub(super) fn new(permits: Arc<Semaphore>) -> Self {
        let next = monotonic_now() + PAUSE_FIRST;
        Self { permits, acquiring: None, permit: None, asking: None, next, pause: PAUSE.0 }
    }

    /// Looks when it is time; what was found, if anything. Never while one is in hand.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call goes on with the question that is under way.
    pub(super) async fn look(
        &mut self,
        channel: &Arc<dyn Channel>,
        queue: &str,
    ) -> Result<Option<Incoming>, LinkError> {
        if self.asking.is_none() {
            if self.permit.is_some() {
                pending::<()>().await;
            }
            sleep_until(self.next).await;
            let permits = Arc::clone(&self.permits);
            let acquire = || -> BoxFuture<'static, _> { Box::pin(async move { permits.acquire_owned().await.ok() }) };
            self.permit = self.acquiring.get_or_insert_with(acquire).await;
            self.acquiring = None;
            let (channel, queue) = (Arc::clone(channel), queue.to_owned());
            self.asking = Some(Box::pin(async move { channel.get(&queue).await }));
        }
        self.answer().await
    }

    /// The last answer: to a question that is under way, if there is one. No other is asked.
    pub(super) async fn last(&mut self) -> Result<Option<Incoming>, LinkError> {
        self.acquiring = None;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Option<Incoming>, LinkError> {
        let Some(asking) = &mut self.asking else { return Ok(None) };
        let found = asking.await;
        self.asking = None;
        match found {
            Ok(Some((incoming, _))) => {
                self.pause = PAUSE.0;
                Ok(Some(incoming))
            }
            empty => {
                self.permit = None;
                self.next = monotonic_now() + self.pause;
                self.pause = (self.pause * 2).min(PAUSE.1);
                empty.map(|_| None)
            }
        }
    }

    /// There is one now: looks soon.
    pub(super) fn soon(&mut self) {
        self.pause = PAUSE.0;
        self.next = self.next.min(monotonic_now() + PAUSE.0);
    }

    /// It was put off, because it could not be started: nor could another, for a moment.
    pub(super) fn put_off(&mut self) {
        self.next = monotonic_now() + PAUSE_PUT_OFF;
    }

    /// There is nothing to look into, and it cannot be made: it may be there later.
    pub(super) fn rest(&mut self) {
        self.next = monotonic_now() + PAUSE_MISSING;
    }

    /// None is in hand any more.
    pub(super) fn settled(&mut self) {
        if self.asking.is_none() {
            self.permit = None;
        }
    }
}
