//! Handing jobs out: a claim is one transaction that writes our name on rows.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU16,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    broker::{Delivery, Receipt, Settler, Source, Subscription},
    brokers::sqlite::{
        column,
        enqueue::{is_declared, timestamp},
        holder::Slot,
        rescue::{GiveBack, holder_for},
        shared::{Holder, Shared, lock, now_ms},
        writer::{Fault, Write, WriteError, closed},
    },
    envelope::{Body, Caller, Due, Envelope, Headers, Route},
    error::{BrokerError, BrokerErrorKind},
    id::JobId,
    name::{JobName, QueueName},
    time::{Clock, SystemClock, monotonic_now},
};

/// Delayed jobs that one claim makes ready at most; the next claim takes the rest.
const DUE_MAX: i64 = 1_000;

/// Both halves of a subscription. Dropping the last gives back what is still owned.
pub(super) struct Half {
    pub(super) shared: Arc<Shared>,
    pub(super) subscription: Subscription,
    /// What may be owned now.
    prefetch: AtomicUsize,
    pub(super) id: u64,
    pub(super) owned: Mutex<HashMap<u64, Owned>>,
    /// Rung when there is room for as many as are wanted, or may be.
    room: Notify,
    /// As many as the source waits for.
    wanted: AtomicUsize,
    /// Itself, for the settlements it submits.
    pub(super) this: Weak<Self>,
    /// The holder under whom this subscription is listed.
    listed_for: AtomicI64,
}

/// A job that is ours, by its `seq`.
pub(super) struct Owned {
    pub(super) fence: u64,
    pub(super) holder: Arc<Holder>,
    pub(super) suspect: bool,
    /// Where the holder's file says that it was started.
    pub(super) slot: Option<Slot>,
}

impl Owned {
    /// It is not ours any more: its place among the started ones is free.
    pub(super) fn end(self) {
        if let Some(slot) = self.slot {
            self.holder.file.end(slot);
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let owned = std::mem::take(&mut *lock(&self.owned));
        self.shared.inbox.push(Box::new(GiveBack::at_end(&self.shared, &self.subscription.queue, self.id, owned)));
    }
}

/// Begins to consume a queue.
pub(super) async fn consume(
    shared: &Arc<Shared>,
    subscription: Subscription,
) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
    shared.check_open()?;
    let (asked, queue) = (Arc::clone(shared), subscription.queue.clone());
    let write = move |db: &Connection| {
        let declared = is_declared(db, &queue)?;
        if declared {
            holder_for(db, &asked)?;
        }
        Ok(declared)
    };
    if !shared.write(false, write).await.map_err(WriteError::into_error)? {
        let message = format!("queue `{}` was not declared", subscription.queue);
        return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
    }
    shared.keep()?;
    let bell = shared.listen(&subscription.queue);
    let id = shared.next();
    let half = Arc::new_cyclic(|this| Half {
        shared: Arc::clone(shared),
        id,
        this: Weak::clone(this),
        prefetch: AtomicUsize::new(subscription.prefetch.get().into()),
        subscription,
        owned: Mutex::default(),
        room: Notify::new(),
        wanted: AtomicUsize::new(1),
        listed_for: AtomicI64::new(0),
    });
    let source = SqliteSource {
        half: Arc::clone(&half),
        claim_at: None,
        bell,
        pending: None,
        fetched: VecDeque::new(),
        stopped: false,
    };
    Ok((Box::new(source), half))
}

/// A claim is worth its statements when there is room for this part of the prefetch, ...
const SHARE: usize = 4;

/// ... and where there is less, it waits so long for more: many queues with a job each would otherwise cost as much as
/// many jobs of one.
const CLAIM_WAIT_MAX: Duration = Duration::from_millis(3);

struct SqliteSource {
    half: Arc<Half>,
    /// Until then a claim waits for more room.
    claim_at: Option<Instant>,
    bell: watch::Receiver<()>,
    /// A claim on its way; kept here so that dropping `next_batch` loses nothing.
    pending: Option<oneshot::Receiver<Result<Claimed, BrokerError>>>,
    fetched: VecDeque<Delivery>,
    stopped: bool,
}

/// What a claim brought.
struct Claimed {
    deliveries: Vec<Delivery>,
    next_due_ms: Option<i64>,
}

