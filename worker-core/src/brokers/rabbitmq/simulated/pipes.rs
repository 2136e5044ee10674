//! The way between one client's connection and the simulated server: two pipes with delays, which can be cut.
//!
//! What is sent keeps its order in each direction, but for confirms, which may overtake each other. What was on its
//! way when the connection is cut may have been read by the other side or not.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Process, state::State};
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
    /// A confirm that never comes.
    Unsaid(Deed),
}

/// A request on its way.
pub(super) struct Frame {
    /// A publish: the server reads none during an alarm, and nothing behind it.
    pub(super) publishes: bool,
    pub(super) act: Act,
}

/// One connection, as its client sees it.
pub(super) struct Pipes {
    pub(super) id: u64,
    pub(super) process: Arc<Process>,
    pub(super) gone: CancellationToken,
    why: Mutex<Option<LinkError>>,
    /// Why the server takes no publishes, if it does not.
    blocked: Mutex<Option<String>>,
    /// That has changed. Wakes those who wait in their order: a `watch` would wake them in any, and one seed would give
    /// two records.
    block_changed: Notify,
}

impl Pipes {
    pub(super) fn new(id: u64, process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self {
            id,
            process,
            gone: CancellationToken::new(),
            why: Mutex::default(),
            blocked: Mutex::default(),
            block_changed: Notify::new(),
        })
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
    pub(super) fn block(&self, reason: Option<&str>) {
        let mut blocked = lock(&self.blocked);
        if blocked.is_some() != reason.is_some() {
            *blocked = reason.map(str::to_owned);
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
}

/// One connection, as the server sees it.
pub(super) struct Connected {
    pub(super) pipes: Arc<Pipes>,
    /// Read, and not acted by until the alarm is over: a publish, and what came behind it.
    pub(super) held: VecDeque<Frame>,
    /// When the last request arrives, and the last answer that keeps its order.
    last: (Option<Instant>, Option<Instant>),
    /// Whether no publish of it is confirmed any more.
    is_silent: bool,
    /// What the client waits for in vain.
    unsaid: Vec<Box<dyn Any + Send>>,
}

impl Connected {
    pub(super) const fn new(pipes: Arc<Pipes>) -> Self {
        Self { pipes, held: VecDeque::new(), last: (None, None), is_silent: false, unsaid: Vec::new() }
    }

    /// When a request arrives that is sent now and takes so long.
    pub(super) fn request_arrives(&mut self, delay: Duration) -> Instant {
        after(&mut self.last.0, delay)
    }

    /// The same for an answer.
    pub(super) fn answer_arrives(&mut self, delay: Duration) -> Instant {
        after(&mut self.last.1, delay)
    }

    /// From now on nothing that is published is confirmed.
    pub(super) const fn silence(&mut self) {
        self.is_silent = true;
    }

    pub(super) const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// What was not said.
    pub(super) fn unsaid(self) -> Vec<Box<dyn Any + Send>> {
        self.unsaid
    }

    /// Keeps what is not said until the connection is gone: who waits for it must not learn that it never comes.
    pub(super) fn leave_unsaid(&mut self, unsaid: impl Any + Send) {
        self.unsaid.push(Box::new(unsaid));
    }
}

/// Not before the last one.
fn after(last: &mut Option<Instant>, delay: Duration) -> Instant {
    let due = monotonic_now() + delay;
    let due = last.map_or(due, |last| last.max(due));
    *last = Some(due);
    due
}

/// Something that happens at the other end of a connection.
pub(super) enum Arrival {
    Request(Frame),
    Answer(Deed),
    /// The alarm is over: what was held is acted by.
    Resume,
    /// The connection is over; whether the next request may have arrived all the same.
    End {
        may_arrive: bool,
    },
}

/// All that is on its way, by when it arrives and in the order in which it was sent.
#[derive(Default)]
pub(super) struct Timeline {
    arrivals: BTreeMap<(Instant, u64), (u64, Arrival)>,
    sent: u64,
}

impl Timeline {
    pub(super) fn put(&mut self, due: Instant, connection: u64, arrival: Arrival) {
        self.sent += 1;
        self.arrivals.insert((due, self.sent), (connection, arrival));
    }

    /// When the next arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.arrivals.first_key_value().map(|((due, _), _)| *due)
    }

    /// What has arrived by now, the first of it.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Arrival)> {
        let first = self.arrivals.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// All of one connection, in order.
    pub(super) fn take_all(&mut self, connection: u64) -> Vec<Arrival> {
        let of_it = self.arrivals.iter().filter(|(_, (of, _))| *of == connection).map(|(place, _)| *place);
        let places: Vec<_> = of_it.collect();
        places.iter().filter_map(|place| self.arrivals.remove(place)).map(|(_, arrival)| arrival).collect()
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
