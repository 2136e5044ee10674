//! What all parts of one broker share.

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    sync::{OnceCell, Semaphore},
    time::timeout,
};

use crate::{
    broker::Callers,
    brokers::rabbitmq::{
        calls::Answering,
        connection::{Connection, Tasks},
        consume::closed,
        course::{Line, Place},
        declare::Declarer,
        link::{Address, LinkErrorKind},
        management,
        publisher::{PublishError, Publisher},
        topology,
        version::Server,
        wire::{DeathDate, Message},
    },
    error::{BrokerError, BrokerErrorKind},
    name::QueueName,
    time::{Clock, Timestamp},
};

/// How long closing waits for the lanes to give back what they own, and then for the connections.
const CLOSE_WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How long a copy that is given back may take: a stop waits for it.
const GIVE_BACK_WAIT: Duration = Duration::from_millis(1_500);

pub(super) struct Shared {
    pub(super) server: Server,
    /// How long a delivery may be held; `None` where we say it ourselves.
    pub(super) held_at_most: Option<Duration>,
    pub(super) publish: Arc<Connection>,
    pub(super) calls: Arc<Connection>,
    pub(super) consume: Arc<Connection>,
    pub(super) publisher: Publisher,
    /// Publishes what is called: its replies come by the channel of the call.
    pub(super) calling: Publisher,
    pub(super) callers: Arc<Callers>,
    /// Answers the calls of others.
    pub(super) answering: Answering,
    pub(super) declarer: Declarer,
    /// What tells more than AMQP does, where it was named.
    pub(super) management: Option<management::Api>,
    pub(super) app_id: String,
    pub(super) clock: Arc<dyn Clock>,
    /// Lanes and the porter: they end first.
    pub(super) lanes: Tasks,
    /// Publisher and supervisors.
    pub(super) plumbing: Tasks,
    /// One: how many suspects this process has in hand.
    pub(super) suspects: Arc<Semaphore>,
    /// As many as there are consumers beside the first of their queue, and one.
    pub(super) extras: Arc<()>,
    pub(super) porter: AtomicBool,
    /// Once for a broker: the levels that a worker makes at its start.
    pub(super) ladder_at_start: OnceCell<()>,
    pub(super) closed: AtomicBool,
    pub(super) last_death: AtomicU64,
    /// Once for a broker, not for each queue.
    pub(super) warn_of_stack: Once,
    /// Kept for its tasks; `None` where the caller's runtime carries them.
    pub(super) runtime: Option<Runtime>,
}

impl Shared {
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether giving a delivery of this line back by `basic.nack` leaves no trace on it.
    pub(super) fn nack_is_free(&self, line: Line, queue: &QueueName) -> bool {
        self.server.nack_is_free() && self.declarer.is_quorum(&line.place().name(queue, &self.declarer.ladder))
    }

    /// A date for a death: now, and later than every one before.
    pub(super) fn death(&self) -> DeathDate {
        let now = self.now().unix_ms().saturating_mul(1_000);
        let later = |last: u64| Some(now.max(last + 1));
        let last = self.last_death.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later).unwrap_or_else(|last| last);
        DeathDate(now.max(last + 1))
    }

    /// Publishes a copy to its place, which is declared where it is missing.
    pub(super) async fn send(&self, place: Place, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        let name = self.declarer.name(place, queue);
        self.declarer.place(place, queue).await?;
        let mut sent = self.publisher.publish(Address::queue(&*name), message.clone()).await;
        if sent == Err(PublishError::Unroutable) {
            // It was deleted since it was seen.
            self.declarer.forget(&name);
            self.declarer.place(place, queue).await?;
            sent = self.publisher.publish(Address::queue(&*name), message).await;
        }
        sent.map_err(|error| publish_error(&name, &error))
    }

    /// Gives a copy back in a hurry. A queue that is full gets it through its shortest rung, which
    /// holds it until there is room.
    pub(super) async fn give_back(&self, place: Place, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        let name = place.name(queue, &self.declarer.ladder);
        self.declarer.place(place, queue).await?;
        let given = self.publisher.publish_once(Address::queue(&*name), message.clone(), GIVE_BACK_WAIT).await;
        match given {
            Err(PublishError::Nacked) if place == Place::Queue => {
                let rung = Place::Retry(topology::shortest_rung());
                self.declarer.place(rung, queue).await?;
                let name = rung.name(queue, &self.declarer.ladder);
                let held = self.publisher.publish_once(Address::queue(&*name), message, GIVE_BACK_WAIT).await;
                held.map_err(|error| publish_error(&name, &error))
            }
            given => given.map_err(|error| publish_error(&name, &error)),
        }
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.lanes.closing.cancel();
        self.lanes.tracker.close();
        drop(timeout(CLOSE_WAIT.0, self.lanes.tracker.wait()).await);
        self.plumbing.closing.cancel();
        let published = async { tokio::join!(self.publisher.ended(), self.calling.ended(), self.answering.ended()) };
        drop(timeout(CLOSE_WAIT.0, published).await);
        self.answering.hang_up();
        self.declarer.hang_up();
        self.consume.hang_up();
        self.publish.hang_up();
        self.calls.hang_up();
        self.plumbing.tracker.close();
        drop(timeout(CLOSE_WAIT.1, self.plumbing.tracker.wait()).await);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it is not allowed inside another runtime.
            runtime.shutdown_background();
        }
    }
}

/// What a settlement that needed this publish should say.
pub(super) fn publish_error(name: &str, error: &PublishError) -> BrokerError {
    let (kind, text) = match error {
        PublishError::NotSent(LinkErrorKind::Mismatch, why) => (BrokerErrorKind::Permanent, why.clone()),
        PublishError::NotSent(_, why) | PublishError::Unknown(_, why) => (BrokerErrorKind::Transient, why.clone()),
        PublishError::Unroutable => {
            (BrokerErrorKind::Transient, "the queue does not exist; it is declared again at the next try".into())
        }
        PublishError::Nacked => (BrokerErrorKind::Transient, "the server refused it; the queue may be full".into()),
    };
    BrokerError::new(kind, format!("nothing could be published to `{name}`: {text}"))
}
