//! The one thread that writes: what has come together is committed together.
//!
//! A commit that must reach the disk costs a quarter of a millisecond however
//! much is in it, so everything that waits when the last one ends shares the
//! next. Each operation is a [`Write`]: it puts its changes into the
//! transaction, and is told afterwards whether they are true. If one fails, the
//! transaction is rolled back and each is tried alone, so that none suffers for
//! another.

use std::{
    collections::VecDeque,
    fs::{File, FileTimes},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode};

use crate::{
    brokers::sqlite::{Synchronous, files::Files, schema},
    error::{BrokerError, BrokerErrorKind},
    telemetry::TARGET,
    time::monotonic_now,
};

/// Rows in one transaction: 1,000 take about 5 ms, more would delay those who wait.
const GROUP_ROWS_MAX: usize = 1_000;

/// The first and the longest pause while another process writes.
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(5));

/// One operation on the database.
pub(super) trait Write: Send {
    /// Makes the changes. Called again, in a new transaction, when the first was rolled back.
    fn apply(&mut self, db: &Connection) -> Result<(), Fault>;

    /// Tells whether the changes are true.
    fn finish(self: Box<Self>, result: Result<(), WriteError>);

    /// Whether the changes must outlive a loss of power.
    fn durable(&self) -> bool {
        true
    }

    /// Whether it may give another process something to do.
    fn is_news(&self) -> bool {
        true
    }

    /// About how many rows it changes.
    fn rows(&self) -> usize {
        1
    }
}

/// Why changes could not be put into the transaction.
#[derive(Debug)]
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    Refused(BrokerError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Why changes are not true, or may not be.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing was changed.
    Failed(BrokerError),
    /// The disk failed in the commit itself.
    Unknown(BrokerError),
}

impl WriteError {
    pub(super) fn into_error(self) -> BrokerError {
        match self {
            Self::Failed(error) | Self::Unknown(error) => error,
        }
    }
}

/// What waits for the writer. Bounded by those who put it there: enqueueing by
/// permits, everything else by the prefetch.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    writes: VecDeque<Box<dyn Write>>,
    look: bool,
    ended: bool,
}

impl Inbox {
    /// Puts in a write; after the end it fails at once.
    pub(super) fn push(&self, write: Box<dyn Write>) {
        self.push_all(vec![write]);
    }

    /// Puts in several, of which each is a write of its own.
    pub(super) fn push_all(&self, writes: Vec<Box<dyn Write>>) {
        let mut state = self.state();
        if state.ended {
            drop(state);
            return writes.into_iter().for_each(|write| write.finish(Err(WriteError::Failed(closed()))));
        }
        state.writes.extend(writes);
        drop(state);
        self.arrived.notify_one();
    }

    /// Asks to look whether another process has changed the database.
    pub(super) fn look(&self) {
        self.state().look = true;
        self.arrived.notify_one();
    }

    /// Lets the writer finish what is here, and refuses what comes later.
    pub(super) fn close(&self) {
        self.state().ended = true;
        self.arrived.notify_one();
    }

    /// Nobody takes anything out any more: tells those who wait.
    pub(super) fn abandon(&self) {
        let left = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.writes)
        };
        left.into_iter().for_each(|write| write.finish(Err(WriteError::Failed(closed()))));
    }

    #[cfg(feature = "testing")]
    pub(super) fn crash(&self) {
        // Dropped outside the lock, without an answer: the process is to look dead.
        let dropped = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.writes)
        };
        drop(dropped);
        self.arrived.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, and whether to look; `None` at the end.
    fn take(&self) -> Option<(Vec<Box<dyn Write>>, bool)> {
        let mut state = self.state();
        loop {
            if state.look || !state.writes.is_empty() {
                break;
            }
            if state.ended {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut group, mut rows) = (Vec::new(), 0);
        while rows < GROUP_ROWS_MAX
            && let Some(write) = state.writes.pop_front()
        {
            rows += write.rows();
            group.push(write);
        }
        Some((group, std::mem::take(&mut state.look)))
    }
}

/// The thread's own things.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    /// The file `-wal`, there for as long as a connection is.
    pub(super) log: File,
    pub(super) files: Arc<Files>,
    pub(super) synchronous: Synchronous,
    pub(super) busy_timeout: Duration,
    pub(super) inbox: Arc<Inbox>,
    /// Called when another process has changed the database.
    pub(super) on_foreign_change: Box<dyn Fn(&Connection) + Send>,
}

