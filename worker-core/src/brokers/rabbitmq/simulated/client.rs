//! The seam over the simulated server: what stands in `lapin`'s place.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use lapin::types::FieldTable;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Inner, Process,
    pipes::{self, Act, Answer, Frame, Pipes},
    state::{self, ChannelId, Given, Published, State},
};
use crate::{
    brokers::rabbitmq::{
        link::{
            ANSWER_WAIT_MAX, Address, Channel, Confirmation, Declare, DeclareExchange, Depth, Dialer, Link, LinkError,
            LinkErrorKind, Purpose, Returned,
        },
        options::CONFIRM_TIMEOUT_DEFAULT,
        wire::{Incoming, Message},
    },
    time::monotonic_now,
};

/// How long an orderly end may take.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Connects one process.
pub(super) struct SimulatedDialer {
    pub(super) server: Arc<Inner>,
    pub(super) process: Arc<Process>,
}

#[async_trait]
impl Dialer for SimulatedDialer {
    async fn dial(&self, _: Purpose) -> Result<Box<dyn Link>, LinkError> {
        sleep(self.server.delay() * 2).await;
        let pipes = self.server.connect(&self.process)?;
        Ok(Box::new(SimulatedLink { server: Arc::clone(&self.server), pipes, channels: AtomicU64::new(0) }))
    }
}

struct SimulatedLink {
    server: Arc<Inner>,
    pipes: Arc<Pipes>,
    channels: AtomicU64,
}

impl Drop for SimulatedLink {
    fn drop(&mut self) {
        self.server.end(&self.pipes, "it was dropped");
    }
}

#[async_trait]
impl Link for SimulatedLink {
    async fn channel(&self) -> Result<Box<dyn Channel>, LinkError> {
        let number = self.channels.fetch_add(1, Ordering::SeqCst) + 1;
        let id = (self.pipes.id, number);
        let core = Core {
            server: Arc::clone(&self.server),
            pipes: Arc::clone(&self.pipes),
            id,
            ended: Mutex::default(),
            returned: Mutex::default(),
        };
        let channel = SimulatedChannel { core: Arc::new(core) };
        // Not kept alive by the server, which knows it for longer than its client does.
        let core = Arc::downgrade(&channel.core);
        let end = move |error: &LinkError| {
            if let Some(core) = core.upgrade() {
                core.end(error);
            }
        };
        channel.core.send(
            false,
            Box::new(move |state, _| {
                state.open(id, Arc::new(end));
                Vec::new()
            }),
        );
        channel.core.request("opening a channel", |_, _| Ok(())).await?;
        Ok(Box::new(channel))
    }

    fn channels_max(&self) -> u16 {
        2_047
    }

    fn blocked(&self) -> Option<String> {
        self.pipes.blocked()
    }

    async fn blocked_changed(&self) {
        self.pipes.blocked_changed().await;
    }

    async fn gone(&self) -> LinkError {
        self.pipes.gone.cancelled().await;
        self.pipes.why()
    }

    async fn close(&self) {
        let id = self.pipes.id;
        let (answer, answered) = oneshot::channel();
        let act = move |state: &mut State, now| {
            state.disconnect(id, now);
            vec![Answer::InOrder(Box::new(move || answer.send(()).unwrap_or_default()))]
        };
        self.server.send(&self.pipes, Frame { publishes: false, act: Box::new(act) });
        drop(timeout(CLOSE_WAIT_MAX, answered).await);
        self.server.end(&self.pipes, "it was closed");
    }
}

/// One channel, as its requests share it.
struct Core {
    server: Arc<Inner>,
    pipes: Arc<Pipes>,
    id: ChannelId,
    /// Why the server has closed it.
    ended: Mutex<Option<LinkError>>,
    /// Messages that have come back and were told to nobody yet.
    returned: Mutex<VecDeque<Returned>>,
}

/// A publish whose confirm is waited for: counted where it does not come, or too late. Whoever has sent the message
/// sends it again then, and it may be there twice.
struct Fate {
    server: Arc<Inner>,
    id: String,
    since: Instant,
    is_known: bool,
}

impl Fate {
    fn unknown(core: &Core, message: &Message) -> Self {
        let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        Self { server: Arc::clone(&core.server), id, since: monotonic_now(), is_known: false }
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        if !self.is_known {
            *self.server.lock().unknown.entry(std::mem::take(&mut self.id)).or_default() += 1;
        }
    }
}

struct SimulatedChannel {
    core: Arc<Core>,
}

