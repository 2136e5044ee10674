//! The way between one client's connection and the simulated server: two pipes with delays, which can be cut.
//!
//! What is sent keeps its order in each direction, but for confirms, which may overtake each other. What was on its
//! way when the connection is cut may have been read by the other side or not.

use std::{
    any::Any,
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Inner, Process, state::State};
use crate::{
    brokers::rabbitmq::link::{LinkError, LinkErrorKind},
    time::monotonic_now,
};

/// What the client does when an answer arrives.
pub(super) type Deed = Box<dyn FnOnce() + Send>;

/// What the server does when a request arrives, and what it sends back for it.
pub(super) type Act = Box<dyn FnOnce(&mut State, Instant) -> Vec<Answer> + Send>;

/// What the server sends back.
pub(super) enum Answer {
    /// After all that was sent before.
    InOrder(Deed),
    /// A confirm, which others may overtake.
    Confirm(Deed),
    /// A confirm after all that was sent before, which has come back.
    ConfirmInOrder(Deed),
}

/// A request on its way.
pub(super) struct Frame {
    pub(super) due: Instant,
    /// A publish: the server reads none during an alarm, and nothing behind it.
    pub(super) publishes: bool,
    pub(super) act: Act,
}

/// One connection, as both sides see it.
pub(super) struct Pipes {
    pub(super) id: u64,
    frames: mpsc::UnboundedSender<Frame>,
    pub(super) gone: CancellationToken,
    why: Mutex<Option<LinkError>>,
    /// Why the server takes no publishes, if it does not.
    blocked: Mutex<Option<String>>,
    /// That has changed. Wakes those who wait in their order: a `watch` would wake them in any, and one seed would give
    /// two records.
    block_changed: Notify,
    back: Mutex<Back>,
    stirred: Notify,
    /// What the client waits for in vain, where no publish of it is confirmed any more.
    unsaid: Mutex<Option<Vec<Box<dyn Any + Send>>>>,
}

/// What is on its way to the client.
#[derive(Default)]
struct Back {
    deeds: BTreeMap<(Instant, u64), Deed>,
    count: u64,
    /// When the last that keeps its order arrives.
    last: Option<Instant>,
}

impl Pipes {
    pub(super) fn new(id: u64) -> (Arc<Self>, mpsc::UnboundedReceiver<Frame>) {
        let (frames, received) = endless();
        let wire = Self {
            id,
            frames,
            gone: CancellationToken::new(),
            why: Mutex::default(),
            blocked: Mutex::default(),
            block_changed: Notify::new(),
            back: Mutex::default(),
            stirred: Notify::new(),
            unsaid: Mutex::default(),
        };
        (Arc::new(wire), received)
    }

    /// Why there is no connection any more.
    pub(super) fn why(&self) -> LinkError {
        let why = lock(&self.why).clone();
        why.unwrap_or_else(|| LinkError::new(LinkErrorKind::Gone, "the connection ended"))
    }

    pub(super) fn end(&self, why: &str) {
        lock(&self.why).get_or_insert_with(|| LinkError::new(LinkErrorKind::Gone, why));
        self.gone.cancel();
    }

    pub(super) fn blocked(&self) -> Option<String> {
        lock(&self.blocked).clone()
    }

    /// Tells the client whether the server takes publishes.
    pub(super) fn block(&self, reason: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.blocked), reason.clone());
        if before != reason {
            self.block_changed.notify_waiters();
        }
    }

    /// Resolves when the server takes publishes that did not, or the other way round.
    pub(super) async fn blocked_changed(&self) {
        let before = self.blocked().is_some();
        loop {
            let mut changed = pin!(self.block_changed.notified());
            changed.as_mut().enable();
            if self.blocked().is_some() != before {
                return;
            }
            changed.await;
        }
    }

    /// Sends a request; lost where there is no connection any more.
    pub(super) fn send(&self, frame: Frame) {
        drop(self.frames.send(frame));
    }

    /// Sends to the client what arrives after `delay`, and after all that was sent before.
    pub(super) fn answer(&self, delay: Duration, deed: Deed) {
        let mut back = lock(&self.back);
        let due = back.last.into_iter().chain([monotonic_now() + delay]).max();
        back.last = due;
        back.insert(due.unwrap_or_else(monotonic_now), deed);
        self.stirred.notify_one();
    }

    /// The same for a confirm, which others may overtake.
    pub(super) fn confirm(&self, delay: Duration, deed: Deed) {
        let mut back = lock(&self.back);
        back.insert(monotonic_now() + delay, deed);
        self.stirred.notify_one();
    }

    /// From now on nothing that is published is confirmed.
    pub(super) fn silence(&self) {
        lock(&self.unsaid).get_or_insert_default();
    }

    pub(super) fn is_silent(&self) -> bool {
        lock(&self.unsaid).is_some()
    }

    /// Keeps what is not said until the connection is gone: who waits for it must not learn that it never comes.
    pub(super) fn keep_silent(&self, unsaid: impl Any + Send) {
        lock(&self.unsaid).get_or_insert_default().push(Box::new(unsaid));
    }

    /// Carries requests to the server until the connection is gone; then the server knows of its end.
    pub(super) async fn carry(
        self: Arc<Self>,
        server: Arc<Inner>,
        process: Arc<Process>,
        mut frames: mpsc::UnboundedReceiver<Frame>,
    ) {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.gone.cancelled() => break,
                frame = frames.recv() => frame,
            };
            let Some(Frame { due, publishes, act }) = frame else { break };
            let arrived = async {
                sleep_until(due).await;
                if publishes {
                    server.let_in(&self).await;
                }
            };
            tokio::select! {
                biased;
                () = self.gone.cancelled() => {
                    // It may have arrived all the same.
                    if server.toss() {
                        server.act(&self, publishes, act);
                    }
                    break;
                }
                () = arrived => {
                    let dies = process.step();
                    if dies.is_none_or(|acts| acts) {
                        server.act(&self, publishes, act);
                    }
                    if dies.is_some() {
                        process.dead.store(true, Ordering::SeqCst);
                        server.cut(&process);
                        break;
                    }
                }
            }
        }
        server.forget(&self);
        self.say_nothing_more();
    }

    /// Who still waits for an answer learns that there is none.
    fn say_nothing_more(&self) {
        let (deeds, unsaid) = (std::mem::take(&mut lock(&self.back).deeds), lock(&self.unsaid).take());
        drop((deeds, unsaid));
    }

    /// Carries answers to the client until the connection is gone.
    pub(super) async fn carry_back(self: Arc<Self>) {
        loop {
            let next = lock(&self.back).deeds.first_key_value().map(|((due, _), _)| *due);
            let arrives = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return self.say_nothing_more(),
                () = arrives => {
                    let deed = lock(&self.back).deeds.pop_first();
                    if let Some((_, deed)) = deed {
                        deed();
                    }
                }
                () = self.stirred.notified() => {}
            }
        }
    }
}

impl Back {
    fn insert(&mut self, due: Instant, deed: Deed) {
        self.count += 1;
        self.deeds.insert((due, self.count), deed);
    }
}

/// A channel that holds what the server may send at once, which its prefetch bounds, and what a client has written.
#[expect(clippy::disallowed_methods, reason = "what is in it is bounded by who writes, as in a socket's peer")]
pub(super) fn endless<T>() -> (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>) {
    mpsc::unbounded_channel()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
