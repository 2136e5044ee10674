//! The executions of a worker: which task runs which, and what each came to.
//!
//! A job has a task of its own. To start that, to wake it on another thread
//! and to wait for its end costs more than a quick job itself, so jobs of which
//! [`Quickness`] knows that they do not wait share one where several start at
//! once. Nobody waits for a neighbour there: one that waits after all is gone
//! on with by a task of its own; and where one keeps its thread, those before
//! it are taken away as they are, and those behind it have tasks of their own.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet, coop, yield_now},
    time::Instant,
};
use tracing::Instrument as _;

use crate::{
    envelope::Body,
    handler::{BoxFuture, Context, Invoked},
    outcome::{Failure, FailureKind, Outcome},
    registry::Entry,
    time::monotonic_now,
    worker::{
        execute::{Begun, Polled, Ran, begin, execute, go_on},
        quickness::{GROUP_MAX, Quickness},
        ticker::Ticker,
    },
};

/// How long a job may keep its thread while others share its task; it is looked for as often.
const PATIENCE: Duration = Duration::from_millis(5);

/// A job that is to run.
pub(super) struct Execution {
    /// What its owner knows it by.
    pub(super) key: usize,
    pub(super) entry: Arc<Entry>,
    pub(super) body: Body,
    pub(super) cx: Context,
    pub(super) span: tracing::Span,
}

/// One that runs no more.
pub(super) struct Ended {
    pub(super) key: usize,
    /// None where it was cancelled, perhaps before it began.
    pub(super) outcome: Option<Outcome>,
    /// How long it took, where that is known.
    pub(super) elapsed: Option<Duration>,
}

pub(super) struct Executions {
    /// One job each.
    alone: JoinSet<Came>,
    /// Which job a task has, in case it does not say so itself.
    keys: HashMap<Id, usize>,
    /// Several jobs each.
    groups: JoinSet<()>,
    members: HashMap<Id, Members>,
    /// Quick ones that start in this round.
    together: VecDeque<Execution>,
    quickness: Quickness,
    ended: Vec<Ended>,
    is_aborted: bool,
    runtime: Handle,
    ticker: Ticker,
}

/// An execution that came to its end.
struct Came {
    key: usize,
    /// Its type's.
    number: usize,
    ran: Ran,
}

/// How a group left one of its jobs.
enum Left {
    Came(Came),
    Waits(Waiting),
}

/// What another task must go on with.
struct Waiting {
    key: usize,
    entry: Arc<Entry>,
    call: BoxFuture<Invoked>,
    began: Instant,
    span: tracing::Span,
}

/// Those of a group, as its owner knows them.
struct Members {
    /// Those that it has still to tell of.
    keys: Vec<usize>,
    group: Arc<Group>,
}

/// Jobs that share a task.
struct Group(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    /// Not begun: whoever takes one out runs it.
    waiting: VecDeque<Execution>,
    /// Since when they run.
    began: Option<Instant>,
    /// The type of the one that does.
    running: Option<usize>,
    /// Done with, and not told yet.
    left: Vec<Left>,
}

impl Executions {
    /// None yet; they will run on that runtime.
    pub(super) fn new(runtime: Handle) -> Self {
        Self {
            alone: JoinSet::new(),
            keys: HashMap::new(),
            groups: JoinSet::new(),
            members: HashMap::new(),
            together: VecDeque::new(),
            quickness: Quickness::default(),
            ended: Vec::new(),
            is_aborted: false,
            runtime,
            ticker: Ticker::new(PATIENCE),
        }
    }

    /// Starts one: at once, or, where it is of a quick type and may share a task, when these are a group or the round ends.
    pub(super) fn start(&mut self, execution: Execution, may_share: bool) {
        if !(may_share && self.quickness.is_quick(execution.entry.number)) {
            return self.start_alone(execution);
        }
        self.together.push_back(execution);
        if self.together.len() == GROUP_MAX {
            self.end_round();
        }
    }

    /// No more start in this round.
    pub(super) fn end_round(&mut self) {
        let mut together = mem::take(&mut self.together);
        match together.len() {
            0 => {}
            1 => together.drain(..).for_each(|execution| self.start_alone(execution)),
            _ => self.start_group(together),
        }
    }

    fn start_alone(&mut self, Execution { key, entry, body, cx, span }: Execution) {
        let number = entry.number;
        let run = async move { Came { key, number, ran: execute(entry, body, cx).await } };
        let id = self.alone.spawn_on(run.instrument(span), &self.runtime).id();
        self.keys.insert(id, key);
    }

    fn start_group(&mut self, waiting: VecDeque<Execution>) {
        let keys = waiting.iter().map(|execution| execution.key).collect();
        let group = Arc::new(Group(Mutex::new(Shared { waiting, ..Shared::default() })));
        let id = self.groups.spawn_on(Arc::clone(&group).run(), &self.runtime).id();
        self.members.insert(id, Members { keys, group });
    }

    /// Goes on with one that turned out to wait.
    fn go_on_alone(&mut self, Waiting { key, entry, call, began, span }: Waiting) {
        // Before it ends: until then, others of its type would be grouped, and moved as it is.
        self.quickness.is_not_quick(entry.number);
        let run =
            async move { Came { key, number: entry.number, ran: go_on(&entry, call, began, Polled::Elsewhere).await } };
        let task = self.alone.spawn_on(run.instrument(span), &self.runtime);
        if self.is_aborted {
            task.abort();
        }
        self.keys.insert(task.id(), key);
    }