#[async_trait]
impl Source for SqliteSource {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        while !self.stopped {
            if !self.fetched.is_empty() {
                let count = self.fetched.len().min(max);
                return Ok(self.fetched.drain(..count).collect());
            }
            if self.pending.is_none() && self.half.lacks_room_for(1, max) {
                self.half.shared.check_open()?;
                tokio::select! {
                    () = self.half.room.notified() => {}
                    // Also rung by closing, which must not leave a full consumer waiting.
                    rung = self.bell.changed() => rung.map_err(|_| closed())?,
                }
                continue;
            }
            self.wait_for_room(max).await;
            let Claimed { deliveries, next_due_ms } = self.claim(max).await?;
            if deliveries.is_empty() {
                self.wait(next_due_ms).await?;
            }
            self.fetched.extend(deliveries);
        }
        Ok(Vec::new())
    }

    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError> {
        let prefetch = usize::from(prefetch.max(self.half.subscription.prefetch).get());
        self.half.prefetch.store(prefetch, Ordering::Relaxed);
        self.half.room.notify_one();
        // A claim that is on its way brings what the former number allowed.
        if let Some(pending) = &mut self.pending {
            let claimed = pending.await.unwrap_or_else(|_| Err(closed()));
            self.pending = None;
            self.fetched.extend(claimed?.deliveries);
        }
        self.half.shared.check_open()
    }

    async fn stop(&mut self) -> Result<(), BrokerError> {
        self.stopped = true;
        if let Some(pending) = &mut self.pending {
            if let Ok(Ok(claimed)) = pending.await {
                self.fetched.extend(claimed.deliveries);
            }
            self.pending = None;
        }
        let (answer, answered) = oneshot::channel();
        let owned = self.half.disown(self.fetched.drain(..));
        let Half { shared, subscription, id, .. } = &*self.half;
        shared.inbox.push(Box::new(GiveBack::at_end(shared, &subscription.queue, *id, owned).answering(answer)));
        answered.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl SqliteSource {
    /// Waits a little for more room, where there is not much and something is in hand.
    async fn wait_for_room(&mut self, max: usize) {
        if self.pending.is_some() {
            return;
        }
        // Kept, so that one who drops this future again and again still comes to a claim.
        let claim_at = *self.claim_at.get_or_insert_with(|| monotonic_now() + CLAIM_WAIT_MAX);
        let prefetch = self.half.prefetch.load(Ordering::Relaxed);
        while self.half.lacks_room_for(worth_a_claim(prefetch, max), max) {
            if timeout_at(claim_at, self.half.room.notified()).await.is_err() {
                break;
            }
        }
        self.claim_at = None;
    }

    async fn claim(&mut self, max: usize) -> Result<Claimed, BrokerError> {
        let pending = match &mut self.pending {
            Some(pending) => pending,
            none => {
                // Before the claim looks: what changes afterwards rings again.
                self.bell.mark_unchanged();
                let (answer, answered) = oneshot::channel();
                let claim = Claim { half: Arc::clone(&self.half), max, claimed: None, answer };
                self.half.shared.inbox.push(Box::new(claim));
                none.insert(answered)
            }
        };
        let claimed = pending.await.unwrap_or_else(|_| Err(closed()));
        self.pending = None;
        claimed
    }

    /// Waits until jobs may have come: the bell, or the next due date.
    async fn wait(&mut self, next_due_ms: Option<i64>) -> Result<(), BrokerError> {
        let rung = match next_due_ms {
            None => self.bell.changed().await,
            Some(due) => {
                let pause = timestamp(due).since(SystemClock.now());
                timeout(pause, self.bell.changed()).await.unwrap_or(Ok(()))
            }
        };
        rung.map_err(|_| closed())?;
        self.half.shared.check_open()
    }
}

impl Half {
    fn room_for(&self, max: usize) -> usize {
        self.prefetch.load(Ordering::Relaxed).saturating_sub(lock(&self.owned).len()).min(max)
    }

    /// Whether there is room for fewer than `wanted`, which [`forget`](Self::forget) then rings for.
    fn lacks_room_for(&self, wanted: usize, max: usize) -> bool {
        // Before the look, so that what is forgotten after it knows.
        self.wanted.store(wanted, Ordering::Relaxed);
        self.room_for(max) < wanted
    }

    /// The delivery is not ours any more: there is room for another.
    pub(super) fn forget(&self, delivery: &Delivery) {
        let (entry, room) = {
            let mut owned = lock(&self.owned);
            let ours = owned.get(&delivery.receipt.tag).is_some_and(|entry| entry.fence == delivery.receipt.part);
            let entry = if ours { owned.remove(&delivery.receipt.tag) } else { None };
            (entry, self.prefetch.load(Ordering::Relaxed).saturating_sub(owned.len()))
        };
        if let Some(entry) = entry {
            if entry.suspect {
                // The next suspect waits for this one's end, not for an arrival.
                self.shared.ring(&delivery.queue);
            }
            entry.end();
        }
        if room >= self.wanted.load(Ordering::Relaxed) {
            self.room.notify_one();
        }
    }

    /// Takes these deliveries out of what is owned, to be given back.
    fn disown(&self, deliveries: impl Iterator<Item = Delivery>) -> HashMap<u64, Owned> {
        let mut owned = lock(&self.owned);
        deliveries.filter_map(|delivery| owned.remove_entry(&delivery.receipt.tag)).collect()
    }
}

/// With room for fewer, a claim would bring little of what may be in hand, and of what was asked for.
fn worth_a_claim(prefetch: usize, max: usize) -> usize {
    prefetch.div_ceil(SHARE).min(max)
}

/// Writes our name on the next jobs.
struct Claim {
    half: Arc<Half>,
    max: usize,
    claimed: Option<(Arc<Holder>, Claimed)>,
    answer: oneshot::Sender<Result<Claimed, BrokerError>>,
}

impl Write for Claim {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        let Half { shared, subscription, id, listed_for, .. } = &*self.half;
        let holder = holder_for(db, shared)?;
        if listed_for.load(Ordering::Relaxed) != holder.id {
            db.prepare_cached("INSERT OR IGNORE INTO consumers (holder, subscription, queue) VALUES (?1, ?2, ?3)")?
                .execute(params![holder.id, id.cast_signed(), subscription.queue.as_str()])?;
        }
        // A look costs less than a statement that would change something and finds nothing: with many queues most claims
        // bring a few jobs.
        let mut next_due_ms = next_due_ms(db, &subscription.queue)?;
        if next_due_ms.is_some_and(|due| due <= now_ms()) {
            wake_the_due(db, &subscription.queue)?;
            next_due_ms = self::next_due_ms(db, &subscription.queue)?;
        }
        let room = self.half.room_for(self.max);
        let owns_suspect = lock(&self.half.owned).values().any(|owned| owned.suspect);
        let hand_out = HandOut { queue: &subscription.queue, holder: &holder, fence: shared.next() };
        let mut deliveries = Vec::new();
        if room > 0 && !owns_suspect && has_suspect(db, &subscription.queue)? {
            deliveries.extend(hand_out.suspect(db)?);
        }
        if room > deliveries.len() {
            deliveries.extend(hand_out.ready(db, room - deliveries.len())?);
        }
        self.claimed = Some((holder, Claimed { deliveries, next_due_ms }));
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let claimed = match (result, self.claimed) {
            (Ok(()), Some((holder, claimed))) => {
                self.half.listed_for.store(holder.id, Ordering::Relaxed);
                let mut owned = lock(&self.half.owned);
                owned.extend(claimed.deliveries.iter().map(|delivery| {
                    let (fence, suspect) = (delivery.receipt.part, delivery.is_suspect());
                    (delivery.receipt.tag, Owned { fence, holder: Arc::clone(&holder), suspect, slot: None })
                }));
                Ok(claimed)
            }
            (Ok(()), None) => Err(closed()),
            (Err(error), _) => Err(error.into_error()),
        };
        if let Err(Ok(claimed)) = self.answer.send(claimed) {
            // The source is gone: `Half`'s drop gives back what is now owned.
            drop(claimed);
        }
    }

    fn durable(&self) -> bool {
        false // A loss of power ends the claimant too.
    }

    fn is_news(&self) -> bool {
        false
    }

    fn rows(&self) -> usize {
        self.max
    }
}

