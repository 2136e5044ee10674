//! What the task of a channel does in moments that no server can be made to have: a link that the test holds.

use std::{
    collections::VecDeque,
    future::{pending, ready},
    num::NonZeroU8,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use lapin::{BasicProperties, types::FieldTable};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use super::{AGAIN, PublishError, Publisher};
use crate::{
    brokers::rabbitmq::{
        connection::{Connection, SILENT, Tasks},
        link::{
            Address, Channel, Confirmation, Declare, DeclareExchange, Depth, Dialer, Link, LinkError, LinkErrorKind,
            Purpose,
        },
        redial::Redial,
        wire::{Incoming, Message},
    },
    time::monotonic_now,
};

/// A connection as the test wants it: publishes are written, and confirmed when the test says so.
#[derive(Default)]
struct Held {
    connection: Mutex<Weak<Connection>>,
    unconfirmed: Mutex<VecDeque<oneshot::Sender<Result<Confirmation, LinkError>>>>,
    written: Notify,
    /// So many publishes are refused at once.
    refusals: AtomicUsize,
    publishes: AtomicUsize,
    dials: AtomicUsize,
    /// When the task next looks at its connection, all that was written has just been confirmed, and another channel has
    /// just given the connection up.
    gives_up: AtomicBool,
}

impl Held {
    fn confirm_all(&self) {
        let taken = || Confirmation { taken: true, returned: None };
        let unconfirmed = std::mem::take(&mut *self.unconfirmed.lock().unwrap());
        unconfirmed.into_iter().for_each(|confirm| confirm.send(Ok(taken())).unwrap());
    }

    fn give_up(&self) {
        let connection = self.connection.lock().unwrap().upgrade().unwrap();
        connection.up().now_or_never().flatten().unwrap().give_up();
    }
}

#[derive(Clone)]
struct HeldLink(Arc<Held>);

#[async_trait]
impl Dialer for HeldLink {
    async fn dial(&self, _: Purpose) -> Result<Box<dyn Link>, LinkError> {
        self.0.dials.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Link for HeldLink {
    fn channels_max(&self) -> u16 {
        2_047
    }

    async fn channel(&self) -> Result<Box<dyn Channel>, LinkError> {
        Ok(Box::new(self.clone()))
    }

    fn blocked(&self) -> Option<String> {
        if self.0.gives_up.swap(false, Ordering::SeqCst) {
            self.0.confirm_all();
            self.0.give_up();
        }
        None
    }

    async fn blocked_changed(&self) {
        pending().await
    }

    async fn gone(&self) -> LinkError {
        pending().await
    }

    async fn close(&self) {}
}

fn no_part() -> LinkError {
    LinkError::new(LinkErrorKind::Mismatch, "not a part of this test")
}

#[async_trait]
impl Channel for HeldLink {
    async fn confirm_select(&self) -> Result<(), LinkError> {
        Ok(())
    }

    async fn declare(&self, _: &str, _: Declare) -> Result<Depth, LinkError> {
        Err(no_part())
    }

    async fn delete(&self, _: &str) -> Result<(), LinkError> {
        Err(no_part())
    }

    async fn declare_exchange(&self, _: &str, _: DeclareExchange) -> Result<(), LinkError> {
        Err(no_part())
    }

    async fn bind(&self, _: &str, _: &str, _: &str, _: FieldTable) -> Result<(), LinkError> {
        Err(no_part())
    }

    fn publish(&self, _: &Address, _: &Message) -> BoxFuture<'static, Result<Confirmation, LinkError>> {
        self.0.publishes.fetch_add(1, Ordering::SeqCst);
        let left = self.0.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            self.0.written.notify_one();
            return ready(Ok(Confirmation { taken: false, returned: None })).boxed();
        }
        let (confirm, confirmed) = oneshot::channel();
        self.0.unconfirmed.lock().unwrap().push_back(confirm);
        self.0.written.notify_one();
        confirmed.map(|told| told.unwrap_or_else(|_| Err(no_part()))).boxed()
    }

    async fn consume(
        &self,
        _: &str,
        _: &str,
        _: u16,
        _: Option<Duration>,
    ) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError> {
        Err(no_part())
    }

    async fn replies(&self) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError> {
        Ok(stream::pending().boxed())
    }

    async fn cancel(&self, _: &str) -> Result<(), LinkError> {
        Err(no_part())
    }

    async fn get(&self, _: &str) -> Result<Option<(Incoming, u32)>, LinkError> {
        Err(no_part())
    }

    async fn ack(&self, _: u64, _: bool) -> Result<(), LinkError> {
        Err(no_part())
    }

    async fn requeue(&self, _: u64, _: bool) -> Result<(), LinkError> {
        Err(no_part())
    }

    fn barrier(&self) -> BoxFuture<'static, Result<(), LinkError>> {
        ready(Err(no_part())).boxed()
    }

    async fn close(&self) {}
}

