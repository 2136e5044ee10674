//! The view for people: counts, dead letters, replay.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, Row, ToSql, params_from_iter, types::Value};

use crate::{
    broker::{Cursor, DeadJob, DeadPage, Finding, Inspector, Page, Plan, QueueStats, Selection, Topology},
    brokers::sqlite::{
        column,
        enqueue::{ms, timestamp},
        holder::{Sighting, sight},
        shared::{Shared, now_ms},
        writer::WriteError,
    },
    envelope::{Body, Headers},
    error::BrokerError,
    exchange::{Binding, Exchange, ExchangeKind},
    id::JobId,
    name::QueueName,
    outcome::{Failure, FailureKind},
};

pub(super) struct SqliteInspector {
    shared: Arc<Shared>,
}

impl SqliteInspector {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[async_trait]
impl Inspector for SqliteInspector {
    async fn queues(&self, _known: &[QueueName]) -> Result<Vec<QueueStats>, BrokerError> {
        let shared = Arc::clone(&self.shared);
        self.shared.read(move |db| queues(db, &shared)).await
    }

    async fn compare(&self, plan: &Plan) -> Result<Vec<Finding>, BrokerError> {
        let there = self.shared.read(topology).await?;
        Ok(plan.against(&there))
    }

    async fn dead(&self, selection: &Selection, page: Page) -> Result<DeadPage, BrokerError> {
        let filter = Filter::of(selection);
        self.shared.read(move |db| dead(db, filter, page)).await
    }

    async fn count_dead(&self, selection: &Selection) -> Result<u64, BrokerError> {
        let Filter { conditions, values } = Filter::of(selection);
        let count = move |db: &Connection| {
            let query = format!("SELECT count(*) FROM dead_letters WHERE {conditions}");
            db.query_row(&query, params_from_iter(values), |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
        };
        self.shared.read(count).await
    }

    async fn replay(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        let filter = Filter::of(selection);
        let write = move |db: &Connection| {
            let places = places(db, &filter, limit)?;
            for place in &places {
                db.prepare_cached(
                    "INSERT INTO jobs (queue, state, priority, retries, starts, id, name, enqueued_ms, headers, body)
                     SELECT queue, 0, priority, 0, 0, id, name, enqueued_ms, headers, body
                     FROM dead_letters WHERE place = ?1",
                )?
                .execute([place])?;
                db.prepare_cached("DELETE FROM dead_letters WHERE place = ?1")?.execute([place])?;
            }
            Ok(places.len() as u64)
        };
        let replayed = self.shared.write(true, write).await.map_err(WriteError::into_error)?;
        self.shared.ring_all();
        Ok(replayed)
    }

    async fn drop_dead(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        let filter = Filter::of(selection);
        let write = move |db: &Connection| {
            let places = places(db, &filter, limit)?;
            for place in &places {
                db.prepare_cached("DELETE FROM dead_letters WHERE place = ?1")?.execute([place])?;
            }
            Ok(places.len() as u64)
        };
        self.shared.write(true, write).await.map_err(WriteError::into_error)
    }
}

/// All that was declared. What somebody wrote by hand and nobody can read is not there for us either.
fn topology(db: &Connection) -> rusqlite::Result<Topology> {
    let text = |row: &Row<'_>, column: usize| row.get::<_, String>(column);
    let mut there = Topology::default();
    for name in db.prepare("SELECT name FROM queues")?.query_map([], |row| text(row, 0))? {
        there.queues.extend(name?.parse::<QueueName>());
    }
    let pair = |row: &Row<'_>| Ok((text(row, 0)?, text(row, 1)?));
    for row in db.prepare("SELECT name, kind FROM exchanges")?.query_map([], pair)? {
        let (name, kind) = row?;
        let parts = name.parse().ok().zip(ExchangeKind::parse(&kind));
        there.exchanges.extend(parts.map(|(name, kind)| Exchange::new(name, kind)));
    }
    let triple = |row: &Row<'_>| Ok((text(row, 0)?, text(row, 1)?, text(row, 2)?));
    for row in db.prepare("SELECT exchange, queue, criterion FROM bindings")?.query_map([], triple)? {
        let (exchange, queue, criterion) = row?;
        if let (Ok(exchange), Ok(queue), Ok(on)) = (exchange.parse(), queue.parse(), serde_json::from_str(&criterion)) {
            there.bindings.push(Binding { exchange, queue, on });
        }
    }
    Ok(there)
}

fn queues(db: &Connection, shared: &Shared) -> rusqlite::Result<Vec<QueueStats>> {
    let mut stats = BTreeMap::new();
    for name in db.prepare("SELECT name FROM queues")?.query_map([], |row| row.get::<_, String>(0))? {
        if let Ok(queue) = name?.parse::<QueueName>() {
            stats.insert(queue.to_string(), QueueStats::empty(queue));
        }
    }
    let now = now_ms();
    // One query per state, so that each walks one small index and no row.
    count(db, "SELECT queue, count(*) FROM jobs WHERE state = 0 AND ?1 GROUP BY queue", now, &mut stats, |s, n| {
        s.ready += n
    })?;
    count(db, "SELECT queue, count(*) FROM jobs WHERE state = 2 AND ?1 GROUP BY queue", now, &mut stats, |s, n| {
        s.ready += n
    })?;
    let due = "SELECT queue, count(*) FROM jobs WHERE state = 1 AND due_ms <= ?1 GROUP BY queue";
    count(db, due, now, &mut stats, |s, n| s.ready += n)?;
    let delayed = "SELECT queue, count(*) FROM jobs WHERE state = 1 AND due_ms > ?1 GROUP BY queue";
    count(db, delayed, now, &mut stats, |s, n| s.delayed = Some(n))?;
    let retrying = "SELECT queue, count(*) FROM jobs WHERE state = 1 AND retries > 0 AND due_ms > ?1 GROUP BY queue";
    count(db, retrying, now, &mut stats, |s, n| s.retrying = Some(n))?;
    count(db, "SELECT queue, count(*) FROM jobs WHERE state = 3 AND ?1 GROUP BY queue", now, &mut stats, |s, n| {
        s.running = Some(n)
    })?;
    count(db, "SELECT queue, count(*) FROM dead_letters WHERE ?1 GROUP BY queue", now, &mut stats, |s, n| s.dead += n)?;
    let mut consumers = db.prepare("SELECT queue, holder FROM consumers")?;
    let mut rows = consumers.query([])?;
    while let Some(row) = rows.next()? {
        let (queue, holder): (String, i64) = (row.get(0)?, row.get(1)?);
        if let Some(stats) = stats.get_mut(&queue).filter(|_| lives(shared, holder)) {
            stats.consumers += 1;
        }
    }
    Ok(stats.into_values().collect())
}

/// Adds up per queue; a queue that is not declared any more is not shown.
fn count(
    db: &Connection,
    query: &str,
    now: i64,
    stats: &mut BTreeMap<String, QueueStats>,
    mut add: impl FnMut(&mut QueueStats, u64),
) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(query)?;
    let mut rows = statement.query([now])?;
    while let Some(row) = rows.next()? {
        if let Some(stats) = stats.get_mut(row.get_ref(0)?.as_str()?) {
            add(stats, row.get::<_, i64>(1)?.cast_unsigned());
        }
    }
    Ok(())
}

fn lives(shared: &Shared, holder: i64) -> bool {
    // The lock of our own file is ours, so a look from a second handle says that it lives, too.
    matches!(sight(shared.folder(), holder), Ok(Sighting::Lives { .. }))
}

/// A selection as SQL.
struct Filter {
    conditions: String,
    values: Vec<Value>,
}

impl Filter {
    fn of(selection: &Selection) -> Self {
        let Selection { queues, job, kind, ids, died_until, known: _ } = selection;
        let mut filter = Self { conditions: "1".into(), values: Vec::new() };
        if !queues.is_empty() {
            let queues = serde_json::Value::from_iter(queues.iter().map(ToString::to_string));
            filter.and("queue IN (SELECT value FROM json_each(?))", queues.to_string().into());
        }
        if let Some(job) = job {
            filter.and("name = ?", job.to_string().into());
        }
        if let Some(kind) = kind {
            filter.and("kind = ?", kind.as_str().to_owned().into());
        }
        if !ids.is_empty() {
            let ids = serde_json::Value::from_iter(ids.iter().map(ToString::to_string));
            filter.and("id IN (SELECT value FROM json_each(?))", ids.to_string().into());
        }
        if let Some(date) = died_until {
            filter.and("died_ms <= ?", ms(*date).into());
        }
        filter
    }

