//! What the halves of the broker share: the writer's inbox, the bells, the holder.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    broker::Callers,
    brokers::sqlite::{
        LEASE_MIN, SqliteOptions,
        files::{Files, beside},
        holder::HolderFile,
        keeper::Keeper,
        mutant::Mutant,
        replies,
        rescue::Leave,
        schema,
        writer::{Fault, Inbox, Write, WriteError, Writer, closed},
    },
    error::{BrokerError, BrokerErrorKind},
    name::QueueName,
    time::{Clock, SystemClock},
};

/// Enqueues that wait for the writer, in KiB of payload: at most 32 MiB.
pub(super) const WAITING_KIB_MAX: usize = 32 << 10;

pub(super) struct Shared {
    path: PathBuf,
    folder: PathBuf,
    pub(super) files: Arc<Files>,
    pub(super) options: SqliteOptions,
    /// As which variant it behaves, in tests.
    pub(super) mutant: Option<Mutant>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) waiting: Arc<Semaphore>,
    bells: Mutex<HashMap<QueueName, watch::Sender<()>>>,
    holder: Mutex<Option<Arc<Holder>>>,
    /// The calls of this process.
    pub(super) callers: Arc<Callers>,
    /// Replies to them could not be collected.
    pub(super) replies_left: AtomicBool,
    last: AtomicU64,
    keeper: Mutex<Option<Keeper>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    reader: Mutex<Option<Connection>>,
    closed: AtomicBool,
    /// Whether closing is over.
    closing: tokio::sync::Mutex<bool>,
}

/// This process as an owner of jobs, until it is closed or another takes over.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) id: i64,
    pub(super) file: HolderFile,
    /// Cancelled when another process has taken over.
    pub(super) lost: tokio_util::sync::CancellationToken,
}

impl Shared {
    pub(super) fn open(path: &Path, options: SqliteOptions, mutant: Option<Mutant>) -> Result<Arc<Self>, BrokerError> {
        if options.lease < LEASE_MIN {
            let (lease, min) = (humantime::format_duration(options.lease), humantime::format_duration(LEASE_MIN));
            let message = format!("the lease is {lease}; it must be at least {min}");
            return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
        }
        schema::create(path)?;
        // One name for one file, so that all processes find one folder beside it.
        let path = fs::canonicalize(path).map_err(|error| unreadable(path, error))?;
        let mut db = schema::connect(&path, options.busy_timeout)?;
        schema::prepare(&mut db, &path)?;
        // From here on the writer waits for locks itself, with shorter pauses than SQLite's.
        db.busy_timeout(std::time::Duration::ZERO).map_err(|error| schema::failure(&path, "open", &error))?;
        let files = Files::of(&path).map_err(|error| unreadable(&path, error))?;
        let shared = Arc::new(Self {
            folder: beside(&path, "-workers"),
            files: Arc::new(files),
            options,
            mutant,
            inbox: Arc::default(),
            waiting: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
            bells: Mutex::default(),
            holder: Mutex::default(),
            callers: Arc::default(),
            replies_left: AtomicBool::new(false),
            last: AtomicU64::new(0),
            keeper: Mutex::default(),
            writer: Mutex::default(),
            reader: Mutex::default(),
            closed: AtomicBool::new(false),
            closing: tokio::sync::Mutex::default(),
            path,
        });
        shared.start_writer(db)?;
        Ok(shared)
    }

    fn start_writer(self: &Arc<Self>, db: Connection) -> Result<(), BrokerError> {
        let weak = Arc::downgrade(self);
        let writer = Writer {
            db,
            log: File::open(self.log_path()).map_err(|error| unreadable(&self.log_path(), error))?,
            path: self.path.clone(),
            files: Arc::clone(&self.files),
            synchronous: self.options.synchronous,
            busy_timeout: self.options.busy_timeout,
            inbox: Arc::clone(&self.inbox),
            on_foreign_change: Box::new(move |db| {
                if let Some(shared) = weak.upgrade() {
                    shared.ring_all();
                    replies::look(db, &shared);
                }
            }),
        };
        let inbox = Arc::clone(&self.inbox);
        let run = move || {
            // However the thread ends, whoever asks it for something later is told.
            let _ends = OnDrop(|| inbox.abandon());
            writer.run();
        };
        let thread = Builder::new().name("worker-sqlite-writer".into()).spawn(run).map_err(no_thread)?;
        *lock(&self.writer) = Some(thread);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// SQLite's write-ahead log.
    pub(super) fn log_path(&self) -> PathBuf {
        beside(&self.path, "-wal")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A number that this broker has not given before: a fence, or a subscription's.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Has something written, and waits for its answer.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durable: bool,
        write: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.push(Box::new(Call { write, value: None, durable, answer }));
        answered.await.unwrap_or_else(|_| Err(WriteError::Unknown(closed())))
    }

    /// Reads on a connection of its own, off the runtime's threads.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let shared = Arc::clone(self);
        let reading = move || {
            if shared.closed.load(Ordering::SeqCst) {
                return Err(closed());
            }
            let mut reader = lock(&shared.reader);
            let db = match &mut *reader {
                Some(db) => db,
                none => none.insert(schema::connect(&shared.path, shared.options.busy_timeout)?),
            };
            schema::still_ours(db, &shared.path)?;
            read(db).map_err(|error| schema::failure(&shared.path, "read", &error))
        };
        let read = tokio::task::spawn_blocking(reading).await;
        read.unwrap_or_else(|error| {
            Err(BrokerError::new(BrokerErrorKind::Transient, "reading was interrupted").because(error))
        })
    }

