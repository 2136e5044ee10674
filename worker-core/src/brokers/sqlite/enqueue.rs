//! Putting jobs in: declared queues, and rows that wait for a worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension as _, named_params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    broker::{Declared, Topology},
    brokers::sqlite::{
        exchanges::{self, Chooser},
        shared::{Shared, WAITING_KIB_MAX, now_ms},
        writer::{Fault, Write, WriteError, closed},
    },
    envelope::{Due, Envelope, Headers, Route},
    error::{BrokerError, BrokerErrorKind, EnqueueFailure},
    name::QueueName,
    time::Timestamp,
};

/// What a row costs beside its payload, in bytes, as far as the bound on waiting rows goes.
const ROW_BYTES: usize = 512;

/// `jobs.state`.
pub(super) mod state {
    pub(in crate::brokers::sqlite) const READY: i64 = 0;
    pub(in crate::brokers::sqlite) const DELAYED: i64 = 1;
}

/// Makes sure the queues exist.
pub(super) async fn declare(shared: &Arc<Shared>, topology: &Topology) -> Result<Declared, BrokerError> {
    shared.check_open()?;
    if let Some(problem) = topology.problem() {
        return Err(BrokerError::new(BrokerErrorKind::Permanent, problem));
    }
    // Every queue here has priorities, and there is one type of them.
    let Topology { queues, exchanges, bindings, options: _ } = topology.clone();
    let write = move |db: &Connection| {
        let mut created = Vec::new();
        for queue in &queues {
            let inserted =
                db.prepare_cached("INSERT OR IGNORE INTO queues (name) VALUES (?1)")?.execute([queue.as_str()])?;
            if inserted > 0 {
                created.push(queue.clone());
            }
        }
        exchanges.iter().try_for_each(|exchange| exchanges::declare(db, exchange))?;
        bindings.iter().try_for_each(|binding| exchanges::bind(db, binding))?;
        Ok(Declared::created(created))
    };
    shared.write(true, write).await.map_err(WriteError::into_error)
}

/// Stores the batch; durable when it answers.
pub(super) async fn enqueue(shared: &Arc<Shared>, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
    let expected = batch.len();
    let refuse = |error: &BrokerError| (0..expected).map(|_| Err(EnqueueFailure::Refused(error.copy()))).collect();
    if let Err(error) = shared.check_open() {
        return refuse(&error);
    }
    let bytes: usize = batch.iter().map(|envelope| envelope.body.0.len() + ROW_BYTES).sum();
    let kib = u32::try_from(bytes.div_ceil(1 << 10).min(WAITING_KIB_MAX)).unwrap_or(u32::MAX);
    let Ok(permit) = Arc::clone(&shared.waiting).acquire_many_owned(kib).await else {
        return refuse(&closed());
    };
    let (answer, answered) = oneshot::channel();
    let enqueue = Enqueue {
        shared: Arc::clone(shared),
        batch,
        results: Vec::new(),
        rung: BTreeSet::new(),
        answer,
        _permit: permit,
    };
    shared.inbox.push(Box::new(enqueue));
    match answered.await {
        Ok(results) => results,
        Err(_) => (0..expected).map(|_| Err(EnqueueFailure::Unknown(closed()))).collect(),
    }
}

struct Enqueue {
    shared: Arc<Shared>,
    batch: Vec<Envelope>,
    results: Vec<Result<(), EnqueueFailure>>,
    /// The queues that got something.
    rung: BTreeSet<QueueName>,
    answer: oneshot::Sender<Vec<Result<(), EnqueueFailure>>>,
    _permit: OwnedSemaphorePermit,
}

