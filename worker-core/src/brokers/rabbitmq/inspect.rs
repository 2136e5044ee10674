//! The view for people: queues by a passive look, dead letters by reading them and giving them back.
//!
//! AMQP can list neither queues nor messages. A dead letter is read by taking
//! it, and is back in its place when the channel gives back what it holds, all
//! at once. While one person reads a dead-letter queue, another waits: an
//! exclusive queue of its name stands for the turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    broker::{Cursor, DeadJob, DeadPage, Finding, Inspector, Page, Plan, QueueStats, Scheduled, Selection, once},
    brokers::rabbitmq::{
        compare,
        connection::Tasks,
        course::Place,
        declare::broker_error,
        link::{Channel, Declare, LinkError, LinkErrorKind},
        shared::Shared,
        topology::{self, Ladder},
        wire::{self, Copy, DeathDate, Incoming, Message},
    },
    envelope::{Body, Priority},
    error::{BrokerError, BrokerErrorKind},
    id::JobId,
    name::QueueName,
    telemetry::TARGET,
    time::Timestamp,
};

/// How long a reader waits at most for what it has given back, and between two looks.
const GIVEN_BACK_WAIT_MAX: Duration = Duration::from_secs(2);
const GIVEN_BACK_PAUSE: Duration = Duration::from_millis(10);

/// How long one person waits for another who reads the same dead-letter queue.
const TURN_WAIT_MAX: Duration = Duration::from_secs(30);

/// The first and the longest pause between two looks whether it is our turn. Each costs a channel,
/// which the server closes.
const TURN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A dead letter that was looked at so often is renewed at the next look, and so many at the same time.
pub(super) const LOOKS_KEPT: i64 = 2;
const RENEWED_AT_ONCE: usize = 200;

pub(super) struct RabbitInspector {
    shared: Arc<Shared>,
    /// Of this process; the server keeps turns between connections.
    turn: Arc<Mutex<()>>,
}

impl RabbitInspector {
    pub(super) fn new(shared: Arc<Shared>, turn: Arc<Mutex<()>>) -> Self {
        Self { shared, turn }
    }

    /// The queues that exist of those that are `known` or were met, by name.
    async fn existing(&self, known: &[QueueName]) -> Result<Vec<QueueName>, BrokerError> {
        let wanted: BTreeSet<_> = known.iter().cloned().chain(self.shared.declarer.met()).collect();
        let mut found = Vec::new();
        for queue in wanted {
            if self.depth(queue.as_str()).await?.is_some() {
                found.push(queue);
            }
        }
        Ok(found)
    }

    /// What waits in a queue that is made when it is first needed; none where it was not.
    async fn depth_of_seldom(&self, name: &str) -> Result<u64, BrokerError> {
        if self.shared.declarer.is_absent(name) {
            return Ok(0);
        }
        let found = self.depth(name).await?;
        if found.is_none() {
            self.shared.declarer.note_absent(name);
        }
        Ok(found.map_or(0, |depth| u64::from(depth.ready)))
    }

    async fn depth(&self, name: &str) -> Result<Option<super::link::Depth>, BrokerError> {
        let found = self.shared.declarer.depth(name).await;
        found.map_err(|error| broker_error(&format!("queue `{name}` cannot be looked at"), &error))
    }

    /// The queues whose dead letters `selection` is about.
    async fn selected(&self, selection: &Selection) -> Result<Vec<QueueName>, BrokerError> {
        match &*selection.queues {
            queues @ [_, ..] => Ok(once(queues)),
            [] => self.existing(&selection.known).await,
        }
    }

    /// Reads all dead letters of `queue` in their order, until `visit` has seen enough.
    ///
    /// What `visit` does not take is given back, in its place.
    async fn read(&self, queue: &QueueName, visit: &mut dyn Visit) -> Result<(), BrokerError> {
        let name = self.shared.declarer.dead_letters(queue);
        if self.depth(&name).await?.is_none() {
            return Ok(());
        }
        let turn = self.take_turn(&name).await?;
        let done = self.read_all(queue, &name, visit).await;
        if let Some(turn) = turn {
            turn.release().await;
        }
        done
    }

