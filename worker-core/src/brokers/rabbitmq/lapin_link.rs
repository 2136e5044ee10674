//! The seam over `lapin`: AMQP's requests, each with a limit of time.
//!
//! Without `lapin`'s own recovery: with it, a channel that the server closed
//! stays silent for ever (14 of 14 runs on 4.12.3), and a restart cannot be seen.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use lapin::{
    Channel as LapinChannel, Confirmation as LapinConfirmation, Connection, ConnectionProperties, ErrorKind, Event,
    ExchangeKind as LapinExchangeKind,
    message::{BasicReturnMessage, Delivery},
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
        BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable, ShortString},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    brokers::rabbitmq::{
        handshake,
        link::{
            ANSWER_WAIT_MAX, Address, Channel, Confirmation, DIRECT_REPLY_TO, Declare, DeclareExchange, Depth, Dialer,
            Link, LinkError, LinkErrorKind, Purpose, Returned,
        },
        options::RabbitOptions,
        tls,
        version::Server,
        wire::{self, Incoming, Message},
    },
    exchange::ExchangeKind,
    telemetry::TARGET,
};

/// How long a connection or channel may take to close in an orderly way.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the server lets a consumer hold a delivery: an argument of consuming from 4.3 on, ignored before
/// (measured on 3.10).
pub(super) const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";

/// How often a connection is looked at that tells nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Dials a server's nodes in turn.
pub(super) struct LapinDialer {
    options: RabbitOptions,
    next: AtomicUsize,
    /// The runtime of `lapin`'s own tasks: heartbeats go on while handlers block the application's.
    runtime: Handle,
}

impl LapinDialer {
    pub(super) fn new(options: RabbitOptions, runtime: Handle) -> Self {
        Self { options, next: AtomicUsize::new(0), runtime }
    }

    fn uri(&self) -> AMQPUri {
        let hosts = &self.options.hosts;
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % hosts.len().max(1);
        let (host, port) = hosts.get(turn).cloned().unwrap_or_else(|| ("localhost".into(), 5672));
        let credentials = &self.options.credentials;
        AMQPUri {
            scheme: if self.options.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            // Not through text: an IPv6 address in a URL becomes `localhost` there (4.12.3).
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username: credentials.user.clone(), password: credentials.password.clone() },
                host,
                port,
            },
            vhost: self.options.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.options.heartbeat.as_secs().clamp(1, 600) as u16),
                ..AMQPQueryString::default()
            },
        }
    }

    fn tls(&self) -> OwnedTLSConfig {
        tls::owned(self.options.tls.as_ref())
    }

    fn server_name(&self) -> Option<String> {
        self.options.tls.as_ref()?.server_name.clone()
    }

    /// Asks a node what it is.
    pub(super) async fn introduce(&self) -> Result<Server, LinkError> {
        let (uri, tls, name) = (self.uri(), self.tls(), self.server_name());
        let what = node(&uri);
        let asked = self.runtime.spawn(async move { handshake::introduce(&uri, &tls, name.as_deref()).await });
        match timeout(ANSWER_WAIT_MAX, AbortOnDropHandle::new(asked)).await {
            Ok(Ok(Ok(server))) => Ok(server),
            Ok(Ok(Err(error))) => Err(LinkError { text: format!("{what}: {error}"), ..error }),
            Ok(Err(panicked)) => Err(LinkError::new(LinkErrorKind::Gone, format!("{what}: {panicked}"))),
            Err(_) => Err(LinkError::no_answer(&what)),
        }
    }
}

/// A node as text, without credentials.
fn node(uri: &AMQPUri) -> String {
    let host = &uri.authority.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("RabbitMQ at {host}:{}", uri.authority.port)
}

#[async_trait]
impl Dialer for LapinDialer {
    async fn dial(&self, purpose: Purpose) -> Result<Box<dyn Link>, LinkError> {
        let uri = self.uri();
        let what = node(&uri);
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", self.options.app_id).into())
            .with_client_property("product".into(), "worker".into());
        let runtime = async_rs::Runtime::tokio_with_handle(self.runtime.clone());
        let (tls, name) = (self.tls(), self.server_name());
        let opening = async move |uri: AMQPUri, runtime: async_rs::Runtime<_>| {
            let opened = tls::open(&uri, &tls, name.as_deref(), &runtime).await;
            opened.map_err(lapin::Error::from)
        };
        let connecting = Connection::connector(uri, runtime, opening, properties);
        // A peer that accepts and stays silent would hang this for ever.
        let connected = timeout(ANSWER_WAIT_MAX, connecting).await;
        let connection = connected.map_err(|_| LinkError::no_answer(&what))?.map_err(|error| {
            let error = LinkError::from(error);
            LinkError { text: format!("{what}: {error}"), ..error }
        })?;
        Ok(Box::new(LapinLink::new(connection, &self.runtime)))
    }
}