fn wake_the_due(db: &Connection, queue: &QueueName) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE jobs SET state = CASE WHEN starts > 0 THEN 2 ELSE 0 END, due_ms = NULL
         WHERE seq IN (SELECT seq FROM jobs WHERE state = 1 AND queue = ?1 AND due_ms <= ?2 ORDER BY due_ms LIMIT ?3)",
    )?
    .execute(params![queue.as_str(), now_ms(), DUE_MAX])
    .map(drop)
}

fn next_due_ms(db: &Connection, queue: &QueueName) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT due_ms FROM jobs WHERE state = 1 AND queue = ?1 ORDER BY due_ms LIMIT 1")?
        .query_row([queue.as_str()], |row| row.get(0))
        .optional()
}

fn has_suspect(db: &Connection, queue: &QueueName) -> rusqlite::Result<bool> {
    let mut look = db.prepare_cached("SELECT 1 FROM jobs WHERE state = 2 AND queue = ?1 LIMIT 1")?;
    look.exists([queue.as_str()])
}

/// One hand-out: the same fence on all its rows.
struct HandOut<'a> {
    queue: &'a QueueName,
    holder: &'a Arc<Holder>,
    fence: u64,
}

impl HandOut<'_> {
    fn suspect(&self, db: &Connection) -> Result<Vec<Delivery>, Fault> {
        let chosen = "SELECT seq FROM jobs WHERE state = 2 AND queue = :queue ORDER BY starts, seq LIMIT :count";
        self.claim(db, chosen, 1)
    }

    fn ready(&self, db: &Connection, count: usize) -> Result<Vec<Delivery>, Fault> {
        let chosen = "SELECT seq FROM jobs WHERE state = 0 AND queue = :queue ORDER BY priority DESC, seq LIMIT :count";
        self.claim(db, chosen, count)
    }

    fn claim(&self, db: &Connection, chosen: &str, count: usize) -> Result<Vec<Delivery>, Fault> {
        let statement = format!(
            "UPDATE jobs SET state = 3, holder = :holder, fence = :fence WHERE seq IN ({chosen})
             RETURNING {ANSWER}"
        );
        let mut update = db.prepare_cached(&statement)?;
        let mut rows = update.query(named_params! {
            ":holder": self.holder.id,
            ":fence": self.fence.cast_signed(),
            ":queue": self.queue.as_str(),
            ":count": i64::try_from(count).unwrap_or(i64::MAX),
        })?;
        let mut deliveries = Vec::with_capacity(count);
        while let Some(row) = rows.next()? {
            deliveries.push(self.delivery(row)?);
        }
        // `RETURNING` promises no order (sqlite.org/lang_returning.html, section 3).
        deliveries
            .sort_unstable_by_key(|delivery| (std::cmp::Reverse(delivery.envelope.priority), delivery.receipt.tag));
        Ok(deliveries)
    }

    fn delivery(&self, row: &Row<'_>) -> Result<Delivery, Fault> {
        let (envelope, counts) = job(row, self.queue)?;
        let seq: i64 = row.get(SEQ)?;
        let receipt = Receipt { epoch: self.holder.id.cast_unsigned(), tag: seq.cast_unsigned(), part: self.fence };
        Ok(Delivery::new(envelope, self.queue.clone(), counts, receipt, self.holder.lost.clone()))
    }
}