impl Writer {
    /// Writes until the inbox ends.
    pub(super) fn run(mut self) {
        let mut seen = self.data_version();
        while let Some((group, look)) = self.inbox.take() {
            if !group.is_empty() {
                self.write(group);
            }
            // Read only when asked: our own commits do not change it.
            if look {
                let now = self.data_version();
                if now != seen {
                    seen = now;
                    (self.on_foreign_change)(&self.db);
                }
            }
        }
    }

    fn data_version(&self) -> Option<i64> {
        self.db.prepare_cached("PRAGMA data_version").and_then(|mut pragma| pragma.query_row([], |row| row.get(0))).ok()
    }

    /// Commits the group, or each of it alone.
    fn write(&mut self, mut group: Vec<Box<dyn Write>>) {
        match self.commit(&mut group) {
            Ok(()) => {
                if group.iter().any(|write| write.is_news()) {
                    self.announce();
                }
                group.into_iter().for_each(|write| write.finish(Ok(())));
            }
            Err(Attempt::Rejected(_)) if group.len() > 1 => {
                for write in group {
                    self.write(vec![write]);
                }
            }
            Err(attempt) => {
                for write in group {
                    write.finish(Err(attempt.error()));
                }
            }
        }
    }

    /// Has other processes look, see `keeper`: by a change of the log's dates.
    ///
    /// Its content changes before the commit can be seen, so that is no sign.
    /// SQLite holds no lock on this file, so a handle of our own harms none.
    fn announce(&self) {
        let dates = FileTimes::new().set_accessed(UNIX_EPOCH).set_modified(UNIX_EPOCH);
        // Where it fails, the others look by themselves within a round of their keepers.
        drop(self.log.set_times(dates));
    }

    /// One transaction with all of `group`.
    fn commit(&mut self, group: &mut [Box<dyn Write>]) -> Result<(), Attempt> {
        let durable = self.synchronous == Synchronous::Full && group.iter().any(|write| write.durable());
        self.begin(durable)?;
        let applied = group.iter_mut().try_for_each(|write| write.apply(&self.db));
        if let Err(fault) = applied {
            self.rollback();
            return Err(Attempt::Rejected(match fault {
                Fault::Sqlite(error) => schema::failure(&self.path, "write", &error),
                Fault::Refused(error) => error,
            }));
        }
        self.execute("COMMIT").map_err(|error| {
            self.rollback();
            let failure = schema::failure(&self.path, "write", &error);
            // The log's last frame may have reached the disk before the failure did.
            match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Attempt::Rejected(failure),
                _ => Attempt::Unknown(failure),
            }
        })
    }

    /// Begins a transaction on the file that we opened, in a version that we know.
    fn begin(&self, durable: bool) -> Result<(), Attempt> {
        self.files.check().map_err(Attempt::Refused)?;
        let started = monotonic_now();
        let mut pause = BUSY_PAUSE.0;
        let level = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
        loop {
            match self.execute(level).and_then(|()| self.execute("BEGIN IMMEDIATE")) {
                Ok(()) => break,
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && started.elapsed() < self.busy_timeout =>
                {
                    wait(pause);
                    pause = (pause * 2).min(BUSY_PAUSE.1);
                }
                Err(error) => return Err(Attempt::Refused(schema::failure(&self.path, "write", &error))),
            }
        }
        schema::still_ours(&self.db, &self.path).map_err(|error| {
            self.rollback();
            Attempt::Refused(error)
        })
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(statement)?.raw_execute().map(drop)
    }

    fn rollback(&self) {
        // Some errors have rolled back already.
        if !self.db.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(target: TARGET, %error, "a transaction could not be rolled back");
        }
    }
}

/// Why a transaction did not become true.
enum Attempt {
    /// It could not begin: trying its parts alone is of no use.
    Refused(BrokerError),
    /// Something in it failed; the rest may not.
    Rejected(BrokerError),
    /// It may have become true.
    Unknown(BrokerError),
}

impl Attempt {
    fn error(&self) -> WriteError {
        match self {
            Self::Refused(error) | Self::Rejected(error) => WriteError::Failed(error.copy()),
            Self::Unknown(error) => WriteError::Unknown(error.copy()),
        }
    }
}

pub(super) fn closed() -> BrokerError {
    BrokerError::new(BrokerErrorKind::Permanent, "the SQLite broker is closed")
}

#[expect(clippy::disallowed_methods, reason = "SQLite gives no signal when another process's lock is free")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}
