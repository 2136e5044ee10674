//! Publishing events: to their exchange, which is declared at first.

use std::{future::Future, sync::PoisonError};

use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use crate::{
    broker::Topology,
    client::{Client, Enqueued},
    envelope::Route,
    error::{BrokerError, EnqueueError, EnqueueFailure},
    event::{Event, Publish},
    exchange::ExchangeKind,
    job::{InvalidJob, Prepared},
    name::ExchangeName,
};

impl Client {
    /// Publishes an event to its exchange: a copy for each job that runs for it. `Ok` means that the broker has
    /// each copy, also where there is none.
    ///
    /// The exchange is declared when this client first publishes to it. See [`Event`].
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue); `Unroutable` only where it was [mandatory](Publish::mandatory).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: after dropping the future the event may or may not be published.
    pub async fn publish<E: Event>(&self, event: impl Into<Publish<E>>) -> Result<Enqueued, EnqueueError> {
        let mut answers = self.publish_prepared(E::KIND, vec![event.into().prepare()]).await;
        answers.swap_remove(0)
    }

    /// Publishes many events of one type, with an answer for each, in their order.
    ///
    /// They are encoded before the first wait and are pipelined, as [`enqueue_all`](Self::enqueue_all) does it.
    /// Not all or nothing: one that is refused costs its neighbours nothing.
    ///
    /// # Errors
    ///
    /// Per event, as [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: after dropping the future any of the events may be published.
    ///
    /// # Examples
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use worker_core::{Client, Publish, prelude::*};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(exchange = "events", key = "order.placed")]
    /// # struct OrderPlaced { order_id: u64 }
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let events = (0..1_000).map(|order_id| Publish::new(OrderPlaced { order_id }).mandatory());
    /// for answer in client.publish_all(events).await {
    ///     answer?;
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn publish_all<E, I>(
        &self,
        events: I,
    ) -> impl Future<Output = Vec<Result<Enqueued, EnqueueError>>> + Send + use<E, I>
    where
        E: Event,
        I: IntoIterator<Item: Into<Publish<E>>>,
    {
        let prepared: Vec<_> = events.into_iter().map(|event| event.into().prepare()).collect();
        let client = self.clone();
        async move { client.publish_prepared(E::KIND, prepared).await }
    }

    /// Publishes events of one exchange, which is declared where this client does not know it.
    async fn publish_prepared(
        &self,
        kind: ExchangeKind,
        events: Vec<Result<Prepared, InvalidJob>>,
    ) -> Vec<Result<Enqueued, EnqueueError>> {
        let exchange = events.iter().flatten().find_map(|event| match event.route() {
            Route::Exchange { name, .. } => Some(name.clone()),
            Route::Queue(_) => None,
        });
        let known = || self.inner.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = exchange.as_ref().filter(|name| !known().contains(*name))
            && let Err(error) = self.declare_exchange(name, kind).await
        {
            let refused = |event: Result<Prepared, InvalidJob>| {
                Err(EnqueueError::from_failure(event?, EnqueueFailure::Refused(error.copy())))
            };
            return events.into_iter().map(refused).collect();
        }
        let published: Vec<_> = self.enqueue_stream(stream::iter(events)).collect().await;
        if let Some(name) = exchange.filter(|_| published.iter().any(Result::is_err)) {
            // It may be gone: whoever tries again has it declared again.
            known().remove(&name);
        }
        published
    }

    /// Declares the exchange of an event, in time; of many that need it at once one does.
    async fn declare_exchange(&self, name: &ExchangeName, kind: ExchangeKind) -> Result<(), BrokerError> {
        let known = || self.inner.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let declaring = async {
            let _turn = self.inner.exchanges_turn.lock().await;
            if !known().contains(name) {
                self.declare(&Topology::default().exchange(name.clone(), kind)).await?;
                known().insert(name.clone());
            }
            Ok(())
        };
        timeout(self.inner.options.enqueue_timeout, declaring).await.unwrap_or_else(|_| Err(self.no_answer()))
    }
}