/// The job in a row of `queue`, with its attempt and its starts.
///
/// What we wrote ourselves can be read; a row that somebody changed by hand
/// must not stop the queue, so what cannot be read is replaced by what can.
pub(super) fn job(row: &Row<'_>, queue: &QueueName) -> rusqlite::Result<(Envelope, (u32, u32))> {
    let (id, name, headers) = (column::text(row, ID)?, column::text(row, NAME)?, column::text(row, HEADERS)?);
    let body: Vec<u8> = row.get(BODY)?;
    let envelope = Envelope {
        id: id.and_then(|id| id.parse().ok()).unwrap_or_else(JobId::new),
        route: Route::Queue(queue.clone()),
        name: name.and_then(|name| name.parse::<JobName>().ok()),
        body: Body(body.into()),
        headers: headers.and_then(|json| serde_json::from_str::<Headers>(&json).ok()).unwrap_or_default(),
        priority: column::priority(row, PRIORITY)?,
        due: Due::Now,
        enqueued_at: timestamp(row.get(ENQUEUED_MS)?),
        expires_at: row.get::<_, Option<i64>>(EXPIRES_MS)?.map(timestamp),
        unknown_since: row.get::<_, Option<i64>>(UNKNOWN_SINCE_MS)?.map(timestamp),
        caller: caller(row)?,
        bundle: None,
    };
    let (retries, starts) = (column::count(row, RETRIES)?, column::count(row, STARTS)?);
    Ok((envelope, (retries.saturating_add(1), starts)))
}

fn caller(row: &Row<'_>) -> rusqlite::Result<Option<Caller>> {
    let Some(address) = column::text(row, REPLY_TO)? else { return Ok(None) };
    let correlation = column::text(row, CORRELATION)?.unwrap_or_default();
    let retries = row.get::<_, Option<i64>>(CALL_RETRIES)?.unwrap_or(0) != 0;
    Ok(Some(Caller { address, correlation, retries }))
}

/// What a claim answers of each job, in the order of the numbers below: to look for a column by its name takes as long
/// as to read it.
const ANSWER: &str = "id, name, priority, enqueued_ms, headers, body, starts, retries, expires_ms, unknown_since_ms,
                      reply_to, correlation, call_retries, seq";

const ID: usize = 0;
const NAME: usize = 1;
const PRIORITY: usize = 2;
const ENQUEUED_MS: usize = 3;
const HEADERS: usize = 4;
const BODY: usize = 5;
const STARTS: usize = 6;
const RETRIES: usize = 7;
const EXPIRES_MS: usize = 8;
const UNKNOWN_SINCE_MS: usize = 9;
const REPLY_TO: usize = 10;
const CORRELATION: usize = 11;
const CALL_RETRIES: usize = 12;
const SEQ: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_waits_for_room_for_a_quarter_of_the_prefetch_but_not_for_more_than_was_asked() {
        assert_eq!(worth_a_claim(256, 256), 64);
        assert_eq!(worth_a_claim(32, 32), 8);
        assert_eq!(worth_a_claim(4, 4), 1, "each is a quarter");
        assert_eq!(worth_a_claim(1, 1), 1);
        assert_eq!(worth_a_claim(256, 1), 1, "one was asked for");
    }
}