    async fn read_all(&self, queue: &QueueName, name: &str, visit: &mut dyn Visit) -> Result<(), BrokerError> {
        let failed =
            |error: LinkError| broker_error(&format!("the dead letters of queue `{queue}` cannot be read"), &error);
        // So many and no more: what is put back as a copy stands at the end, and would come again.
        let mut left = self.depth(name).await?.map_or(0, |depth| depth.ready);
        let channel = self.shared.declarer.channel_apart().await.map_err(failed)?;
        let (mut kept, mut aged, mut done) = (BTreeSet::new(), Vec::new(), Ok(()));
        while left > 0
            && let Some((incoming, _)) = channel.get(name).await.map_err(failed)?
        {
            left -= 1;
            let Incoming { tag, message, .. } = incoming;
            match visit.visit(&self.shared, queue, &message).await {
                Ok(Visited::Gone) => {
                    channel.ack(tag, false).await.map_err(failed)?;
                    continue;
                }
                Ok(Visited::Keep) => {}
                Ok(Visited::KeepAndEnd) => left = 0,
                Err(error) => (left, done) = (0, Err(error)),
            }
            if message.delivery_count() >= LOOKS_KEPT {
                aged.push((tag, message));
            }
            kept.insert(tag);
            if aged.len() >= RENEWED_AT_ONCE {
                self.renew(&*channel, queue, std::mem::take(&mut aged), &mut kept).await.map_err(failed)?;
            }
        }
        self.renew(&*channel, queue, aged, &mut kept).await.map_err(failed)?;
        if let Some(last) = kept.last() {
            channel.requeue(*last, true).await.map_err(failed)?;
        }
        channel.close().await;
        self.wait_for(name, kept.len()).await;
        done
    }

    /// Waits until what was given back is there again: the next reader would not see it. A quorum queue takes it
    /// back some milliseconds after the server has read that it should (seen on 3.10 under load: 49 of 50 listed).
    async fn wait_for(&self, name: &str, given_back: usize) {
        let back = async {
            while let Ok(Some(depth)) = self.depth(name).await
                && u64::from(depth.ready) < given_back as u64
            {
                sleep(GIVEN_BACK_PAUSE).await;
            }
        };
        // Another tool may have taken some of them.
        drop(timeout(GIVEN_BACK_WAIT_MAX, back).await);
    }

    /// Replaces dead letters by copies of themselves: each look is counted, and a limit that others
    /// have set, in the queue's arguments or by a policy, drops them.
    async fn renew(
        &self,
        channel: &dyn Channel,
        queue: &QueueName,
        aged: Vec<(u64, Message)>,
        kept: &mut BTreeSet<u64>,
    ) -> Result<(), LinkError> {
        let renewing = aged.into_iter().map(|(tag, message)| async move {
            let sent = self.shared.send(Place::DeadLetters, queue, wire::renewed(message)).await;
            sent.map(|()| tag)
        });
        for renewed in join_all(renewing).await {
            match renewed {
                Ok(tag) => {
                    channel.ack(tag, false).await?;
                    kept.remove(&tag);
                }
                // It goes back as it is.
                Err(error) => {
                    tracing::warn!(target: TARGET, %queue, error = error.detail(), "a dead letter that was looked at often could not be renewed");
                }
            }
        }
        Ok(())
    }

