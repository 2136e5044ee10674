//! What a job that does nothing does: it is counted.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use crate::Failure;

/// Counts the jobs that ran. One for the whole program, since not every peer has state for its jobs.
#[derive(Debug, Default)]
pub struct Counter {
    ran: AtomicU64,
    wanted: AtomicU64,
    last: OnceLock<Instant>,
    all: Notify,
}

impl Counter {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ran: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            last: OnceLock::new(),
            all: Notify::const_new(),
        }
    }

    /// So many are to run.
    pub fn expect(&self, jobs: u64) {
        self.wanted.store(jobs, Ordering::Relaxed);
    }

    /// One more has run.
    pub fn ran(&self) {
        if self.ran.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted.load(Ordering::Relaxed) {
            self.last.get_or_init(Instant::now);
            self.all.notify_one();
        }
    }

    /// Waits until all have run.
    pub async fn all(&self) {
        self.all.notified().await;
    }

    /// When the last of them had run.
    ///
    /// # Errors
    ///
    /// They have not.
    pub fn last(&self) -> Result<Instant, Failure> {
        self.last.get().copied().ok_or_else(|| {
            let (ran, wanted) = (self.ran.load(Ordering::Relaxed), self.wanted.load(Ordering::Relaxed));
            format!("the worker ended when {ran} of {wanted} jobs had run").into()
        })
    }
}
