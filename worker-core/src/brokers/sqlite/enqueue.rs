//! Putting jobs in: declared queues, and rows that wait for a worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension as _, params};
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
                // Of one alone its insert looks for the queue.
                Route::Queue(queue) if self.batch.len() == 1 => {
                    match insert(db, INSERT_IF_DECLARED, queue, envelope, now)? {
                        true => {
                            self.rung.insert(queue.clone());
                            Ok(())
                        }
                        false => Err(EnqueueFailure::Unroutable),
                    }
                }
                Route::Queue(queue) => {
                    if !declared.contains_key(queue) {
                        declared.insert(queue, is_declared(db, queue)?);
                    }
                    if declared[queue] {
                        insert(db, INSERT, queue, envelope, now)?;
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
                            insert(db, INSERT, queue, &envelope.copy_for(queue), now)?;
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

/// A row, by numbers: to look for a parameter by its name takes as long as to bind it.
macro_rules! insert {
    ($before:literal, $after:literal) => {
        concat!(
            "INSERT INTO jobs (queue, state, priority, due_ms, id, name, enqueued_ms, expires_ms, reply_to, correlation,
                               call_retries, headers, body, retries, starts, unknown_since_ms) ",
            $before,
            "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 0, 0, NULL",
            $after
        )
    };
}

const INSERT: &str = insert!("VALUES (", ")");
const INSERT_IF_DECLARED: &str = insert!("SELECT ", " FROM queues WHERE name = ?1");

/// Puts a job into a queue; whether it did.
fn insert(
    db: &Connection,
    statement: &str,
    queue: &QueueName,
    envelope: &Envelope,
    now: i64,
) -> rusqlite::Result<bool> {
    let due_ms = due_ms(envelope.due, now);
    let state = if due_ms.is_some() { state::DELAYED } else { state::READY };
    let caller = envelope.caller.as_ref();
    let inserted = db.prepare_cached(statement)?.execute(params![
        queue.as_str(),
        state,
        envelope.priority.level(),
        due_ms,
        envelope.id.to_string(),
        envelope.name.as_ref().map(|name| name.as_str()),
        ms(envelope.enqueued_at),
        envelope.expires_at.map(ms),
        caller.map(|caller| &caller.address),
        caller.map(|caller| &caller.correlation),
        caller.map(|caller| caller.retries),
        headers_json(&envelope.headers),
        &*envelope.body.0,
    ])?;
    Ok(inserted > 0)
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
