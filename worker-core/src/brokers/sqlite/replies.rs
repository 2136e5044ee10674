//! Calls: a reply is a row for the process that called, which collects it.
//!
//! The caller is a holder, as a consumer is, so that all others see whether it
//! lives; what was addressed to it ends with it. The reply is written in the
//! transaction that takes the job out of its queue. Where the caller is the
//! process that settles, it is told without a row.

use std::sync::{Arc, atomic::Ordering};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{
    brokers::sqlite::{
        enqueue,
        rescue::holder_for,
        shared::Shared,
        writer::{Fault, Write, WriteError},
    },
    envelope::{Body, Caller, Envelope},
    error::{BrokerError, BrokerErrorKind, CallFailure, EnqueueFailure},
    outcome::{Failure, FailureKind},
    reply::Reply,
    telemetry::TARGET,
};

/// Replies that are collected in one transaction.
const REPLIES_MAX: u32 = 200;

/// Enqueues a job, and waits for its reply.
pub(super) async fn call(shared: &Arc<Shared>, envelope: Envelope) -> Result<Reply, CallFailure> {
    let refused = |error| CallFailure::NotEnqueued(EnqueueFailure::Refused(error));
    shared.check_open().map_err(refused)?;
    // Each time: what this process is known as must be in the file, or nobody could answer.
    let asked = Arc::clone(shared);
    let registered = shared.write(false, move |db| holder_for(db, &asked)).await;
    let holder = registered.map_err(|error| refused(error.into_error()))?;
    shared.keep().map_err(refused)?;
    let mut expected = shared.callers.expect().map_err(refused)?;
    // Should it be lost from here on, this call is told; should it be lost already, it was not.
    if holder.lost.is_cancelled() {
        let message = "another process has taken over from this one meanwhile; call again";
        return Err(refused(BrokerError::new(BrokerErrorKind::Transient, message)));
    }
    let retries = envelope.caller.as_ref().is_some_and(|caller| caller.retries);
    let caller = Caller { address: holder.id.to_string(), correlation: expected.correlation.clone(), retries };
    for answer in enqueue::enqueue(shared, vec![Envelope { caller: Some(caller), ..envelope }]).await {
        answer.map_err(CallFailure::NotEnqueued)?;
    }
    expected.reply().await.map_err(CallFailure::Lost)
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To a call of this process.
    Here,
    /// To another process, by a row.
    To(i64),
    /// There is no such process any more.
    Gone,
}

/// The way to `caller`, as the database knows it now.
pub(super) fn way(db: &Connection, shared: &Shared, caller: &Caller) -> rusqlite::Result<Way> {
    let Ok(id) = caller.address.parse::<i64>() else { return Ok(Way::Gone) };
    let lives =
        db.prepare_cached("SELECT 1 FROM holders WHERE id = ?1")?.query_row([id], |_| Ok(())).optional()?.is_some();
    Ok(match lives {
        true if shared.holder().is_some_and(|holder| holder.id == id) => Way::Here,
        true => Way::To(id),
        false => Way::Gone,
    })
}

/// Writes a reply down for another process.
pub(super) fn post(db: &Connection, to: i64, correlation: &str, reply: &Reply) -> rusqlite::Result<()> {
    let (kind, body) = match reply {
        Reply::Returned(body) => (None, &*body.0),
        Reply::Failed(Failure { kind, message, .. }) => (Some(kind.as_str()), message.as_bytes()),
    };
    db.prepare_cached("INSERT INTO replies (caller, correlation, kind, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![to, correlation, kind, body])
        .map(drop)
}

/// Has replies collected that another process wrote down for this one, if there are any.
pub(super) fn look(db: &Connection, shared: &Arc<Shared>) {
    let Some(holder) = shared.holder().filter(|_| !shared.callers.is_empty()) else { return };
    let found = db
        .prepare_cached("SELECT 1 FROM replies WHERE caller = ?1 LIMIT 1")
        .and_then(|mut select| select.query_row([holder.id], |_| Ok(())).optional());
    // What cannot be read is reported by the write.
    if !matches!(found, Ok(None)) {
        collect(shared);
    }
}

/// Has replies collected.
pub(super) fn collect(shared: &Arc<Shared>) {
    shared.inbox.push(Box::new(Collect { shared: Arc::clone(shared), found: Vec::new() }));
}

struct Collect {
    shared: Arc<Shared>,
    found: Vec<(String, Reply)>,
}

impl Write for Collect {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        self.found.clear();
        let Some(holder) = self.shared.holder() else { return Ok(()) };
        let mut take = db.prepare_cached(
            "DELETE FROM replies WHERE place IN (SELECT place FROM replies WHERE caller = ?1 ORDER BY place LIMIT ?2)
             RETURNING correlation, kind, body",
        )?;
        let mut rows = take.query(params![holder.id, REPLIES_MAX])?;
        while let Some(row) = rows.next()? {
            let (correlation, kind, body): (String, Option<String>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let reply = match kind {
                None => Reply::Returned(Body(body.into())),
                Some(kind) => {
                    let kind = FailureKind::parse(&kind).unwrap_or(FailureKind::Error);
                    Reply::Failed(Failure::new(kind, String::from_utf8_lossy(&body)))
                }
            };
            self.found.push((correlation, reply));
        }
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let Self { shared, found } = *self;
        match result {
            Ok(()) => {
                if found.len() >= REPLIES_MAX as usize {
                    collect(&shared); // There may be more.
                }
                for (correlation, reply) in found {
                    // Whoever called may wait no longer.
                    shared.callers.tell(&correlation, reply);
                }
            }
            Err(_) if shared.check_open().is_err() => {}
            Err(error) => {
                let error = error.into_error().detail();
                tracing::warn!(target: TARGET, error, "replies could not be collected; trying again");
                shared.replies_left.store(true, Ordering::SeqCst);
            }
        }
    }

    fn durable(&self) -> bool {
        false // A loss of power ends the caller too.
    }

    fn is_news(&self) -> bool {
        false
    }
}