    fn and(&mut self, condition: &str, value: Value) {
        self.conditions.push_str(" AND ");
        self.conditions.push_str(condition);
        self.values.push(value);
    }
}

fn places(db: &Connection, filter: &Filter, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let Filter { conditions, values } = filter;
    let query = format!("SELECT place FROM dead_letters WHERE {conditions} ORDER BY place LIMIT {limit}");
    db.prepare(&query)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
}

fn dead(db: &Connection, mut filter: Filter, page: Page) -> rusqlite::Result<DeadPage> {
    let after = page.after.map_or(0, |Cursor(place)| i64::try_from(place).unwrap_or(i64::MAX));
    filter.and("place > ?", after.into());
    let Filter { conditions, values } = filter;
    // One more than asked, to know whether there is a next page.
    let query =
        format!("SELECT * FROM dead_letters WHERE {conditions} ORDER BY place LIMIT {}", page.limit.saturating_add(1));
    let mut statement = db.prepare(&query)?;
    let mut rows = statement.query(params_from_iter(values.iter().map(|value| value as &dyn ToSql)))?;
    let mut found: Vec<(u64, DeadJob)> = Vec::new();
    while let Some(row) = rows.next()? {
        let place: i64 = row.get("place")?;
        found.push((place.cast_unsigned(), dead_job(row)?));
    }
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next = found.last().filter(|_| more).map(|(place, _)| Cursor((*place).into()));
    Ok(DeadPage::new(found.into_iter().map(|(_, job)| job).collect(), next))
}

pub(super) fn dead_job(row: &Row<'_>) -> rusqlite::Result<DeadJob> {
    let text = |column: &str| Ok::<_, rusqlite::Error>(column::text(row, column)?.unwrap_or_default());
    let unreadable = |what: &str| rusqlite::Error::InvalidColumnName(what.to_owned());
    let kind = FailureKind::parse(&text("kind")?).unwrap_or(FailureKind::Error);
    let headers = column::text(row, "headers")?;
    Ok(DeadJob {
        id: text("id")?.parse().unwrap_or_else(|_| JobId::new()),
        queue: text("queue")?.parse().map_err(|_| unreadable("queue"))?,
        job: column::text(row, "name")?.and_then(|name| name.parse().ok()),
        attempts: column::count(row, "attempts")?,
        starts: column::count(row, "starts")?,
        failure: Failure::new(kind, text("error")?),
        died_at: timestamp(row.get("died_ms")?),
        enqueued_at: timestamp(row.get("enqueued_ms")?),
        priority: column::priority(row, "priority")?,
        headers: headers.and_then(|json| serde_json::from_str::<Headers>(&json).ok()).unwrap_or_default(),
        body: Body(row.get::<_, Vec<u8>>("body")?.into()),
    })
}
