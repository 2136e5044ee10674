//! The executions of a worker: which task runs which, and what each came to.
//!
//! A job has a task of its own. To start that, to wake it on another thread
//! and to wait for its end costs more than a quick job itself, so jobs of which
//! [`Quickness`] knows that they do not wait share one where several start at
//! once. Nobody waits for a neighbour there: one that waits after all is gone
//! on with by a task of its own, and so are those behind one that keeps its
//! thread.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tracing::Instrument as _;

use crate::{
    envelope::Body,
    handler::{BoxFuture, Context, Invoked},
    outcome::{Failure, FailureKind, Outcome},
    registry::Entry,
    time::monotonic_now,
    worker::{
        execute::{Begun, Ran, begin, execute, go_on},
        quickness::{Quickness, group_size},
    },
};

/// How long those behind a job that keeps its thread wait until they have tasks of their own; it is looked for as often.
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
    groups: JoinSet<Vec<Left>>,
    members: HashMap<Id, Members>,
    /// Quick ones that start in this round.
    together: Vec<Execution>,
    quickness: Quickness,
    ended: Vec<Ended>,
    is_aborted: bool,
    runtime: Handle,
    ticks: Interval,
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
    spent: Duration,
    span: tracing::Span,
}

/// Those of a group, as its owner knows them.
struct Members {
    keys: Vec<usize>,
    since: Instant,
    group: Arc<Group>,
}

/// Jobs that share a task: whoever takes one out runs it.
struct Group(Mutex<VecDeque<Execution>>);

impl Executions {
    /// None yet; they will run on that runtime.
    pub(super) fn new(runtime: Handle) -> Self {
        let mut ticks = interval(PATIENCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            alone: JoinSet::new(),
            keys: HashMap::new(),
            groups: JoinSet::new(),
            members: HashMap::new(),
            together: Vec::new(),
            quickness: Quickness::default(),
            ended: Vec::new(),
            is_aborted: false,
            runtime,
            ticks,
        }
    }

    /// Starts one, now or at the end of this round: with others, where it is of a quick type and may share a task.
    pub(super) fn start(&mut self, execution: Execution, may_share: bool) {
        if may_share && self.quickness.is_quick(execution.entry.number) {
            self.together.push(execution);
        } else {
            self.start_alone(execution);
        }
    }

    /// No more start in this round.
    pub(super) fn end_round(&mut self) {
        if self.together.is_empty() {
            return;
        }
        let size = group_size(self.together.len(), self.runtime.metrics().num_workers());
        let mut together = mem::take(&mut self.together).into_iter();
        loop {
            let mut group: VecDeque<_> = together.by_ref().take(size).collect();
            match group.len() {
                0 => return,
                1 => group.drain(..).for_each(|execution| self.start_alone(execution)),
                _ => self.start_group(group),
            }
        }
    }

    fn start_alone(&mut self, Execution { key, entry, body, cx, span }: Execution) {
        let number = entry.number;
        let run = async move { Came { key, number, ran: execute(entry, body, cx).await } };
        let id = self.alone.spawn_on(run.instrument(span), &self.runtime).id();
        self.keys.insert(id, key);
    }

    fn start_group(&mut self, executions: VecDeque<Execution>) {
        let keys = executions.iter().map(|execution| execution.key).collect();
        let group = Arc::new(Group(Mutex::new(executions)));
        let id = self.groups.spawn_on(Arc::clone(&group).run(), &self.runtime).id();
        self.members.insert(id, Members { keys, since: monotonic_now(), group });
    }

    /// Goes on with one that turned out to wait.
    fn go_on_alone(&mut self, Waiting { key, entry, call, spent, span }: Waiting) {
        let run = async move { Came { key, number: entry.number, ran: go_on(&entry, call, spent).await } };
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
                biased;
                Some(joined) = self.groups.join_next_with_id() => self.group_is_over(joined),
                Some(joined) = self.alone.join_next_with_id() => self.task_is_over(joined),
                _ = self.ticks.tick(), if !self.groups.is_empty() => self.relieve(),
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
        let unbegun = self.take_unbegun(Duration::ZERO);
        self.ended.extend(unbegun.into_iter().map(|Execution { key, .. }| Ended { key, outcome: None, elapsed: None }));
        self.groups.abort_all();
        self.alone.abort_all();
    }

    /// Gives those a task of their own that are behind a job which keeps its thread.
    fn relieve(&mut self) {
        self.take_unbegun(PATIENCE).into_iter().for_each(|execution| self.start_alone(execution));
    }

    /// Takes those out of groups this old that nobody has begun.
    fn take_unbegun(&mut self, age: Duration) -> Vec<Execution> {
        let mut unbegun = Vec::new();
        for Members { keys, group, .. } in self.members.values_mut().filter(|members| members.since.elapsed() >= age) {
            let taken = mem::take(&mut *group.waiting());
            keys.retain(|key| taken.iter().all(|execution| execution.key != *key));
            unbegun.extend(taken);
        }
        unbegun
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

    fn group_is_over(&mut self, joined: Result<(Id, Vec<Left>), JoinError>) {
        match joined {
            Ok((id, left)) => {
                self.members.remove(&id);
                for left in left {
                    match left {
                        Left::Came(came) => self.came(came),
                        Left::Waits(waiting) => self.go_on_alone(waiting),
                    }
                }
            }
            Err(error) => {
                let members = self.members.remove(&error.id());
                self.failed(members.into_iter().flat_map(|members| members.keys), &error);
            }
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

impl Group {
    /// Runs one after the other as far as it goes without waiting. It does not wait itself, and so is not cancelled
    /// between two of them.
    async fn run(self: Arc<Self>) -> Vec<Left> {
        let mut left = Vec::new();
        loop {
            // Not in the loop's head: there the lock would be held until the body's end.
            let next = self.waiting().pop_front();
            let Some(Execution { key, entry, body, cx, span }) = next else { return left };
            let (number, began) = (entry.number, monotonic_now());
            left.push(match begin(&entry, body, cx).instrument(span.clone()).await {
                Begun::Ended(outcome) => {
                    let ran = Ran { outcome, has_waited: false, elapsed: began.elapsed() };
                    Left::Came(Came { key, number, ran })
                }
                Begun::Waits(call) => Left::Waits(Waiting { key, entry, call, spent: began.elapsed(), span }),
            });
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Execution>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
