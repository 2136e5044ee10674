//! Who owns jobs, and what becomes of them when the owner goes: in an orderly
//! way, by dropping a subscription, or by dying.

use std::{collections::HashMap, fs::File, process, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{STARTS_MAX, crashed},
    brokers::sqlite::{
        consume::Owned,
        holder::{self, HolderFile},
        shared::{Holder, Shared, now_ms},
        writer::{Fault, Write, WriteError},
    },
    error::{BrokerError, BrokerErrorKind},
    name::QueueName,
    outcome::FailureKind,
    telemetry::TARGET,
};

/// This process as an owner: as it is known, or registered anew.
///
/// The file is created and locked before the row is committed, so that nobody
/// sees the row of a living holder without its lock.
pub(super) fn holder_for(db: &Connection, shared: &Arc<Shared>) -> Result<Arc<Holder>, Fault> {
    if let Some(holder) = shared.holder() {
        let known =
            db.prepare_cached("SELECT 1 FROM holders WHERE id = ?1")?.query_row([holder.id], |_| Ok(())).optional()?;
        if known.is_some() && !holder.lost.is_cancelled() {
            return Ok(holder);
        }
        lose(shared, &holder);
    }
    db.prepare_cached("INSERT INTO holders (pid, since_ms) VALUES (?1, ?2)")?
        .execute(params![process::id(), now_ms()])?;
    let id = db.last_insert_rowid();
    let file = HolderFile::create(shared.folder(), id).map_err(|error| {
        let message = format!("cannot create this worker's file in `{}`", shared.folder().display());
        Fault::Refused(BrokerError::new(BrokerErrorKind::Transient, message).because(error))
    })?;
    let holder = Arc::new(Holder { id, file, lost: CancellationToken::new() });
    shared.set_holder(Some(Arc::clone(&holder)));
    Ok(holder)
}

/// Notes that another process has taken over from `holder`, or that it was never committed.
pub(super) fn lose(shared: &Shared, holder: &Holder) {
    holder.lost.cancel();
    if !holder.file.is_taken_over() {
        holder.file.remove();
    }
    shared.set_holder(None);
    // What is sent to it from now on finds nobody.
    let message = "this process was taken for gone: it was frozen for longer than its lease, or is being closed";
    shared.callers.fail(&BrokerError::new(BrokerErrorKind::Transient, message));
}