    /// Wakes those who wait for jobs of `queue`.
    pub(super) fn ring(&self, queue: &QueueName) {
        if let Some(bell) = lock(&self.bells).get(queue) {
            bell.send_replace(());
        }
    }

    /// Wakes all who wait for jobs.
    pub(super) fn ring_all(&self) {
        lock(&self.bells).values().for_each(|bell| bell.send_replace(()));
    }

    /// Hears when jobs of `queue` may have come.
    pub(super) fn listen(&self, queue: &QueueName) -> watch::Receiver<()> {
        lock(&self.bells).entry(queue.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// This process as an owner, if it is one.
    pub(super) fn holder(&self) -> Option<Arc<Holder>> {
        lock(&self.holder).clone()
    }

    pub(super) fn set_holder(&self, holder: Option<Arc<Holder>>) {
        *lock(&self.holder) = holder;
    }

    /// Starts the thread that shows that we live and sees who does not.
    pub(super) fn keep(self: &Arc<Self>) -> Result<(), BrokerError> {
        let mut keeper = lock(&self.keeper);
        if keeper.is_none() {
            *keeper = Some(Keeper::start(self).map_err(no_thread)?);
        }
        Ok(())
    }

    /// Gives back what is owned, finishes what was submitted, and ends the threads.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), BrokerError> {
        self.closed.store(true, Ordering::SeqCst);
        // One after the other; what one that was given up has left, the next one does.
        let mut is_closed = self.closing.lock().await;
        if *is_closed {
            return Ok(());
        }
        self.callers.fail(&closed());
        let left = if self.holder().is_some() { self.leave().await } else { Ok(()) };
        self.ring_all();
        self.waiting.close();
        let shared = Arc::clone(self);
        let ended = tokio::task::spawn_blocking(move || {
            // The writer's connection last, alone: SQLite removes its log only then.
            let keeper = lock(&shared.keeper).take();
            keeper.into_iter().for_each(Keeper::join);
            drop(lock(&shared.reader).take());
            shared.inbox.close();
            // Locked until the end, for whoever closes again meanwhile.
            let mut writer = lock(&shared.writer);
            writer.take().is_none_or(|thread| thread.join().is_ok())
        });
        let ended = ended.await;
        *is_closed = true;
        match ended {
            Ok(true) => left,
            Ok(false) | Err(_) => {
                Err(BrokerError::new(BrokerErrorKind::Permanent, "the SQLite writer ended in a panic; this is a bug"))
            }
        }
    }

    async fn leave(self: &Arc<Self>) -> Result<(), BrokerError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.push(Box::new(Leave::new(Arc::clone(self), answer)));
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    #[cfg(feature = "testing")]
    pub(super) fn crash(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.inbox.crash();
        if let Some(thread) = lock(&self.writer).take() {
            drop(thread.join());
        }
        self.freeze(true);
        if let Some(holder) = lock(&self.holder).take() {
            holder.lost.cancel();
            drop(holder.file.unlock());
        }
        self.ring_all();
    }

    #[cfg(feature = "testing")]
    pub(super) fn freeze(&self, frozen: bool) {
        if let Some(keeper) = &*lock(&self.keeper) {
            keeper.freeze(frozen);
        }
    }
}

impl Drop for Shared {
    /// Nobody is left who could own or submit anything: the writer finishes what it has.
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBroker").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A write that is a function with an answer.
struct Call<F, T> {
    write: F,
    value: Option<T>,
    durable: bool,
    answer: oneshot::Sender<Result<T, WriteError>>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T, Fault> + Send> Write for Call<F, T> {
    fn apply(&mut self, db: &Connection) -> Result<(), Fault> {
        self.value = Some((self.write)(db)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), WriteError>) {
        let Self { value, answer, .. } = *self;
        let value = result.and_then(|()| value.ok_or_else(|| WriteError::Unknown(closed())));
        // Whoever asked may have gone away; what was written stays.
        drop(answer.send(value));
    }

    fn durable(&self) -> bool {
        self.durable
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// No code that can panic runs under these locks but a violated invariant, which is a bug.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, on the wall clock: dates in the file are shared with other processes.
pub(super) fn now_ms() -> i64 {
    i64::try_from(SystemClock.now().unix_ms()).unwrap_or(i64::MAX)
}

fn unreadable(path: &Path, error: std::io::Error) -> BrokerError {
    let message = format!("cannot open the database `{}`", path.display());
    BrokerError::new(BrokerErrorKind::Permanent, message).because(error)
}

fn no_thread(error: std::io::Error) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Transient, "the operating system gave no thread").because(error)
}
