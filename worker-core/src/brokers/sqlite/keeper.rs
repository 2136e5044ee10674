//! Shows that this process lives, and sees which others do not.
//!
//! A thread of its own, because a runtime that user code blocks must not make
//! the process look dead. Nobody's wall clock is trusted: a lock that is free
//! says dead, and a beat that stands still for a whole lease, on the
//! observer's own monotonic clock, says frozen.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Builder, JoinHandle},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use rusqlite::Connection;
use tokio::time::Instant;

use crate::{
    brokers::sqlite::{
        holder::{Sighting, sight},
        replies,
        rescue::{Rescue, lose},
        schema,
        shared::{Shared, now_ms},
    },
    telemetry::TARGET,
    time::monotonic_now,
};

/// Between two rounds. A killed process is noticed within one, so its jobs run
/// elsewhere well within a second; a round costs about 20 µs.
const ROUND: Duration = Duration::from_millis(200);

/// The same where the file system does not tell of changes: they are looked for instead.
const ROUND_UNTOLD: Duration = Duration::from_millis(25);

/// Between two events of the log file: bounds their cost under load. Events that
/// come meanwhile are merged by the kernel.
const EVENT_PAUSE: Duration = Duration::from_millis(1);

/// A wall clock that moved this much against the monotonic one was set.
const CLOCK_JUMP_MS: u64 = 100;

pub(super) struct Keeper {
    #[cfg(feature = "testing")]
    frozen: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    // Held for its thread.
    _watcher: Option<RecommendedWatcher>,
}

impl Keeper {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let watcher = watch(shared)
            .inspect_err(|error| {
                tracing::warn!(target: TARGET, %error, "changes by other processes are not announced here; looking every {ROUND_UNTOLD:?}");
            })
            .ok();
        let frozen = Arc::new(AtomicBool::new(false));
        let rounds = Rounds {
            shared: Arc::downgrade(shared),
            frozen: Arc::clone(&frozen),
            pause: if watcher.is_some() { ROUND } else { ROUND_UNTOLD },
            beat: 0,
            seen: HashMap::new(),
            clock: (now_ms(), monotonic_now()),
            peers: Peers { db: None, version: None, ids: Vec::new() },
            last: monotonic_now(),
        };
        let thread = Builder::new().name("worker-sqlite-keeper".into()).spawn(|| rounds.run())?;
        Ok(Self {
            #[cfg(feature = "testing")]
            frozen,
            thread,
            _watcher: watcher,
        })
    }

    /// Waits until the thread has seen that the broker is closed.
    pub(super) fn join(self) {
        self.thread.thread().unpark();
        // A panic in it has been reported by the panic hook.
        drop(self.thread.join());
    }

    #[cfg(feature = "testing")]
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
    }
}