impl Core {
    /// Why nothing can be asked any more, if so.
    fn check(&self) -> Result<(), LinkError> {
        if self.pipes.gone.is_cancelled() {
            return Err(self.pipes.why());
        }
        match &*self.ended.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(LinkError::new(LinkErrorKind::Gone, error.text.clone())),
            None => Ok(()),
        }
    }

    fn end(&self, error: &LinkError) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
    }

    /// What the server does with a request on this channel: a refusal closes it, which is among what it sends back.
    fn on_server<T>(
        self: &Arc<Self>,
        (state, now): (&mut State, Instant),
        act: impl FnOnce(&mut State) -> Result<T, LinkError>,
    ) -> (Result<T, LinkError>, Vec<Answer>) {
        if !state.is_open(self.id) {
            return (Err(LinkError::new(LinkErrorKind::Gone, "the channel is closed")), Vec::new());
        }
        let told = act(state);
        let mut answers = Vec::new();
        if let Err(error) = &told {
            state.close(self.id, now);
            let (core, error) = (Arc::clone(self), error.clone());
            answers.push(Answer::InOrder(Box::new(move || core.end(&error))));
        }
        (told, answers)
    }

    /// Asks, and waits for the answer.
    async fn request<T: Send + 'static>(
        self: &Arc<Self>,
        what: &str,
        act: impl FnOnce(&mut State, Instant) -> Result<T, LinkError> + Send + 'static,
    ) -> Result<T, LinkError> {
        self.check()?;
        let (answer, answered) = oneshot::channel();
        let core = Arc::clone(self);
        let frame = move |state: &mut State, now| {
            let (told, mut answers) = core.on_server((state, now), |state| act(state, now));
            answers.push(Answer::InOrder(Box::new(move || drop(answer.send(told)))));
            answers
        };
        self.send(false, Box::new(frame));
        match timeout(ANSWER_WAIT_MAX, answered).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(self.pipes.why()),
            Err(_) => Err(LinkError::no_answer(what)),
        }
    }

    /// Tells, without an answer.
    fn tell(
        self: &Arc<Self>,
        act: impl FnOnce(&mut State, Instant) -> Result<(), LinkError> + Send + 'static,
    ) -> Result<(), LinkError> {
        self.check()?;
        let core = Arc::clone(self);
        self.send(false, Box::new(move |state, now| core.on_server((state, now), |state| act(state, now)).1));
        Ok(())
    }

    fn send(&self, publishes: bool, act: Act) {
        self.server.send(&self.pipes, Frame { publishes, act });
    }

    /// What comes in on `given`, until it was cancelled or the channel is over.
    fn incoming(self: &Arc<Self>, given: mpsc::UnboundedReceiver<Given>) -> Deliveries {
        let start = Some((given, Arc::clone(self)));
        stream::unfold(start, |open| async move {
            let (mut given, core) = open?;
            match given.recv().await {
                Some(Given::Delivery(incoming)) => Some((Ok(*incoming), Some((given, core)))),
                Some(Given::Cancelled) => None,
                None => {
                    let gone = LinkError::new(LinkErrorKind::Gone, "the channel is over");
                    Some((Err(core.check().err().unwrap_or(gone)), None))
                }
            }
        })
        .boxed()
    }

    fn published(
        self: &Arc<Self>,
        to: &Address,
        message: Message,
    ) -> oneshot::Receiver<Result<Confirmation, LinkError>> {
        let (answer, answered) = oneshot::channel();
        let (core, to) = (Arc::clone(self), to.clone());
        let frame = move |state: &mut State, now| {
            let back = state::returned(&to, &message);
            let publish = |state: &mut State| state.publish(core.id, &to, message, now);
            let (published, mut answers) = core.on_server((state, now), publish);
            let confirming = Arc::clone(&core);
            let confirm = move |told: Result<Published, LinkError>| {
                // As `lapin` does: a return is told with whichever confirm comes next.
                let told = told.map(|told| Confirmation { taken: told.taken, returned: confirming.take_returned() });
                drop(answer.send(told));
            };
            match published {
                Ok(Published { routed: false, .. }) if to.mandatory => {
                    answers.push(Answer::InOrder(Box::new(move || core.keep(back))));
                    answers.push(Answer::ConfirmInOrder(Box::new(move || confirm(published))));
                }
                Ok(Published { told: false, .. }) => answers.push(Answer::Unsaid(Box::new(move || confirm(published)))),
                Ok(_) => answers.push(Answer::Confirm(Box::new(move || confirm(published)))),
                Err(_) => answers.push(Answer::InOrder(Box::new(move || confirm(published)))),
            }
            answers
        };
        self.send(true, Box::new(frame));
        answered
    }

    fn keep(&self, returned: Returned) {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).push_back(returned);
    }

    fn take_returned(&self) -> Option<Returned> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

