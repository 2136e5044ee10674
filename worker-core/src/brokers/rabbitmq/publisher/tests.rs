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

use super::{PublishError, Publisher};
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
    let (held, tasks) = (Arc::<Held>::default(), Tasks::new(Handle::current()));
    let dialer = Arc::new(HeldLink(Arc::clone(&held)));
    let connection = Connection::new(Purpose::Publish, dialer, &Arc::new(Redial::new()), tasks.clone());
    *held.connection.lock().unwrap() = Arc::downgrade(&connection);
    let publisher = Publisher::start(&connection, &tasks, Duration::from_secs(10), NonZeroU8::MIN);
    (publisher, held, connection)
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