/// Has the writer look whenever another process, or this one, announces a commit.
fn watch(shared: &Arc<Shared>) -> notify::Result<RecommendedWatcher> {
    let inbox = Arc::clone(&shared.inbox);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may be an overflow: events were lost, so look as well.
        if event.map_or(true, |event| matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)))) {
            inbox.look();
        }
        pause(EVENT_PAUSE);
    })?;
    watcher.watch(&shared.log_path(), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

struct Rounds {
    shared: Weak<Shared>,
    frozen: Arc<AtomicBool>,
    pause: Duration,
    beat: u64,
    /// The last beat seen of each other holder, and since when it stands still.
    seen: HashMap<i64, (u64, Instant)>,
    clock: (i64, Instant),
    peers: Peers,
    /// When the last round began.
    last: Instant,
}

impl Rounds {
    fn run(mut self) {
        while let Some(shared) = self.shared.upgrade().filter(|shared| shared.check_open().is_ok()) {
            if !self.frozen.load(Ordering::SeqCst) {
                self.round(&shared);
            }
            drop(shared);
            thread::park_timeout(self.pause);
        }
    }

    fn round(&mut self, shared: &Arc<Shared>) {
        self.show_life(shared);
        if shared.files.check().is_err() {
            return shared.ring_all(); // Those who wait would wait for ever: they get this error from the writer.
        }
        if self.clock_was_set() {
            shared.ring_all(); // Those who wait for a due date compute it anew.
        }
        if self.peers.refresh(shared) {
            shared.inbox.look(); // In case the announcement of the change got lost.
        }
        if shared.replies_left.swap(false, Ordering::SeqCst) {
            replies::collect(shared);
        }
        self.discount_own_sleep(shared.options.lease);
        let own = shared.holder().map(|holder| holder.id);
        let others: Vec<_> = self.peers.ids.iter().copied().filter(|id| Some(*id) != own).collect();
        self.seen.retain(|id, _| others.contains(id));
        for id in others {
            self.observe(shared, id);
        }
    }

    /// What stood still while we were stopped ourselves, as all processes of a
    /// paused container are, may not have had its turn yet: it has a whole lease from now.
    fn discount_own_sleep(&mut self, lease: Duration) {
        let since = std::mem::replace(&mut self.last, monotonic_now());
        if since.elapsed() >= lease / 2 {
            self.seen.clear();
        }
    }

    fn show_life(&mut self, shared: &Shared) {
        let Some(holder) = shared.holder() else { return };
        if holder.file.is_taken_over() {
            tracing::warn!(target: TARGET, "this process was frozen for longer than its lease; its jobs were taken over");
            lose(shared, &holder);
            return shared.ring_all(); // The next claim registers anew.
        }
        self.beat += 1;
        if let Err(error) = holder.file.beat(self.beat) {
            tracing::warn!(target: TARGET, %error, "cannot show that this worker lives");
        }
    }

    fn clock_was_set(&mut self) -> bool {
        let (wall, monotonic) = std::mem::replace(&mut self.clock, (now_ms(), monotonic_now()));
        let expected = wall + i64::try_from(self.clock.1.duration_since(monotonic).as_millis()).unwrap_or(i64::MAX);
        self.clock.0.abs_diff(expected) > CLOCK_JUMP_MS
    }

    fn observe(&mut self, shared: &Arc<Shared>, id: i64) {
        let rescue = |lock| shared.inbox.push(Box::new(Rescue::new(Arc::clone(shared), id, lock)));
        match sight(shared.folder(), id) {
            Ok(Sighting::Dead(lock)) => rescue(Some(lock)),
            Ok(Sighting::Missing) => rescue(None),
            Ok(Sighting::Lives { beat }) => {
                let (last, since) = self.seen.entry(id).or_insert_with(|| (beat, monotonic_now()));
                if *last != beat {
                    (*last, *since) = (beat, monotonic_now());
                } else if since.elapsed() >= shared.options.lease {
                    *since = monotonic_now(); // Should the rescue fail, it is tried again after another lease.
                    rescue(None);
                }
            }
            Err(error) => {
                tracing::warn!(target: TARGET, %error, holder = id, "cannot see whether another worker lives")
            }
        }
    }
}

/// The ids of all holders, read when the database has changed.
struct Peers {
    db: Option<Connection>,
    version: Option<i64>,
    ids: Vec<i64>,
}

impl Peers {
    /// Reads the ids anew where the database has changed; says whether it has.
    fn refresh(&mut self, shared: &Shared) -> bool {
        // An unreadable database is reported by those who need it; here the last list will do.
        let Ok(Some((version, ids))) = self.changed(shared) else { return false };
        (self.version, self.ids) = (Some(version), ids);
        true
    }

    fn changed(&mut self, shared: &Shared) -> Result<Option<(i64, Vec<i64>)>, rusqlite::Error> {
        let db = match &mut self.db {
            Some(db) => db,
            none => match schema::connect(shared.path(), Duration::ZERO) {
                Ok(db) => none.insert(db),
                Err(_) => return Ok(None),
            },
        };
        let version = db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.version == Some(version) {
            return Ok(None);
        }
        let ids =
            db.prepare_cached("SELECT id FROM holders")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Some((version, ids)))
    }
}

#[expect(clippy::disallowed_methods, reason = "on the watcher's own thread, to bound how often it wakes the writer")]
fn pause(pause: Duration) {
    thread::sleep(pause);
}