    /// Waits until nobody else reads this queue; `None` where we may not say that we do.
    async fn take_turn(&self, name: &str) -> Result<Option<Turn>, BrokerError> {
        let lock = format!("{name}.turn");
        let failed = |error: LinkError| broker_error(&format!("`{name}` cannot be read"), &error);
        let taking = async {
            let mut pause = TURN_PAUSE.0;
            loop {
                let channel = self.shared.declarer.channel_apart().await?;
                match channel.declare(&lock, Declare::Exclusive).await {
                    Ok(_) => {
                        let tasks = self.shared.plumbing.clone();
                        return Ok(Some(Turn { held: Some((channel, lock.clone())), tasks }));
                    }
                    Err(error) if error.kind == LinkErrorKind::Locked => {
                        sleep(pause).await;
                        pause = (pause * 2).min(TURN_PAUSE.1);
                    }
                    Err(error) if error.kind == LinkErrorKind::Refused => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(TURN_WAIT_MAX, taking).await.map_or_else(
            |_| {
                let within = humantime::format_duration(TURN_WAIT_MAX);
                let message = format!("somebody else has been reading `{name}` for {within}; try again later");
                Err(BrokerError::new(BrokerErrorKind::Transient, message))
            },
            |taken| taken.map_err(failed),
        )
    }

    async fn change(&self, selection: &Selection, limit: usize, replay: bool) -> Result<u64, BrokerError> {
        self.shared.check()?;
        let _turn = self.turn.lock().await;
        let queues = self.selected(selection).await?;
        // The oldest of several queues are found by looking at all of them first.
        let oldest = if queues.len() > 1 { Some(self.oldest(selection, &queues, limit).await?) } else { None };
        let mut changing = Change { selection, oldest, left: limit, replay, changed: 0 };
        for queue in queues {
            if changing.left == 0 {
                break;
            }
            self.read(&queue, &mut changing).await?;
        }
        Ok(changing.changed)
    }

    /// The places of the `limit` oldest of the selected.
    async fn oldest(
        &self,
        selection: &Selection,
        queues: &[QueueName],
        limit: usize,
    ) -> Result<BTreeSet<u128>, BrokerError> {
        let mut places = Oldest { selection, limit, places: BTreeSet::new() };
        for queue in queues {
            self.read(queue, &mut places).await?;
        }
        Ok(places.places)
    }
}

/// A turn at one dead-letter queue. It ends when it is dropped, too: whoever reads may be dropped
/// half-way, and the others would wait until our connection ends.
struct Turn {
    held: Option<(Box<dyn Channel>, String)>,
    tasks: Tasks,
}

impl Turn {
    async fn release(mut self) {
        if let Some((channel, lock)) = self.held.take() {
            give_up(&*channel, &lock).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((channel, lock)) = self.held.take() {
            self.tasks.spawn(async move { give_up(&*channel, &lock).await });
        }
    }
}

async fn give_up(channel: &dyn Channel, lock: &str) {
    // If this fails, the queue goes with the connection.
    drop(channel.delete(lock).await);
    channel.close().await;
}

/// What became of a dead letter that was looked at.
enum Visited {
    /// It stays.
    Keep,
    /// It stays, and enough was seen.
    KeepAndEnd,
    /// It is somewhere else, or shall be nowhere.
    Gone,
}

#[async_trait]
trait Visit: Send {
    async fn visit(
        &mut self,
        shared: &Arc<Shared>,
        queue: &QueueName,
        message: &Message,
    ) -> Result<Visited, BrokerError>;
}

/// Collects the first `limit` dead jobs behind a place.
struct List<'a> {
    selection: &'a Selection,
    after: Option<Cursor>,
    limit: usize,
    /// By place: no more than one above the limit.
    found: BTreeMap<u128, DeadJob>,
}

#[async_trait]
impl Visit for List<'_> {
    async fn visit(&mut self, _: &Arc<Shared>, queue: &QueueName, message: &Message) -> Result<Visited, BrokerError> {
        let place = place(queue, message);
        let worst = self.found.last_key_value().map(|(place, _)| *place);
        let full = self.found.len() > self.limit && worst.is_some_and(|worst| place > worst);
        if self.after.is_none_or(|Cursor(after)| place > after) && !full && selects(self.selection, queue, message) {
            self.found.insert(place, dead_job(queue, message));
            if self.found.len() > self.limit + 1 {
                self.found.pop_last();
            }
        }
        Ok(Visited::Keep)
    }
}

/// Counts.
struct Count<'a> {
    selection: &'a Selection,
    count: u64,
}

#[async_trait]
impl Visit for Count<'_> {
    async fn visit(&mut self, _: &Arc<Shared>, queue: &QueueName, message: &Message) -> Result<Visited, BrokerError> {
        self.count += u64::from(selects(self.selection, queue, message));
        Ok(Visited::Keep)
    }
}

/// Finds the oldest.
struct Oldest<'a> {
    selection: &'a Selection,
    limit: usize,
    places: BTreeSet<u128>,
}

