//! The four settlements, each one statement that names owner and hand-out.
//!
//! A late settlement, from a process that was frozen while another took over,
//! names an owner that is not the row's any more and changes nothing.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use tokio::sync::oneshot;

use crate::{
    broker::{Begin, Delivery, Receipt, SettleError, Settler, Ticket, Unsettled, attempts_failed},
    brokers::sqlite::{
        consume::Half,
        enqueue::{due_ms, ms},
        mutant::Mutant,
        replies::{self, Way},
        shared::{lock, now_ms},
        writer::{Fault, Write, WriteError},
    },
    envelope::Due,
    outcome::Failure,
    settlement::{Note, Settlement},
    telemetry::TARGET,
};

impl Settler for Half {
    fn begin(&self, delivery: &Delivery) -> Begin {
        let mut owned = lock(&self.owned);
        let hand_out = (delivery.receipt.tag, delivery.receipt.part);
        let Some(entry) = owned.get_mut(&hand_out.0).filter(|entry| entry.fence == hand_out.1) else {
            return Begin::Lost;
        };
        if entry.holder.lost.is_cancelled() || entry.holder.file.was_taken_over() {
            drop(owned);
            self.forget(delivery);
            return Begin::Lost;
        }
        if entry.slot.is_some() {
            return Begin::Go; // Recorded already: twice in the file would be blamed twice.
        }
        match entry.holder.file.begin(hand_out) {
            Ok(slot) => entry.slot = Some(slot),
            // It runs all the same: should it kill the process, that is not counted against it.
            Err(error) => tracing::warn!(target: TARGET, %error, "the start of a job could not be recorded"),
        }
        Begin::Go
    }

    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket {
        self.submit_all(vec![(delivery, settlement)]).pop().unwrap_or_else(|| Ticket::resolved(Err(SettleError::Lost)))
    }

    fn submit_all(&self, settlements: Vec<(Delivery, Settlement)>) -> Vec<Ticket> {
        let mut writes: Vec<Box<dyn Write>> = Vec::with_capacity(settlements.len());
        let tickets = settlements.into_iter().map(|(delivery, settlement)| {
            let (answer, ticket) = Ticket::pending();
            // Dropping the answer says lost; the last half is being dropped.
            if let Some(half) = self.this.upgrade() {
                writes.push(Box::new(Settle { half, delivery, settlement, settled: false, way: None, answer }));
            }
            ticket
        });
        let tickets = tickets.collect();
        self.shared.inbox.push_all(writes);
        tickets
    }
}

struct Settle {
    half: Arc<Half>,
    delivery: Delivery,
    settlement: Settlement,
    settled: bool,
    /// By which its reply goes, where it has one.
    way: Option<Way>,
    answer: oneshot::Sender<Result<(), SettleError>>,
}

impl Write for Settle {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        self.settled = match &self.settlement {
            Settlement::Ack { reply } => match self.delivery.envelope.caller.as_ref().zip(reply.as_ref()) {
                None => self.ack(db)?,
                Some((caller, reply)) => {
                    let way = replies::way(db, &self.half.shared, caller)?;
                    let settled = match (way, reply.unheard()) {
                        (Way::Gone, Some(failure)) => {
                            let (queue, id) = (&self.delivery.queue, &self.delivery.envelope.id);
                            tracing::warn!(target: TARGET, %queue, %id, "the caller of a call that failed cannot be told; the job is dead-lettered");
                            self.bury(db, failure)? && self.ack(db)?
                        }
                        _ => self.ack(db)?,
                    };
                    if let Way::To(process) = way
                        && settled
                    {
                        replies::post(db, process, &caller.correlation, reply)?;
                    }
                    self.way = Some(way);
                    settled
                }
            },
            Settlement::DeadLetter { failure } => self.bury(db, failure)? && self.ack(db)?,
            Settlement::Release { after, note } => {
                let since = note.map(|Note::UnknownSince(since)| ms(since));
                self.put_back(db, due_ms(Due::In(*after), now_ms()), since, None)?
            }
            Settlement::Retry { after, failure } => {
                self.put_back(db, due_ms(Due::In(*after), now_ms()), None, Some(failure))?
            }
        };
        Ok(())
    }

    fn is_news(&self) -> bool {
        matches!(self.settlement, Settlement::Release { .. } | Settlement::Retry { .. })
            || matches!(self.way, Some(Way::To(_)))
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let Self { half, delivery, settlement, settled, way, answer } = *self;
        let answered = match result {
            Ok(()) => {
                if settled && matches!(&settlement, Settlement::Release { .. } | Settlement::Retry { .. }) {
                    half.shared.ring(&delivery.queue);
                }
                if let (true, Some(Way::Here), Settlement::Ack { reply: Some(reply) }, Some(caller)) =
                    (settled, way, settlement, &delivery.envelope.caller)
                {
                    half.shared.callers.tell(&caller.correlation, reply);
                }
                half.forget(&delivery);
                if settled { Ok(()) } else { Err(SettleError::Lost) }
            }
            // Closing gave it back.
            Err(_) if half.shared.check_open().is_err() => Err(SettleError::Lost),
            Err(error) => {
                let error = error.into_error();
                Err(SettleError::Unsettled(Box::new(Unsettled { delivery, settlement, error })))
            }
        };
        // Nobody may wait for the answer any more; what was settled stays so.
        drop(answer.send(answered));
    }
}