type Deliveries = BoxStream<'static, Result<Incoming, LinkError>>;

#[async_trait]
impl Channel for SimulatedChannel {
    async fn confirm_select(&self) -> Result<(), LinkError> {
        self.core.request("confirm.select", |_, _| Ok(())).await
    }

    async fn declare(&self, queue: &str, how: Declare) -> Result<Depth, LinkError> {
        let (id, name) = (self.core.id, queue.to_owned());
        let declared = self.core.request("declaring a queue", move |state, _| state.declare(id, &name, how));
        declared.await
    }

    async fn delete(&self, queue: &str) -> Result<(), LinkError> {
        let name = queue.to_owned();
        let deleted = self.core.request("deleting a queue", move |state, _| {
            state.delete(&name);
            Ok(())
        });
        deleted.await
    }

    async fn declare_exchange(&self, exchange: &str, how: DeclareExchange) -> Result<(), LinkError> {
        let name = exchange.to_owned();
        let declared = self.core.request("declaring an exchange", move |state, _| state.declare_exchange(&name, how));
        declared.await
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> Result<(), LinkError> {
        let (queue, exchange, key) = (queue.to_owned(), exchange.to_owned(), key.to_owned());
        let bound =
            self.core.request("binding a queue", move |state, _| state.bind(&queue, &exchange, &key, &arguments));
        bound.await
    }

    fn publish(&self, to: &Address, message: &Message) -> BoxFuture<'static, Result<Confirmation, LinkError>> {
        let (core, to, message) = (Arc::clone(&self.core), to.clone(), message.clone());
        async move {
            core.check()?;
            let mut fate = Fate::unknown(&core, &message);
            // Written now, at the first poll.
            let answered = core.published(&to, message);
            match answered.await {
                Ok(told) => {
                    fate.is_known = told.is_ok() && fate.since.elapsed() < CONFIRM_TIMEOUT_DEFAULT;
                    told
                }
                Err(_) => Err(core.check().err().unwrap_or_else(|| core.pipes.why())),
            }
        }
        .boxed()
    }

    async fn consume(
        &self,
        queue: &str,
        tag: &str,
        prefetch: u16,
        hold: Option<Duration>,
    ) -> Result<Deliveries, LinkError> {
        let (id, name, tag) = (self.core.id, queue.to_owned(), tag.to_owned());
        let (way, given) = pipes::endless();
        let consuming = self
            .core
            .request("consuming a queue", move |state, _| state.consume(id, &name, &tag, (prefetch.into(), hold), way));
        consuming.await?;
        Ok(self.core.incoming(given))
    }

    async fn replies(&self) -> Result<Deliveries, LinkError> {
        let id = self.core.id;
        let (way, given) = pipes::endless();
        let consuming = self.core.request("consuming replies", move |state, _| {
            state.replies(id, way);
            Ok(())
        });
        consuming.await?;
        Ok(self.core.incoming(given))
    }

    async fn cancel(&self, tag: &str) -> Result<(), LinkError> {
        let (id, tag) = (self.core.id, tag.to_owned());
        let cancelled = self.core.request("basic.cancel", move |state, _| {
            state.cancel(id, &tag);
            Ok(())
        });
        cancelled.await
    }

    async fn get(&self, queue: &str) -> Result<Option<(Incoming, u32)>, LinkError> {
        let (id, name) = (self.core.id, queue.to_owned());
        self.core.request("reading a queue", move |state, now| state.get(id, &name, now)).await
    }

    async fn ack(&self, tag: u64, multiple: bool) -> Result<(), LinkError> {
        let id = self.core.id;
        self.core.tell(move |state, _| state.ack(id, tag, multiple))
    }

    async fn requeue(&self, tag: u64, multiple: bool) -> Result<(), LinkError> {
        let id = self.core.id;
        self.core.tell(move |state, now| state.requeue(id, tag, multiple, now))
    }

    fn barrier(&self) -> BoxFuture<'static, Result<(), LinkError>> {
        let core = Arc::clone(&self.core);
        async move { core.request("basic.qos", |_, _| Ok(())).await }.boxed()
    }

    async fn close(&self) {
        let id = self.core.id;
        let closed = self.core.request("closing a channel", move |state, now| {
            state.close(id, now);
            Ok(())
        });
        drop(timeout(CLOSE_WAIT_MAX, closed).await);
        self.core.end(&LinkError::new(LinkErrorKind::Gone, "it was closed"));
    }
}