struct LapinLink {
    connection: Connection,
    state: watch::Receiver<State>,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Default)]
struct State {
    blocked: Option<String>,
    gone: Option<LinkError>,
}

impl LapinLink {
    fn new(connection: Connection, runtime: &Handle) -> Self {
        let (sender, state) = watch::channel(State::default());
        // One listener: several would share the events, not each see all.
        let mut events = Box::pin(connection.events_listener());
        let status = connection.status().clone();
        let listening = runtime.spawn(async move {
            loop {
                // An end that no event tells of is noticed all the same.
                let event = timeout(LOOK_EVERY, events.next()).await.ok().flatten();
                let is_over = status.errored() || status.closed();
                sender.send_if_modified(|state| match event {
                    Some(Event::ConnectionBlocked(reason)) => state.blocked.replace(reason).is_none(),
                    Some(Event::ConnectionUnblocked) => state.blocked.take().is_some(),
                    // Errors of channels are told here too, and are their channels' matter.
                    Some(Event::Error(error)) if is_over => state.gone.replace(error.into()).is_none(),
                    _ if is_over && state.gone.is_none() => {
                        state.gone = Some(LinkError::new(LinkErrorKind::Gone, "the connection ended"));
                        true
                    }
                    _ => false,
                });
                if is_over {
                    return;
                }
            }
        });
        Self { connection, state, _listening: AbortOnDropHandle::new(listening) }
    }
}

impl LapinLink {
    fn is_alive(&self) -> bool {
        self.connection.status().connected() && self.state.borrow().gone.is_none()
    }
}

#[async_trait]
impl Link for LapinLink {
    async fn channel(&self) -> Result<Box<dyn Channel>, LinkError> {
        let opening = async {
            loop {
                match self.connection.create_channel().await {
                    // A number that the server has closed a channel of keeps that channel's error, and opening it
                    // again fails with it (4.12.3), without a word to the server: the next one may do.
                    Err(error) if matches!(error.kind(), ErrorKind::ProtocolError(_)) && self.is_alive() => {}
                    opened => return opened,
                }
            }
        };
        match timeout(ANSWER_WAIT_MAX, opening).await {
            Ok(Ok(channel)) => Ok(Box::new(LapinLinkChannel { channel })),
            Ok(Err(error)) => {
                // Then all 2,047 are in use, or were closed by the server: such a connection is of no more use.
                if matches!(error.kind(), ErrorKind::ChannelsLimitReached) {
                    tracing::warn!(target: TARGET, %error, "a connection has no more channels; making a new one");
                    self.close().await;
                }
                let why = LinkError::from(error);
                Err(LinkError::new(LinkErrorKind::Gone, format!("no channel could be opened; connecting anew: {why}")))
            }
            Err(_) => Err(LinkError::no_answer("opening a channel")),
        }
    }

    fn channels_max(&self) -> u16 {
        self.connection.configuration().channel_max()
    }

    fn blocked(&self) -> Option<String> {
        self.state.borrow().blocked.clone()
    }

    async fn blocked_changed(&self) {
        let mut state = self.state.clone();
        let before = state.borrow_and_update().blocked.is_some();
        if state.wait_for(|state| state.blocked.is_some() != before).await.is_err() {
            std::future::pending().await
        }
    }

    async fn gone(&self) -> LinkError {
        let mut state = self.state.clone();
        let gone = state.wait_for(|state| state.gone.is_some()).await.ok().and_then(|state| state.gone.clone());
        gone.unwrap_or_else(|| LinkError::new(LinkErrorKind::Gone, "the connection ended"))
    }

    async fn close(&self) {
        // While the server takes no messages, `lapin` writes nothing and this would not end.
        drop(timeout(CLOSE_WAIT_MAX, self.connection.close(200, "done".into())).await);
    }
}

/// The argument of streams by which a queue of another kind is compared and not made.
pub(super) const GUARD: &str = "x-max-age";

/// The same for exchanges.
pub(super) const GUARD_EXCHANGE: &str = "alternate-exchange";

