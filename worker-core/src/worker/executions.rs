//! The executions of a worker, and which task runs which.
//!
//! A job has a task of its own. To start that, to wake it on another thread
//! and to wait for its end costs more than a quick job itself, so jobs of which
//! [`Quickness`] knows that they do not wait are a [`Group`] with one task
//! where several start at once. One that waits after all is gone on with by a
//! task of its own. From a group that runs too long, because one of it keeps
//! its thread, all others are taken away.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet},
};
use tracing::Instrument as _;

use crate::{
    outcome::{Failure, FailureKind, Outcome},
    worker::{
        execute::{Polled, Ran, execute, go_on},
        group::{Came, Execution, Group, Left, Taken, Unfinished},
        quickness::{GROUP_MAX, Quickness},
        ticker::Ticker,
    },
};

/// How long a group may run until the others are taken from the one that keeps its thread; it is looked for as often.
const PATIENCE: Duration = Duration::from_millis(5);

/// What became of an execution.
pub(super) struct Ended {
    pub(super) key: usize,
    /// None where it was cancelled, perhaps before it began.
    pub(super) outcome: Option<Outcome>,
    /// How long it took, where that is known.
    pub(super) elapsed: Option<Duration>,
}

/// All that run, and the next to do so.
pub(super) struct Executions {
    /// Tasks with one job.
    singles: JoinSet<Came>,
    /// Which job such a task has, in case it does not say so itself.
    keys: HashMap<Id, usize>,
    /// Tasks with several.
    groups: JoinSet<()>,
    members: HashMap<Id, Members>,
    /// The next group, of those that start in this round.
    together: VecDeque<Execution>,
    quickness: Quickness,
    ended: Vec<Ended>,
    is_aborted: bool,
    runtime: Handle,
    ticker: Ticker,
}

/// Those of a group.
struct Members {
    /// Of which it has still to tell.
    keys: Vec<usize>,
    group: Arc<Group>,
}

impl Executions {
    /// None yet; they will run on that runtime.
    pub(super) fn new(runtime: Handle) -> Self {
        Self {
            singles: JoinSet::new(),
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

    /// Starts one: at once, or, where it is of a quick type and may share a task, when the group is full or the round ends.
    pub(super) fn start(&mut self, execution: Execution, may_share: bool) {
        if !(may_share && self.quickness.is_quick(execution.entry.number)) {
            return self.start_single(execution);
        }
        self.together.push_back(execution);
        if self.together.len() == GROUP_MAX {
            self.end_round();
        }
    }

    /// No more start in this round.
    pub(super) fn end_round(&mut self) {
        let together = mem::take(&mut self.together);
        self.start_several(together);
    }

    fn start_several(&mut self, mut executions: VecDeque<Execution>) {
        match executions.len() {
            0 => {}
            1 => executions.drain(..).for_each(|execution| self.start_single(execution)),
            _ => self.start_group(executions),
        }
    }

    fn start_single(&mut self, Execution { key, entry, body, cx, span }: Execution) {
        let number = Some(entry.number);
        let run = async move { Came { key, number, ran: execute(entry, body, cx).await } };
        let id = self.singles.spawn_on(run.instrument(span), &self.runtime).id();
        self.keys.insert(id, key);
    }

    fn start_group(&mut self, executions: VecDeque<Execution>) {
        let keys = executions.iter().map(|execution| execution.key).collect();
        let group = Arc::new(Group::new(executions));
        let id = self.groups.spawn_on(Arc::clone(&group).run(), &self.runtime).id();
        self.members.insert(id, Members { keys, group });
    }

    /// Goes on with one that turned out to wait.
    fn go_on_single(&mut self, Unfinished { key, entry, call, began, span, is_innocent }: Unfinished) {
        let number = (!is_innocent).then_some(entry.number);
        // Now, and not when it ends: until then, others of its type would be grouped, and moved as it is.
        number.into_iter().for_each(|number| self.quickness.turned_out_slow(number));
        let run = async move { Came { key, number, ran: go_on(&entry, call, began, Polled::Elsewhere).await } };
        let task = self.singles.spawn_on(run.instrument(span), &self.runtime);
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
                // The beat first: jobs that end without a pause would put it off for ever.
                biased;
                () = self.ticker.tick(), if self.members.values().any(Members::are_several) => self.relieve(),
                Some(joined) = self.groups.join_next_with_id() => self.group_is_over(joined),
                Some(joined) = self.singles.join_next_with_id() => self.single_is_over(joined),
                else => pending().await,
            }
        }
    }

