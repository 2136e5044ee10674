//! The job that the measurements of throughput run: it does nothing but count.

use std::{
    num::NonZeroU8,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use worker_core::{Context, Handler, Job, JobOptions, JobResult, State};

/// About 100 bytes as JSON, as in the published comparisons.
const TEXT: &str = "a payload of a usual size for a job: some ids, a template, an address; 0123456789";

/// A job that does nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noop {
    n: u64,
    text: String,
}

impl Noop {
    /// The `n`-th.
    #[must_use]
    pub fn new(n: u64) -> Self {
        Self { n, text: TEXT.into() }
    }
}

impl Job for Noop {
    const NAME: &'static str = "noop";
    type Return = ();
}

/// Counts the jobs that ran.
#[derive(Debug)]
pub struct Ran {
    count: AtomicU64,
    wanted: u64,
    /// Notified when as many ran as are wanted.
    pub all: Notify,
}

impl Ran {
    /// Of `wanted` jobs, none yet.
    #[must_use]
    pub fn none_of(wanted: u64) -> Self {
        Self { count: AtomicU64::new(0), wanted, all: Notify::new() }
    }

    /// How many are wanted.
    #[must_use]
    pub const fn wanted(&self) -> u64 {
        self.wanted
    }

    /// How many ran.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Handler for Noop {
    async fn run(self, cx: Context) -> JobResult<()> {
        let ran: State<Ran> = cx.supply()?;
        if ran.count.fetch_add(1, Ordering::Relaxed) + 1 == ran.wanted {
            ran.all.notify_one();
        }
        Ok(())
    }
}

/// The same, in a queue with `N` shards.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sharded<const N: u8>(pub Noop);

impl<const N: u8> Job for Sharded<N> {
    const NAME: &'static str = "sharded";
    const QUEUE: &'static str = "orders";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.shards(NonZeroU8::new(N).expect("there is one at least"));
    type Return = ();
}

impl<const N: u8> Handler for Sharded<N> {
    async fn run(self, cx: Context) -> JobResult<()> {
        self.0.run(cx).await
    }
}