#[async_trait]
impl Visit for Oldest<'_> {
    async fn visit(&mut self, _: &Arc<Shared>, queue: &QueueName, message: &Message) -> Result<Visited, BrokerError> {
        if selects(self.selection, queue, message) {
            self.places.insert(place(queue, message));
            if self.places.len() > self.limit {
                self.places.pop_last();
            }
        }
        Ok(Visited::Keep)
    }
}

/// Replays or drops.
struct Change<'a> {
    selection: &'a Selection,
    /// The places to change, where it is not simply the first.
    oldest: Option<BTreeSet<u128>>,
    left: usize,
    replay: bool,
    changed: u64,
}

#[async_trait]
impl Visit for Change<'_> {
    async fn visit(
        &mut self,
        shared: &Arc<Shared>,
        queue: &QueueName,
        message: &Message,
    ) -> Result<Visited, BrokerError> {
        if self.left == 0 {
            return Ok(Visited::KeepAndEnd);
        }
        let is_old = self.oldest.as_ref().is_none_or(|oldest| oldest.contains(&place(queue, message)));
        if !is_old || !selects(self.selection, queue, message) {
            return Ok(Visited::Keep);
        }
        if self.replay {
            // In its queue first, and out of the dead then.
            let copy = Copy::of(message).id(&id(queue, message)).anew().message();
            shared.send(Place::Queue, queue, copy).await?;
        }
        self.left -= 1;
        self.changed += 1;
        Ok(Visited::Gone)
    }
}

/// The place of a dead letter among all: when it died, and, of the same instant, which it is.
fn place(queue: &QueueName, message: &Message) -> u128 {
    let DeathDate(us) = wire::death_date(message);
    (u128::from(us) << 64) | u128::from(fingerprint(queue, message))
}

