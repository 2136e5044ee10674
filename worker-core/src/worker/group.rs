//! Jobs that share a task: each is run as far as it goes without waiting.
//!
//! What a group has done stands in its own list and not on its task's stack, so
//! that whoever started it can take everything away from it but the one that
//! runs.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::coop, time::Instant};
use tracing::Instrument as _;

use crate::{
    envelope::Body,
    handler::{BoxFuture, Context, Invoked},
    registry::Entry,
    time::monotonic_now,
    worker::execute::{Begun, Ran, begin},
};

/// A job that is to run.
pub(super) struct Execution {
    /// What its owner knows it by.
    pub(super) key: usize,
    pub(super) entry: Arc<Entry>,
    pub(super) body: Body,
    pub(super) cx: Context,
    pub(super) span: tracing::Span,
}

/// How a group left one of its jobs.
pub(super) enum Left {
    Ended(Came),
    /// It waits for something.
    Unfinished(Unfinished),
}

/// An execution that came to its end, and whose it was.
pub(super) struct Came {
    pub(super) key: usize,
    /// Its type's, where how it ended says something of that.
    pub(super) number: Option<usize>,
    pub(super) ran: Ran,
}

/// What another task must go on with.
pub(super) struct Unfinished {
    pub(super) key: usize,
    pub(super) entry: Arc<Entry>,
    pub(super) call: BoxFuture<Invoked>,
    pub(super) began: Instant,
    pub(super) span: tracing::Span,
    /// It waits only because others had used up what tokio lets a task do at once.
    pub(super) is_innocent: bool,
}

/// Jobs that share a task.
pub(super) struct Group(Mutex<Shared>);

/// Everything of a group but the one that runs.
#[derive(Default)]
struct Shared {
    /// Whoever takes one out runs it.
    unbegun: VecDeque<Execution>,
    /// Since when the group runs.
    began: Option<Instant>,
    /// The type of the one that does now.
    running: Option<usize>,
    left: Vec<Left>,
}

/// What was taken away from a group.
pub(super) struct Taken {
    pub(super) unbegun: VecDeque<Execution>,
    pub(super) left: Vec<Left>,
    /// The type of the one that it still has.
    pub(super) running: Option<usize>,
}

impl Group {
    pub(super) fn new(unbegun: VecDeque<Execution>) -> Self {
        Self(Mutex::new(Shared { unbegun, ..Shared::default() }))
    }

    /// Runs one after the other, until nobody is left or one waits: that one is to be gone on with at once, and whom it
    /// waits for may be the next of this thread, and of no other (tokio's slot for what was woken last).
    pub(super) async fn run(self: Arc<Self>) {
        while let Some(Execution { key, entry, body, cx, span }) = self.next() {
            let (number, began) = (entry.number, monotonic_now());
            let begun = begin(&entry, body, cx).instrument(span.clone()).await;
            // What tokio lets a task do at once (128 operations) is meant for one job.
            let is_spent = !coop::has_budget_remaining();
            match begun {
                Begun::Ended(outcome) => {
                    let ran = Ran { outcome, has_waited: false, elapsed: began.elapsed() };
                    self.leaves(Left::Ended(Came { key, number: Some(number), ran }));
                }
                Begun::Waits(call) => {
                    let is_innocent = is_spent;
                    return self.leaves(Left::Unfinished(Unfinished { key, entry, call, began, span, is_innocent }));
                }
            }
            if is_spent {
                return;
            }
        }
    }

    fn next(&self) -> Option<Execution> {
        let mut shared = self.shared();
        let next = shared.unbegun.pop_front();
        shared.began.get_or_insert_with(monotonic_now);
        shared.running = next.as_ref().map(|execution| execution.entry.number);
        next
    }

    fn leaves(&self, left: Left) {
        let mut shared = self.shared();
        shared.running = None;
        shared.left.push(left);
    }

    /// Whether it has run so long already.
    pub(super) fn has_run(&self, time: Duration) -> bool {
        self.shared().began.is_some_and(|began| began.elapsed() >= time)
    }

    /// Takes everything but the one that runs.
    pub(super) fn take(&self) -> Taken {
        let mut shared = self.shared();
        let (unbegun, left) = (mem::take(&mut shared.unbegun), mem::take(&mut shared.left));
        Taken { unbegun, left, running: shared.running }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Left {
    const fn key(&self) -> usize {
        match self {
            Self::Ended(Came { key, .. }) | Self::Unfinished(Unfinished { key, .. }) => *key,
        }
    }
}

impl Taken {
    /// Whether this one is no longer the group's to tell of.
    pub(super) fn has(&self, key: usize) -> bool {
        self.left.iter().any(|left| left.key() == key) || self.unbegun.iter().any(|execution| execution.key == key)
    }
}