/// Puts back what `holder` owns, and removes it. Nobody is blamed here.
fn release_all(db: &Connection, holder: i64) -> rusqlite::Result<Vec<QueueName>> {
    let queues = db
        .prepare_cached("SELECT DISTINCT queue FROM jobs WHERE state = 3 AND holder = ?1")?
        .query_map([holder], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    db.prepare_cached(
        "UPDATE jobs SET state = CASE WHEN starts > 0 THEN 2 ELSE 0 END, holder = NULL, fence = NULL
         WHERE state = 3 AND holder = ?1",
    )?
    .execute([holder])?;
    db.prepare_cached("DELETE FROM holders WHERE id = ?1")?.execute([holder])?;
    Ok(queues.iter().filter_map(|queue| queue.parse().ok()).collect())
}

/// The orderly end of this process as an owner.
pub(super) struct Leave {
    shared: Arc<Shared>,
    queues: Vec<QueueName>,
    answer: oneshot::Sender<Result<(), BrokerError>>,
}

impl Leave {
    pub(super) fn new(shared: Arc<Shared>, answer: oneshot::Sender<Result<(), BrokerError>>) -> Self {
        Self { shared, queues: Vec::new(), answer }
    }
}

impl Write for Leave {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        if let Some(holder) = self.shared.holder() {
            self.queues = release_all(db, holder.id)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        if result.is_ok()
            && let Some(holder) = self.shared.holder()
        {
            lose(&self.shared, &holder);
            self.queues.iter().for_each(|queue| self.shared.ring(queue));
        }
        // Whoever closes may have gone away.
        drop(self.answer.send(result.map_err(WriteError::into_error)));
    }
}

/// The end of a subscription in a living process: what it owned goes back, unblamed.
pub(super) struct GiveBack {
    shared: Arc<Shared>,
    queue: QueueName,
    subscription: u64,
    owned: HashMap<u64, Owned>,
    answer: Option<oneshot::Sender<Result<(), BrokerError>>>,
}

impl GiveBack {
    pub(super) fn at_end(
        shared: &Arc<Shared>,
        queue: &QueueName,
        subscription: u64,
        owned: HashMap<u64, Owned>,
    ) -> Self {
        Self { shared: Arc::clone(shared), queue: queue.clone(), subscription, owned, answer: None }
    }

    pub(super) fn answering(mut self, answer: oneshot::Sender<Result<(), BrokerError>>) -> Self {
        self.answer = Some(answer);
        self
    }
}

impl Write for GiveBack {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        for (seq, owned) in &self.owned {
            db.prepare_cached(
                "UPDATE jobs SET state = CASE WHEN starts > 0 THEN 2 ELSE 0 END, holder = NULL, fence = NULL
                 WHERE seq = ?1 AND holder = ?2 AND fence = ?3",
            )?
            .execute(params![seq.cast_signed(), owned.holder.id, owned.fence.cast_signed()])?;
        }
        if let Some(holder) = self.shared.holder() {
            db.prepare_cached("DELETE FROM consumers WHERE holder = ?1 AND subscription = ?2")?
                .execute(params![holder.id, self.subscription.cast_signed()])?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let Self { shared, queue, owned, answer, .. } = *self;
        match &result {
            Ok(()) => {
                owned.into_values().for_each(Owned::end);
                shared.ring(&queue);
            }
            // They stay ours until this process ends, and are then taken over by another.
            Err(WriteError::Failed(error) | WriteError::Unknown(error)) if !owned.is_empty() => {
                tracing::warn!(target: TARGET, %queue, jobs = owned.len(), error = error.detail(), "jobs could not be given back");
            }
            Err(_) => {}
        }
        if let Some(answer) = answer {
            // Whoever stops may have gone away.
            drop(answer.send(result.map_err(WriteError::into_error)));
        }
    }

    fn durable(&self) -> bool {
        false // A loss of power ends the owner, which has the same effect.
    }

    fn rows(&self) -> usize {
        self.owned.len()
    }
}

/// Takes over from a holder that is dead, or has shown no life for a lease.
pub(super) struct Rescue {
    shared: Arc<Shared>,
    holder: i64,
    /// The dead one's lock, so that nobody else does the same meanwhile.
    lock: Option<File>,
    rescued: Option<Rescued>,
}

#[derive(Default)]
struct Rescued {
    queues: Vec<QueueName>,
    jobs: u64,
    dead: Vec<(String, String, u32)>,
}

impl Rescue {
    pub(super) fn new(shared: Arc<Shared>, holder: i64, lock: Option<File>) -> Self {
        Self { shared, holder, lock, rescued: None }
    }
}

impl Write for Rescue {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        self.rescued = None;
        let known = db
            .prepare_cached("SELECT 1 FROM holders WHERE id = ?1")?
            .query_row([self.holder], |_| Ok(()))
            .optional()?;
        if known.is_none() {
            return Ok(()); // Another was faster.
        }
        let started = holder::started(self.shared.folder(), self.holder).unwrap_or_else(|error| {
            tracing::warn!(target: TARGET, %error, holder = self.holder, "which jobs a dead worker had started is unknown; none is blamed");
            Vec::new()
        });
        for (seq, fence) in started {
            db.prepare_cached("UPDATE jobs SET starts = starts + 1 WHERE seq = ?1 AND holder = ?2 AND fence = ?3")?
                .execute(params![seq.cast_signed(), self.holder, fence.cast_signed()])?;
        }
        let dead = bury_the_guilty(db, self.holder)?;
        let jobs: i64 = db
            .prepare_cached("SELECT count(*) FROM jobs WHERE state = 3 AND holder = ?1")?
            .query_row([self.holder], |row| row.get(0))?;
        let queues = release_all(db, self.holder)?;
        self.rescued = Some(Rescued { queues, jobs: jobs.cast_unsigned(), dead });
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let Self { shared, holder, lock, rescued } = *self;
        match (result, rescued) {
            (Ok(()), Some(Rescued { queues, jobs, dead })) => {
                holder::remove_other(shared.folder(), holder);
                queues.iter().for_each(|queue| shared.ring(queue));
                if jobs > 0 {
                    tracing::warn!(target: TARGET, jobs, holder, "took over the jobs of a worker that died or froze");
                }
                for (queue, job_id, starts) in dead {
                    let (kind, error) = (FailureKind::Crashed.as_str(), crashed(starts).message);
                    tracing::warn!(target: TARGET, queue, job_id, kind, error, "job dead-lettered");
                }
            }
            (Ok(()), None) => holder::remove_other(shared.folder(), holder),
            (Err(error), _) => {
                let error = error.into_error().detail();
                tracing::warn!(target: TARGET, holder, error, "could not take over from a dead worker; trying again");
            }
        }
        drop(lock);
    }
}

/// Dead-letters what `holder` owns and has killed too many workers.
fn bury_the_guilty(db: &Connection, holder: i64) -> rusqlite::Result<Vec<(String, String, u32)>> {
    let dead = db
        .prepare_cached("SELECT seq, queue, id, starts FROM jobs WHERE state = 3 AND holder = ?1 AND starts >= ?2")?
        .query_map(params![holder, STARTS_MAX], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))))?
        .collect::<rusqlite::Result<Vec<(i64, (String, String, u32))>>>()?;
    for (seq, (_, _, starts)) in &dead {
        // A crash is no failed attempt: `retries` are all there were.
        db.prepare_cached(
            "INSERT INTO dead_letters (queue, id, name, attempts, starts, kind, error, died_ms, enqueued_ms, priority,
                                       headers, body)
             SELECT queue, id, name, retries, starts, ?2, ?3, ?4, enqueued_ms, priority, headers, body
             FROM jobs WHERE seq = ?1",
        )?
        .execute(params![seq, FailureKind::Crashed.as_str(), crashed(*starts).message, now_ms()])?;
        db.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?.execute([seq])?;
    }
    Ok(dead.into_iter().map(|(_, told)| told).collect())
}