struct LapinLinkChannel {
    channel: LapinChannel,
}

#[async_trait]
impl Channel for LapinLinkChannel {
    async fn confirm_select(&self) -> Result<(), LinkError> {
        answer("confirm.select", self.channel.confirm_select(ConfirmSelectOptions::default())).await
    }

    async fn declare(&self, queue: &str, how: Declare) -> Result<Depth, LinkError> {
        let (options, arguments) = match how {
            Declare::Passive => {
                (QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }, FieldTable::default())
            }
            Declare::Durable(arguments) => {
                (QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }, arguments)
            }
            Declare::Compared(mut arguments) => {
                // Of no kind of queue of ours, so that it is compared with nothing, and no value of it: a queue
                // that is not there is refused, where it would be made (measured on 3.10 and 4.3).
                arguments.insert(GUARD.into(), AMQPValue::LongString("never".into()));
                (QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }, arguments)
            }
            Declare::Exclusive => {
                let options =
                    QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
                (options, FieldTable::default())
            }
        };
        let declared = self.channel.queue_declare(short(queue)?, options, arguments);
        let found = answer(&format!("declaring queue `{queue}`"), declared).await?;
        Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
    }

    async fn delete(&self, queue: &str) -> Result<(), LinkError> {
        let deleted = self.channel.queue_delete(short(queue)?, QueueDeleteOptions::default());
        answer(&format!("deleting queue `{queue}`"), deleted).await.map(drop)
    }

    async fn declare_exchange(&self, exchange: &str, how: DeclareExchange) -> Result<(), LinkError> {
        let mut arguments = FieldTable::default();
        let (passive, kind) = match how {
            // Where it is only looked for, the kind is not looked at.
            DeclareExchange::Passive => (true, ExchangeKind::Direct),
            DeclareExchange::Durable(kind) => (false, kind),
            DeclareExchange::Compared(kind) => {
                // Not of its type, and compared last: whatever is or is not there, it is refused.
                arguments.insert(GUARD_EXCHANGE.into(), AMQPValue::LongInt(1));
                (false, kind)
            }
        };
        let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        let kind = LapinExchangeKind::Custom(kind.as_str().into());
        let declared = self.channel.exchange_declare(short(exchange)?, kind, options, arguments);
        answer(&format!("declaring exchange `{exchange}`"), declared).await
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> Result<(), LinkError> {
        let options = QueueBindOptions::default();
        let bound = self.channel.queue_bind(short(queue)?, short(exchange)?, short(key)?, options, arguments);
        answer(&format!("binding queue `{queue}` to exchange `{exchange}`"), bound).await
    }

    fn publish(&self, to: &Address, message: &Message) -> BoxFuture<'static, Result<Confirmation, LinkError>> {
        let (channel, exchange, key) = (self.channel.clone(), short(&to.exchange), short(&to.key));
        let (mandatory, message) = (to.mandatory, message.clone());
        async move {
            let options = BasicPublishOptions { mandatory, immediate: false };
            let Message { properties, body } = message;
            let confirm = channel.basic_publish(exchange?, key?, options, &body, properties).await?.await?;
            Ok(match confirm {
                LapinConfirmation::Ack(returned) => Confirmation { taken: true, returned: returned.map(Into::into) },
                LapinConfirmation::Nack(returned) => Confirmation { taken: false, returned: returned.map(Into::into) },
                LapinConfirmation::NotRequested => {
                    return Err(LinkError::new(LinkErrorKind::Gone, "the channel is not in confirm mode"));
                }
            })
        }
        .boxed()
    }

    async fn consume(
        &self,
        queue: &str,
        tag: &str,
        prefetch: u16,
        hold: Option<Duration>,
    ) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError> {
        // Before consuming: without it the server sends everything it has.
        answer("basic.qos", self.channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let (options, mut arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        if let Some(hold) = hold {
            let ms = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
            arguments.insert(CONSUMER_TIMEOUT.into(), AMQPValue::LongLongInt(ms));
        }
        let consuming = self.channel.basic_consume(short(queue)?, short(tag)?, options, arguments);
        let consumer = answer(&format!("consuming queue `{queue}`"), consuming).await?;
        Ok(consumer.map(|delivery| delivery.map(delivered).map_err(Into::into)).boxed())
    }

    async fn replies(&self) -> Result<BoxStream<'static, Result<Incoming, LinkError>>, LinkError> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = self.channel.basic_consume(DIRECT_REPLY_TO.into(), "".into(), options, FieldTable::default());
        let consumer = answer("consuming replies", consuming).await?;
        Ok(consumer.map(|delivery| delivery.map(Into::into).map_err(Into::into)).boxed())
    }

    async fn cancel(&self, tag: &str) -> Result<(), LinkError> {
        answer("basic.cancel", self.channel.basic_cancel(short(tag)?, BasicCancelOptions::default())).await
    }

    async fn get(&self, queue: &str) -> Result<Option<(Incoming, u32)>, LinkError> {
        let got = self.channel.basic_get(short(queue)?, BasicGetOptions::default());
        let got = answer(&format!("reading queue `{queue}`"), got).await?;
        Ok(got.map(|message| (message.delivery.into(), message.message_count)))
    }

    async fn ack(&self, tag: u64, multiple: bool) -> Result<(), LinkError> {
        answer("basic.ack", self.channel.basic_ack(tag, BasicAckOptions { multiple })).await
    }

    async fn requeue(&self, tag: u64, multiple: bool) -> Result<(), LinkError> {
        answer("basic.nack", self.channel.basic_nack(tag, BasicNackOptions { multiple, requeue: true })).await
    }

    fn barrier(&self) -> BoxFuture<'static, Result<(), LinkError>> {
        let channel = self.channel.clone();
        // A channel's requests are answered in their order. This one changes nothing: it
        // concerns consumers that are yet to come.
        async move { answer("basic.qos", channel.basic_qos(1, BasicQosOptions::default())).await }.boxed()
    }

    async fn close(&self) {
        drop(timeout(CLOSE_WAIT_MAX, self.channel.close(200, "done".into())).await);
    }
}

