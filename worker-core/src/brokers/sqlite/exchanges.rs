//! Exchanges and bindings: rows that say who gets a copy.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _};

use crate::{
    brokers::sqlite::{enqueue::is_declared, writer::Fault},
    envelope::Envelope,
    error::{BrokerError, BrokerErrorKind},
    exchange::{Binding, Criterion, Exchange, ExchangeKind},
    name::{ExchangeName, QueueName},
};

fn refused(message: String) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Permanent, message)
}

/// Makes sure that an exchange exists, of this kind.
pub(super) fn declare(db: &Connection, exchange: &Exchange) -> Result<(), Fault> {
    let Exchange { name, kind } = exchange;
    db.prepare_cached("INSERT OR IGNORE INTO exchanges (name, kind) VALUES (?1, ?2)")?
        .execute([name.as_str(), kind.as_str()])?;
    match kind_of(db, name)? {
        Some(found) if found == kind.as_str() => Ok(()),
        found => {
            let found = found.unwrap_or_default();
            Err(Fault::Refused(refused(format!("exchange `{name}` exists as {found}, and {kind} was asked for"))))
        }
    }
}

/// Makes sure that a binding exists.
pub(super) fn bind(db: &Connection, binding: &Binding) -> Result<(), Fault> {
    let Binding { exchange, queue, on } = binding;
    if kind_of(db, exchange)?.is_none() {
        return Err(Fault::Refused(refused(format!("exchange `{exchange}` was not declared"))));
    }
    if !is_declared(db, queue)? {
        return Err(Fault::Refused(refused(format!("queue `{queue}` was not declared"))));
    }
    let criterion = serde_json::to_string(on).unwrap_or_default();
    db.prepare_cached("INSERT OR IGNORE INTO bindings (exchange, queue, criterion) VALUES (?1, ?2, ?3)")?.execute([
        exchange.as_str(),
        queue.as_str(),
        &criterion,
    ])?;
    Ok(())
}

fn kind_of(db: &Connection, exchange: &ExchangeName) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT kind FROM exchanges WHERE name = ?1")?
        .query_row([exchange.as_str()], |row| row.get(0))
        .optional()
}

/// What the exchanges of one batch choose by, each read once.
#[derive(Default)]
pub(super) struct Chooser {
    known: BTreeMap<ExchangeName, Option<(ExchangeKind, Vec<Binding>)>>,
}

impl Chooser {
    /// The queues that get a copy, each once; or why there is no answer, which concerns this envelope alone.
    pub(super) fn chosen(
        &mut self,
        db: &Connection,
        exchange: &ExchangeName,
        key: &str,
        envelope: &Envelope,
    ) -> Result<Result<BTreeSet<QueueName>, BrokerError>, Fault> {
        if !self.known.contains_key(exchange) {
            self.known.insert(exchange.clone(), read(db, exchange)?);
        }
        let Some((kind, bindings)) = self.known.get(exchange).and_then(Option::as_ref) else {
            return Ok(Err(refused(format!("exchange `{exchange}` was not declared"))));
        };
        let taking = bindings.iter().filter(|binding| binding.takes(*kind, key, &envelope.headers));
        Ok(Ok(taking.map(|binding| binding.queue.clone()).collect()))
    }
}

fn read(db: &Connection, exchange: &ExchangeName) -> Result<Option<(ExchangeKind, Vec<Binding>)>, Fault> {
    let Some(kind) = kind_of(db, exchange)? else { return Ok(None) };
    // A row that somebody changed by hand must not lose a copy without a word.
    let unreadable = |what: &str| Fault::Refused(refused(format!("exchange `{exchange}`: {what} in the database")));
    let kind = ExchangeKind::parse(&kind).ok_or_else(|| unreadable("its kind cannot be read"))?;
    let mut statement = db.prepare_cached("SELECT queue, criterion FROM bindings WHERE exchange = ?1")?;
    let mut rows = statement.query([exchange.as_str()])?;
    let mut bindings = Vec::new();
    while let Some(row) = rows.next()? {
        let (queue, criterion): (String, String) = (row.get(0)?, row.get(1)?);
        let queue = queue.parse().map_err(|_| unreadable("the queue of a binding cannot be read"))?;
        let on = serde_json::from_str::<Criterion>(&criterion)
            .map_err(|_| unreadable("what a binding takes cannot be read"))?;
        bindings.push(Binding { exchange: exchange.clone(), queue, on });
    }
    Ok(Some((kind, bindings)))
}