    /// All that have ended since it was asked last.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        while let Some(joined) = self.groups.try_join_next_with_id() {
            self.group_is_over(joined);
        }
        while let Some(joined) = self.singles.try_join_next_with_id() {
            self.single_is_over(joined);
        }
        mem::take(&mut self.ended)
    }

    /// Cancels all that run; each is told of as ended.
    pub(super) fn abort(&mut self) {
        self.is_aborted = true;
        let unbegun = self.empty_groups(|_| true);
        self.ended.extend(unbegun.into_iter().map(|Execution { key, .. }| Ended { key, outcome: None, elapsed: None }));
        self.groups.abort_all();
        self.singles.abort_all();
    }

    /// Where one keeps its thread, the others of its group have nothing to do with it any more.
    fn relieve(&mut self) {
        let unbegun = self.empty_groups(|group| group.has_run(PATIENCE));
        unbegun.into_iter().for_each(|execution| self.start_single(execution));
    }

    /// Takes everything out of these groups but what runs, and gives what nobody has begun.
    fn empty_groups(&mut self, which: impl Fn(&Group) -> bool) -> Vec<Execution> {
        let (mut unbegun, mut left, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for Members { keys, group } in self.members.values_mut().filter(|members| which(&members.group)) {
            let taken = group.take();
            keys.retain(|key| !taken.has(*key));
            running.extend(taken.running);
            unbegun.extend(taken.unbegun);
            left.extend(taken.left);
        }
        left.into_iter().for_each(|left| self.take_up(left));
        // The types that run now: they would be grouped again, and keep others from their thread, until they end.
        running.into_iter().for_each(|number| self.quickness.turned_out_slow(number));
        unbegun
    }

    fn take_up(&mut self, left: Left) {
        match left {
            Left::Ended(came) => self.came(came),
            Left::Unfinished(unfinished) => self.go_on_single(unfinished),
        }
    }

    fn single_is_over(&mut self, joined: Result<(Id, Came), JoinError>) {
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
        let Some(Members { mut keys, group }) = self.members.remove(&id) else { return };
        let taken = group.take();
        keys.retain(|key| !taken.has(*key));
        let Taken { unbegun, left, .. } = taken;
        left.into_iter().for_each(|left| self.take_up(left));
        if let Some(error) = error {
            self.failed(keys, &error);
            if error.is_cancelled() {
                return self.failed(unbegun.iter().map(|execution| execution.key), &error);
            }
        }
        // Whose turn did not come.
        self.start_several(unbegun);
    }

    fn came(&mut self, Came { key, number, ran: Ran { outcome, has_waited, elapsed } }: Came) {
        number.into_iter().for_each(|number| self.quickness.ended(number, has_waited, elapsed));
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

impl Members {
    /// Whether one of them may be behind another.
    const fn are_several(&self) -> bool {
        self.keys.len() > 1
    }
}

impl Drop for Executions {
    /// A task is cancelled where it waits, and a group does not: it must not begin what is given back.
    fn drop(&mut self) {
        for Taken { unbegun, left, .. } in self.members.values().map(|members| members.group.take()) {
            drop(unbegun);
            // What a handler leaves behind may panic, and this may be the unwinding of another panic.
            for left in left {
                catch_unwind(AssertUnwindSafe(|| drop(left))).unwrap_or_else(mem::forget);
            }
        }
    }
}

#[cfg(test)]
mod tests;