impl Write for Enqueue {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        self.results.clear();
        let now = now_ms();
        let (mut declared, mut chooser) = (BTreeMap::new(), Chooser::default());
        self.rung.clear();
        for envelope in &self.batch {
            let result = match &envelope.route {
                Route::Queue(queue) => {
                    if !declared.contains_key(queue) {
                        declared.insert(queue, is_declared(db, queue)?);
                    }
                    if declared[queue] {
                        insert(db, queue, envelope, now)?;
                        if !self.rung.contains(queue) {
                            self.rung.insert(queue.clone());
                        }
                        Ok(())
                    } else {
                        Err(EnqueueFailure::Unroutable)
                    }
                }
                Route::Exchange { .. } if envelope.due != Due::Now => {
                    let ways_out = "publish it when it is due";
                    let error = BrokerError::unsupported("sqlite", "delays to an exchange", ways_out);
                    Err(EnqueueFailure::Refused(error))
                }
                Route::Exchange { name, key, mandatory } => match chooser.chosen(db, name, key, envelope)? {
                    Ok(queues) if queues.is_empty() && *mandatory => Err(EnqueueFailure::Unroutable),
                    Ok(queues) => {
                        for queue in &queues {
                            insert(db, queue, &envelope.copy_for(queue), now)?;
                        }
                        self.rung.extend(queues);
                        Ok(())
                    }
                    Err(error) => Err(EnqueueFailure::Refused(error)),
                },
            };
            self.results.push(result);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let results = match result {
            Ok(()) => {
                self.rung.iter().for_each(|queue| self.shared.ring(queue));
                self.results
            }
            Err(error) => {
                let failure = |_| match &error {
                    WriteError::Failed(error) => Err(EnqueueFailure::Refused(error.copy())),
                    WriteError::Unknown(error) => Err(EnqueueFailure::Unknown(error.copy())),
                };
                self.batch.iter().map(failure).collect()
            }
        };
        // Whoever asked may have gone away; what was written stays.
        drop(self.answer.send(results));
    }

    fn rows(&self) -> usize {
        self.batch.len()
    }
}

/// Whether the queue was declared.
pub(super) fn is_declared(db: &Connection, queue: &QueueName) -> rusqlite::Result<bool> {
    let found = db
        .prepare_cached("SELECT 1 FROM queues WHERE name = ?1")?
        .query_row([queue.as_str()], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

fn insert(db: &Connection, queue: &QueueName, envelope: &Envelope, now: i64) -> rusqlite::Result<()> {
    let due_ms = due_ms(envelope.due, now);
    db.prepare_cached(
        "INSERT INTO jobs (queue, state, priority, due_ms, retries, starts, id, name, enqueued_ms, expires_ms,
                           unknown_since_ms, reply_to, correlation, call_retries, headers, body)
         VALUES (:queue, :state, :priority, :due_ms, 0, 0, :id, :name, :enqueued_ms, :expires_ms, NULL, :reply_to,
                 :correlation, :call_retries, :headers, :body)",
    )?
    .execute(named_params! {
        ":queue": queue.as_str(),
        ":state": if due_ms.is_some() { state::DELAYED } else { state::READY },
        ":priority": envelope.priority.level(),
        ":due_ms": due_ms,
        ":id": envelope.id.to_string(),
        ":name": envelope.name.as_ref().map(|name| name.as_str()),
        ":enqueued_ms": ms(envelope.enqueued_at),
        ":expires_ms": envelope.expires_at.map(ms),
        ":reply_to": envelope.caller.as_ref().map(|caller| &caller.address),
        ":correlation": envelope.caller.as_ref().map(|caller| &caller.correlation),
        ":call_retries": envelope.caller.as_ref().map(|caller| caller.retries),
        ":headers": headers_json(&envelope.headers),
        ":body": &*envelope.body.0,
    })
    .map(drop)
}

/// The date as a column, none for at once.
pub(super) fn due_ms(due: Due, now: i64) -> Option<i64> {
    due.date(timestamp(now)).map(ms)
}

/// Headers as a column; most jobs have none.
fn headers_json(headers: &Headers) -> Option<String> {
    // Values of JSON can be written as JSON.
    if headers.is_empty() { None } else { serde_json::to_string(headers).ok() }
}

pub(super) fn ms(date: Timestamp) -> i64 {
    i64::try_from(date.unix_ms()).unwrap_or(i64::MAX)
}

pub(super) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(ms).unwrap_or(0))
}