/// Tells messages of one instant apart: FNV-1a, the same in every process and version.
fn fingerprint(queue: &QueueName, message: &Message) -> u64 {
    let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    let bytes = queue.as_str().bytes().chain([0]).chain(id.bytes()).chain([0]).chain(message.body.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The id of a dead letter: one that came without has the same one each time it is looked at.
fn id(queue: &QueueName, message: &Message) -> JobId {
    let own = message.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
    own.unwrap_or_else(|| {
        let made = format!("unnamed-{:016x}", fingerprint(queue, message));
        made.parse().unwrap_or_else(|_| JobId::new())
    })
}

fn died_at(message: &Message) -> Timestamp {
    let DeathDate(us) = wire::death_date(message);
    Timestamp::from_unix_ms(us / 1_000)
}

fn selects(selection: &Selection, queue: &QueueName, message: &Message) -> bool {
    let kind = message.properties.kind();
    (selection.queues.is_empty() || selection.queues.contains(queue))
        && selection.job.as_ref().is_none_or(|job| kind.as_ref().is_some_and(|kind| kind.as_str() == job.as_str()))
        && selection.kind.is_none_or(|kind| wire::failure_of(message).kind == kind)
        && (selection.ids.is_empty() || selection.ids.contains(&id(queue, message)))
        && selection.died_until.is_none_or(|date| died_at(message) <= date)
}

fn dead_job(queue: &QueueName, message: &Message) -> DeadJob {
    let count = |name: &str| message.integer(name).and_then(|count| u32::try_from(count).ok());
    let level = message.properties.priority().unwrap_or(Priority::DEFAULT.level());
    let (id, died_at) = (id(queue, message), died_at(message));
    DeadJob {
        queue: queue.clone(),
        job: message.properties.kind().as_ref().and_then(|kind| kind.as_str().parse().ok()),
        attempts: count(wire::ATTEMPTS).or_else(|| count(wire::RETRY_COUNT)).unwrap_or(0),
        starts: count(wire::STARTS).unwrap_or(0),
        failure: wire::failure_of(message),
        died_at,
        enqueued_at: wire::enqueued_at(message, &id).unwrap_or(died_at),
        id,
        priority: Priority::new(level).unwrap_or(Priority::MAX),
        headers: wire::application_headers(message),
        body: Body::from(message),
    }
}

#[async_trait]
impl Inspector for RabbitInspector {
    async fn exists(&self, queue: &QueueName) -> Result<Option<bool>, BrokerError> {
        match self.shared.declarer.depth(queue.as_str()).await {
            Ok(found) => Ok(Some(found.is_some())),
            // From 4.3 on, the right is asked for before the queue is.
            Err(error) if error.kind == LinkErrorKind::Refused => Ok(None),
            Err(error) => Err(broker_error(&format!("queue `{queue}` cannot be looked at"), &error)),
        }
    }

    async fn queues(&self, known: &[QueueName]) -> Result<Vec<QueueStats>, BrokerError> {
        self.shared.check()?;
        let mut all = Vec::new();
        for queue in self.existing(known).await? {
            let Some(depth) = self.depth(queue.as_str()).await? else { continue };
            let suspects = self.depth(&topology::suspects(&queue)).await?;
            let dead = self.depth(&self.shared.declarer.dead_letters(&queue)).await?;
            let ready = |depth: Option<super::link::Depth>| depth.map_or(0, |depth| u64::from(depth.ready));
            let mut stats = QueueStats::empty(queue);
            // AMQP tells neither what is unacknowledged nor what waits for which queue.
            (stats.running, stats.delayed, stats.retrying) = (None, None, None);
            (stats.ready, stats.dead) = (ready(Some(depth)) + ready(suspects), ready(dead));
            stats.consumers = depth.consumers.into();
            all.push(stats);
        }
        Ok(all)
    }

    async fn running(&self, queues: &[QueueName]) -> Result<BTreeMap<QueueName, u64>, BrokerError> {
        self.shared.check()?;
        let Some(api) = &self.shared.management else { return Ok(BTreeMap::new()) };
        let names = queues.iter().map(ToString::to_string).collect();
        let held = api.held(names, queues.iter().map(topology::suspects).collect()).await?;
        // A queue without a number has one we do not know, whatever its suspects are.
        let of = |queue: &QueueName| {
            let suspects = held.get(&topology::suspects(queue)).copied().unwrap_or(0);
            held.get(queue.as_str()).map(|held| (queue.clone(), held + suspects))
        };
        Ok(queues.iter().filter_map(of).collect())
    }

    async fn retrying(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError> {
        self.shared.check()?;
        let mut jobs = 0;
        for rung in topology::all_rungs() {
            jobs += self.depth_of_seldom(&topology::retry(queue, rung)).await?;
        }
        Ok(Some(jobs))
    }

    async fn scheduled(&self) -> Result<Option<Scheduled>, BrokerError> {
        self.shared.check()?;
        let ladder = &self.shared.declarer.ladder;
        let mut jobs = self.depth_of_seldom(&ladder.due()).await?;
        for level in Ladder::levels() {
            jobs += self.depth_of_seldom(&ladder.name(level)).await?;
        }
        Ok(Some(Scheduled::new(ladder.namespace().to_owned(), jobs)))
    }

    async fn compare(&self, plan: &Plan) -> Result<Vec<Finding>, BrokerError> {
        self.shared.check()?;
        compare::compare(&self.shared.declarer, plan).await
    }

    async fn dead(&self, selection: &Selection, page: Page) -> Result<DeadPage, BrokerError> {
        self.shared.check()?;
        let _turn = self.turn.lock().await;
        let mut list = List { selection, after: page.after, limit: page.limit, found: BTreeMap::new() };
        for queue in self.selected(selection).await? {
            self.read(&queue, &mut list).await?;
        }
        let more = list.found.len() > page.limit;
        let next = list.found.keys().nth(page.limit.saturating_sub(1)).filter(|_| more).map(|place| Cursor(*place));
        Ok(DeadPage::new(list.found.into_values().take(page.limit).collect(), next))
    }

    async fn count_dead(&self, selection: &Selection) -> Result<u64, BrokerError> {
        self.shared.check()?;
        let _turn = self.turn.lock().await;
        let mut counting = Count { selection, count: 0 };
        for queue in self.selected(selection).await? {
            self.read(&queue, &mut counting).await?;
        }
        Ok(counting.count)
    }

    async fn replay(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        self.change(selection, limit, true).await
    }

    async fn drop_dead(&self, selection: &Selection, limit: usize) -> Result<u64, BrokerError> {
        self.change(selection, limit, false).await
    }
}
