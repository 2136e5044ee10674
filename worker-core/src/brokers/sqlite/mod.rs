//! The embedded broker: jobs in one SQLite file, several processes on it.
//!
//! One thread per process writes, and commits what has come together in one
//! transaction (`writer`). A process that consumes is a *holder*: it owns jobs
//! through rows that name it, and proves that it lives by the lock and the
//! counter in a file of its own (`holder`, `keeper`). The other files are the
//! operations: `enqueue`, `consume`, `settle`, `replies`, `rescue`, `inspect`.
//!
//! What must stay true: only the writer's thread changes the file; a job's row
//! says in one column who owns it, and every change of an owned job names that
//! owner and the hand-out, so that a late one changes nothing.

mod column;
mod consume;
mod enqueue;
mod exchanges;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod holder;
mod inspect;
mod keeper;
mod mutant;
mod replies;
mod rescue;
mod schema;
mod settle;
mod shared;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    broker::{Broker, Capabilities, Declared, Inspector, LEASE_DEFAULT, Settler, Source, Subscription, Topology},
    brokers::sqlite::{inspect::SqliteInspector, shared::Shared},
    envelope::Envelope,
    error::{BrokerError, BrokerErrorKind, CallFailure, EnqueueFailure},
    reply::Reply,
};

#[cfg(feature = "simulation")]
pub use mutant::{Mutant, mutate};

/// How long a write waits for another process's before it is given up: 5 s.
/// Writes take milliseconds; a longer wait means that a process hangs with the lock.
pub const BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The shortest lease: five times the pause between two signs of life.
pub const LEASE_MIN: Duration = Duration::from_secs(1);

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Synchronous {
    /// When the disk has it: it outlives a loss of power. With commits in
    /// groups this costs little.
    #[default]
    Full,
    /// When the operating system has it: it outlives a crash of the process, but
    /// a loss of power may take the last moments with it.
    Normal,
}

/// How a [`SqliteBroker`] treats its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// When a commit counts as durable. Default [`Synchronous::Full`].
    pub synchronous: Synchronous,
    /// How long a write waits for another process's. Default [`BUSY_TIMEOUT_DEFAULT`].
    pub busy_timeout: Duration,
    /// How long a frozen process keeps its jobs, at least [`LEASE_MIN`]. Default
    /// [`LEASE_DEFAULT`]. A dead one loses them within a second.
    pub lease: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::default(), busy_timeout: BUSY_TIMEOUT_DEFAULT, lease: LEASE_DEFAULT }
    }
}

/// Jobs in one SQLite file.
///
/// Beside the file there are SQLite's own `-wal` and `-shm`, and a folder
/// `-workers` with one small file per consuming process. They belong together:
/// copy or remove none of them alone while a process uses them. All must be on
/// a local file system.
#[derive(Debug)]
pub struct SqliteBroker {
    shared: Arc<Shared>,
}

impl SqliteBroker {
    /// Opens the file at `path`, which is created if missing, readable by its owner only.
    ///
    /// # Errors
    ///
    /// * `Permanent` — the file is no SQLite database, belongs to another
    ///   program, is damaged, was written by a newer version, or may not be
    ///   written; or the lease is shorter than [`LEASE_MIN`]. The message has the remedy.
    /// * `Transient` — another process held it locked for the whole busy timeout.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: at most the file is left behind.
    pub async fn open(path: impl Into<PathBuf>, options: SqliteOptions) -> Result<Self, BrokerError> {
        let path = path.into();
        let mutant = mutant::chosen();
        let opening = tokio::task::spawn_blocking(move || Shared::open(&path, options, mutant));
        let shared = opening.await.unwrap_or_else(|error| {
            Err(BrokerError::new(BrokerErrorKind::Permanent, "opening the database was interrupted").because(error))
        })?;
        Ok(Self { shared })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.path()
    }

    /// Dies as a killed process would: nothing is given back, its lock is free.
    #[cfg(feature = "testing")]
    pub fn crash(&self) {
        self.shared.crash();
    }

    /// Freezes or thaws the signs of life, as a stopped process would.
    #[cfg(feature = "testing")]
    pub fn freeze(&self, frozen: bool) {
        self.shared.freeze(frozen);
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    fn capabilities(&self) -> Capabilities {
        let none = Capabilities::none("sqlite");
        Capabilities {
            durable: true,
            shared: true,
            retry_is_atomic: true,
            exact_blame: true,
            keeps_place: true,
            counts_all: true,
            priorities: true,
            queue_priorities: true,
            ranks_returned: true,
            exchanges: true,
            calls: true,
            ..none
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        enqueue::declare(&self.shared, topology).await
    }

    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
        enqueue::enqueue(&self.shared, batch).await
    }

    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        replies::call(&self.shared, envelope).await
    }

    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        consume::consume(&self.shared, subscription).await
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        Some(Arc::new(SqliteInspector::new(Arc::clone(&self.shared))))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.shared.close().await
    }
}
