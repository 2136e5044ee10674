//! Events: something that happened, published for whoever runs for it.
//!
//! An event names no job and no queue. It goes to an exchange, and each job
//! that is marked `#[job(on = "…", bind = […])]` gets a copy in its own queue,
//! with its own retries. When nobody runs for it, it is gone, which is no
//! failure unless it was [mandatory](Publish::mandatory).

use serde::Serialize;

use crate::{
    envelope::Priority,
    exchange::ExchangeKind,
    id::JobId,
    job::{Enqueue, InvalidJob, Prepared},
};

/// A type of event. `#[derive(Event)]` implements it.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use worker_core::prelude::*;
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(exchange = "events", key = "order.placed.{country}")]
/// struct OrderPlaced {
///     order_id: u64,
///     country: String,
/// }
///
/// /// Runs for each order of Switzerland, in a queue of its own.
/// #[job(on = "events", bind = ["order.placed.ch"])]
/// async fn notify_customs(Payload(order): Payload<OrderPlaced>) {
///     println!("order {}", order.order_id);
/// }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// client.publish(OrderPlaced { order_id: 42, country: "ch".into() }).await?;
/// # Ok(()) }
/// # fn main() {}
/// ```
pub trait Event: Serialize + Send + 'static {
    /// What it is called, for people and for programs in other languages: AMQP's property `type`. See
    /// [`JobName`](crate::JobName) for the alphabet.
    const NAME: &'static str;
    /// The exchange it is published to.
    const EXCHANGE: &'static str;
    /// The exchange's kind, where it has to be made.
    const KIND: ExchangeKind = ExchangeKind::Topic;

    /// The routing key: words between dots, from the general to the particular, `order.placed.ch` say. At most
    /// 255 bytes.
    fn key(&self) -> String;
}

/// An event with what was asked of this one publish.
#[derive(Debug, Clone)]
#[must_use = "nothing is published until it is passed to `Client::publish`"]
pub struct Publish<E> {
    event: E,
    mandatory: bool,
    options: Enqueue<()>,
}

impl<E> Publish<E> {
    /// `event`, for whoever runs for it.
    pub fn new(event: E) -> Self {
        Self { event, mandatory: false, options: Enqueue::new(()) }
    }

    /// When nobody runs for it, the publish fails as `Unroutable`.
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// Under an id of your own, for trying again: see [`Enqueue::id`].
    pub fn id(mut self, id: JobId) -> Self {
        self.options = self.options.id(id);
        self
    }

    /// With a header: see [`Enqueue::header`].
    pub fn header(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.options = self.options.header(name, value);
        self
    }

    /// Before copies of a lower priority in the queues it reaches: see [`Enqueue::priority`].
    pub fn priority(mut self, level: u8) -> Self {
        self.options = self.options.priority(level);
        self
    }
}

impl<E: Event> Publish<E> {
    /// Encodes it, as what an enqueue takes.
    pub(crate) fn prepare(self) -> Result<Prepared, InvalidJob> {
        let Self { event, mandatory, options } = self;
        Prepared::event(E::NAME, (E::EXCHANGE, event.key(), mandatory), &event, Priority::DEFAULT, options)
    }
}

impl<E: Event> From<E> for Publish<E> {
    fn from(event: E) -> Self {
        Self::new(event)
    }
}