/// The answer to a request, or that there was none.
async fn answer<T>(what: &str, request: impl Future<Output = lapin::Result<T>>) -> Result<T, LinkError> {
    match timeout(ANSWER_WAIT_MAX, request).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(LinkError::no_answer(what)),
    }
}

/// `lapin` panics on what is longer.
fn short(text: &str) -> Result<ShortString, LinkError> {
    ShortString::try_new(text)
        .map_err(|_| LinkError::new(LinkErrorKind::Mismatch, format!("`{text}` is longer than AMQP's 255 bytes")))
}

/// A delivery of a queue of jobs: it says by which exchange it came.
fn delivered(delivery: Delivery) -> Incoming {
    let Delivery { delivery_tag: tag, redelivered, properties, data, exchange, routing_key, .. } = delivery;
    let message = Message { properties, body: Bytes::from(data) };
    Incoming { tag, redelivered, message: wire::came_by(message, exchange.as_str(), routing_key.as_str()) }
}

impl From<Delivery> for Incoming {
    fn from(delivery: Delivery) -> Self {
        let Delivery { delivery_tag: tag, redelivered, properties, data, .. } = delivery;
        Self { tag, redelivered, message: Message { properties, body: Bytes::from(data) } }
    }
}

impl From<BasicReturnMessage> for Returned {
    fn from(returned: BasicReturnMessage) -> Self {
        let delivery = returned.delivery;
        let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        Self { exchange: delivery.exchange.to_string(), key: delivery.routing_key.to_string(), message_id }
    }
}

impl From<lapin::Error> for LinkError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(told) => {
                let kind = match told.get_id() {
                    403 => LinkErrorKind::Refused,
                    404 => LinkErrorKind::NotFound,
                    405 => LinkErrorKind::Locked,
                    406 | 540 => LinkErrorKind::Mismatch,
                    530 => LinkErrorKind::Hopeless,
                    _ => LinkErrorKind::Gone,
                };
                Self::new(kind, told.get_message().to_string())
            }
            ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_) => {
                Self::new(LinkErrorKind::Hopeless, error.to_string())
            }
            ErrorKind::IOError(cause) => tls::explain(cause, tls::PLAIN_AMQP)
                .unwrap_or_else(|| Self::new(LinkErrorKind::Gone, cause.to_string())),
            // Not for a new try at once: the message is still there, and each try is counted against its neighbours.
            ErrorKind::ParsingError(_) => Self::new(
                LinkErrorKind::Hopeless,
                format!(
                    "{error}: a message has a property or a header's name that is not UTF-8; take it out of its queue by other means"
                ),
            ),
            ErrorKind::MissingHeartbeatError => Self::new(LinkErrorKind::Gone, "the server shows no sign of life"),
            _ => Self::new(LinkErrorKind::Gone, error.to_string()),
        }
    }
}