impl Settle {
    /// The job, and by which holder and fence it must be handed out still.
    fn hand_out(&self, db: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
        let Receipt { epoch, tag, part } = self.delivery.receipt;
        let named = (tag.cast_signed(), epoch.cast_signed(), part.cast_signed());
        if self.half.shared.mutant != Some(Mutant::NotFenced) {
            return Ok(named);
        }
        let mut of_now = db.prepare_cached("SELECT seq, holder, fence FROM jobs WHERE seq = ?1 AND state = 3")?;
        let found = of_now.query_row(params![named.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        Ok(found.optional()?.unwrap_or(named))
    }

    fn ack(&self, db: &Connection) -> rusqlite::Result<bool> {
        let (seq, holder, fence) = self.hand_out(db)?;
        let deleted = db
            .prepare_cached("DELETE FROM jobs WHERE seq = ?1 AND holder = ?2 AND fence = ?3")?
            .execute(params![seq, holder, fence])?;
        Ok(deleted == 1)
    }

    fn bury(&self, db: &Connection, failure: &Failure) -> rusqlite::Result<bool> {
        let (seq, holder, fence) = self.hand_out(db)?;
        let inserted = db
            .prepare_cached(
                "INSERT INTO dead_letters (queue, id, name, attempts, starts, kind, error, died_ms, enqueued_ms,
                                           priority, headers, body)
                 SELECT queue, id, name, :attempts, starts, :kind, :error, :now, enqueued_ms, priority, headers, body
                 FROM jobs WHERE seq = :seq AND holder = :holder AND fence = :fence",
            )?
            .execute(named_params! {
                ":attempts": attempts_failed(failure.kind, self.delivery.attempt),
                ":kind": failure.kind.as_str(),
                ":error": failure.message,
                ":now": now_ms(),
                ":seq": seq,
                ":holder": holder,
                ":fence": fence,
            })?;
        Ok(inserted == 1)
    }

    /// Back into the queue; with a failure the attempt counts, and the suspicion ends:
    /// the process outlived the job. So does what was noted: it was known and ran.
    fn put_back(
        &self,
        db: &Connection,
        due_ms: Option<i64>,
        unknown_since_ms: Option<i64>,
        failure: Option<&Failure>,
    ) -> rusqlite::Result<bool> {
        let (seq, holder, fence) = self.hand_out(db)?;
        let updated = db
            .prepare_cached(
                "UPDATE jobs SET
                     starts = CASE WHEN :failed THEN 0 ELSE starts END,
                     retries = retries + :failed,
                     last_error = coalesce(:error, last_error),
                     unknown_since_ms = CASE WHEN :failed THEN NULL ELSE coalesce(:unknown_since_ms, unknown_since_ms) END,
                     state = CASE WHEN :due_ms IS NOT NULL THEN 1 WHEN starts > 0 AND NOT :failed THEN 2 ELSE 0 END,
                     due_ms = :due_ms, holder = NULL, fence = NULL
                 WHERE seq = :seq AND holder = :holder AND fence = :fence",
            )?
            .execute(named_params! {
                ":failed": failure.is_some(),
                ":error": failure.map(ToString::to_string),
                ":unknown_since_ms": unknown_since_ms,
                ":due_ms": due_ms,
                ":seq": seq,
                ":holder": holder,
                ":fence": fence,
            })?;
        Ok(updated == 1)
    }
}