/// A publisher of one channel, and what is behind it.
fn publisher() -> (Publisher, Arc<Held>, Arc<Connection>) {
    let (publisher, held, connection, _) = publisher_and_tasks();
    (publisher, held, connection)
}

fn publisher_and_tasks() -> (Publisher, Arc<Held>, Arc<Connection>, Tasks) {
    let (held, tasks) = (Arc::<Held>::default(), Tasks::new(Handle::current()));
    let dialer = Arc::new(HeldLink(Arc::clone(&held)));
    let connection = Connection::new(Purpose::Publish, dialer, &Arc::new(Redial::new()), tasks.clone());
    *held.connection.lock().unwrap() = Arc::downgrade(&connection);
    let publisher = Publisher::start(&connection, &tasks, Duration::from_secs(10), NonZeroU8::MIN);
    (publisher, held, connection, tasks)
}

fn message() -> Message {
    Message { properties: BasicProperties::default(), body: Bytes::new() }
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_before_a_connection_is_given_up_is_told_as_confirmed() {
    let (publisher, held, _connection) = publisher();
    let first = publisher.begin(Address::queue("orders"), message()).await;
    held.written.notified().await;
    // The task waits now. What wakes it is a second message, and what it finds then has all happened since.
    held.gives_up.store(true, Ordering::SeqCst);
    let second = publisher.begin(Address::queue("orders"), message()).await;
    assert_eq!(first.await, Ok(()), "it was confirmed");
    held.written.notified().await;
    assert_eq!(held.dials.load(Ordering::SeqCst), 2, "the second is written on the next connection");
    held.confirm_all();
    assert_eq!(second.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_when_a_connection_is_given_up_is_unknown_at_once() {
    let (publisher, held, _connection) = publisher();
    let first = publisher.begin(Address::queue("orders"), message()).await;
    held.written.notified().await;
    let asked = monotonic_now();
    held.give_up();
    assert_eq!(first.await, Err(PublishError::Unknown(LinkErrorKind::Gone, SILENT.to_owned())));
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_is_sent_again_after_a_pause_and_holds_up_no_other() {
    let (publisher, held, _connection) = publisher();
    held.refusals.store(2, Ordering::SeqCst);
    let asked = monotonic_now();
    let first = publisher.begin(Address::queue("orders"), message()).await;
    held.written.notified().await;
    let second = publisher.begin(Address::queue("orders"), message()).await;
    let confirming = async {
        while held.publishes.load(Ordering::SeqCst) < 4 {
            held.written.notified().await;
        }
        held.confirm_all();
    };
    let (first, second, ()) = tokio::join!(first, second, confirming);
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert!(asked.elapsed() >= AGAIN.0, "after a pause");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_as_long_as_there_is_time_is_told_as_refused() {
    let (publisher, held, _connection) = publisher();
    held.refusals.store(usize::MAX, Ordering::SeqCst);
    let asked = monotonic_now();
    assert_eq!(publisher.publish(Address::queue("orders"), message()).await, Err(PublishError::Nacked));
    assert!(asked.elapsed() <= Duration::from_secs(10), "no longer than there is time");
    let tries = held.publishes.load(Ordering::SeqCst);
    assert!((8..20).contains(&tries), "{tries} tries: pauses of 20 ms to 1 s in 10 s");
    let through_an_exchange = Address { exchange: "events".into(), key: String::new(), mandatory: true };
    assert_eq!(publisher.publish(through_an_exchange, message()).await, Err(PublishError::Nacked));
    assert_eq!(held.publishes.load(Ordering::SeqCst), tries + 1, "other queues may have it");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_sent_again_while_the_broker_closes() {
    let (publisher, held, _connection, tasks) = publisher_and_tasks();
    held.refusals.store(usize::MAX, Ordering::SeqCst);
    let refused = publisher.begin(Address::queue("orders"), message()).await;
    held.written.notified().await;
    let asked = monotonic_now();
    tasks.closing.cancel();
    assert_eq!(refused.await, Err(PublishError::Nacked));
    assert_eq!((asked.elapsed(), held.publishes.load(Ordering::SeqCst)), (Duration::ZERO, 1));
}