    /// Resolves when [`take_ended`](Self::take_ended) has something; never where nothing runs.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn wait(&mut self) {
        while self.ended.is_empty() {
            tokio::select! {
                // The first once in a while, so that it is not put off for ever by what ends without end.
                biased;
                () = self.ticker.tick(), if !self.groups.is_empty() => self.relieve(),
                Some(joined) = self.groups.join_next_with_id() => self.group_is_over(joined),
                Some(joined) = self.alone.join_next_with_id() => self.task_is_over(joined),
                else => pending().await,
            }
        }
    }

    /// All that have ended since it was asked last.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        while let Some(joined) = self.groups.try_join_next_with_id() {
            self.group_is_over(joined);
        }
        while let Some(joined) = self.alone.try_join_next_with_id() {
            self.task_is_over(joined);
        }
        mem::take(&mut self.ended)
    }

    /// Cancels all that run; each is told of as ended.
    pub(super) fn abort(&mut self) {
        self.is_aborted = true;
        let unbegun = self.empty_groups(|_| true);
        self.ended.extend(unbegun.into_iter().map(|Execution { key, .. }| Ended { key, outcome: None, elapsed: None }));
        self.groups.abort_all();
        self.alone.abort_all();
    }

    /// Where one keeps its thread, the others of its group have nothing to do with it any more.
    fn relieve(&mut self) {
        let is_slow = |shared: &Shared| shared.began.is_some_and(|began| began.elapsed() >= PATIENCE);
        self.empty_groups(is_slow).into_iter().for_each(|execution| self.start_alone(execution));
    }

    /// Takes everything out of these groups but what runs, and gives what nobody has begun.
    fn empty_groups(&mut self, which: impl Fn(&Shared) -> bool) -> Vec<Execution> {
        let (mut unbegun, mut left) = (Vec::new(), Vec::new());
        let Self { members, quickness, .. } = self;
        for Members { keys, group } in members.values_mut() {
            let mut shared = group.shared();
            if !which(&shared) {
                continue;
            }
            keys.retain(|key| !shared.waiting.iter().any(|execution| execution.key == *key));
            keys.retain(|key| !shared.left.iter().any(|left| left.key() == *key));
            unbegun.extend(mem::take(&mut shared.waiting));
            left.append(&mut shared.left);
            // Or it would be grouped, and keep others from their thread, until it ends.
            shared.running.into_iter().for_each(|number| quickness.is_not_quick(number));
        }
        left.into_iter().for_each(|left| self.settle(left));
        unbegun
    }

    fn settle(&mut self, left: Left) {
        match left {
            Left::Came(came) => self.came(came),
            Left::Waits(waiting) => self.go_on_alone(waiting),
        }
    }

    fn task_is_over(&mut self, joined: Result<(Id, Came), JoinError>) {
        match joined {
            Ok((id, came)) => {
                self.keys.remove(&id);
                self.came(came);
            }
            Err(error) => {
                let key = self.keys.remove(&error.id());
                self.failed(key, &error);
            }
        }
    }

    fn group_is_over(&mut self, joined: Result<(Id, ()), JoinError>) {
        let (id, error) = match joined {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(Members { mut keys, group, .. }) = self.members.remove(&id) else { return };
        let left = mem::take(&mut group.shared().left);
        keys.retain(|key| !left.iter().any(|left| left.key() == *key));
        left.into_iter().for_each(|left| self.settle(left));
        if let Some(error) = error {
            self.failed(keys, &error);
        }
    }

    fn came(&mut self, Came { key, number, ran: Ran { outcome, has_waited, elapsed } }: Came) {
        self.quickness.ended(number, has_waited, elapsed);
        self.ended.push(Ended { key, outcome: Some(outcome), elapsed: Some(elapsed) });
    }

    fn failed(&mut self, keys: impl IntoIterator<Item = usize>, error: &JoinError) {
        let outcome = || {
            // A handler's panics are caught; what is left is a panic in dropping what it has left behind.
            let failure = Failure::new(FailureKind::Panic, error.to_string());
            (!error.is_cancelled()).then_some(Outcome::Failed { failure, retry_after: None })
        };
        self.ended.extend(keys.into_iter().map(|key| Ended { key, outcome: outcome(), elapsed: None }));
    }
}

impl Drop for Executions {
    /// A task is cancelled where it waits, and a group does not: it must not begin what is given back.
    fn drop(&mut self) {
        self.members.values().for_each(|members| drop(mem::take(&mut members.group.shared().waiting)));
    }
}

impl Left {
    const fn key(&self) -> usize {
        match self {
            Self::Came(Came { key, .. }) | Self::Waits(Waiting { key, .. }) => *key,
        }
    }
}

impl Group {
    /// Runs one after the other as far as it goes without waiting.
    async fn run(self: Arc<Self>) {
        while let Some(Execution { key, entry, body, cx, span }) = self.next() {
            let (number, began) = (entry.number, monotonic_now());
            let begun = begin(&entry, body, cx).instrument(span.clone()).await;
            let left = match begun {
                Begun::Ended(outcome) => {
                    let ran = Ran { outcome, has_waited: false, elapsed: began.elapsed() };
                    Left::Came(Came { key, number, ran })
                }
                Begun::Waits(call) => Left::Waits(Waiting { key, entry, call, began, span }),
            };
            self.shared().left.push(left);
            // What tokio lets a task do before it makes it wait is for one job, not for all of these.
            if !coop::has_budget_remaining() {
                yield_now().await;
            }
        }
    }

    fn next(&self) -> Option<Execution> {
        let mut shared = self.shared();
        let next = shared.waiting.pop_front();
        shared.began.get_or_insert_with(monotonic_now);
        shared.running = next.as_ref().map(|execution| execution.entry.number);
        next
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
