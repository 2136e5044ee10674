//! The jobs of the rows that need other ones than [`Noop`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};
use worker_core::{Context, Handler, Job, JobError, JobOptions, JobResult, Registry, RetryPolicy, State};
use worker_tests::noop::{Noop, Ran, Sharded};

/// Fails the first time and succeeds the second; the pause between is none, so that what is measured is not the wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flaky(pub(crate) Noop);

impl Job for Flaky {
    const NAME: &'static str = "flaky";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(RetryPolicy::new(1, Duration::ZERO, Duration::ZERO));
    type Return = ();
}

impl Handler for Flaky {
    async fn run(self, cx: Context) -> JobResult<()> {
        if cx.attempt() == 1 {
            return Err(JobError::from("the first attempt fails"));
        }
        self.0.run(cx).await
    }
}

/// Tells when its handler began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ring {}

impl Job for Ring {
    const NAME: &'static str = "ring";
    const QUEUE: &'static str = "fast";
    type Return = ();
}

/// Who is told that a [`Ring`] has begun.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) mpsc::Sender<Instant>);

impl Handler for Ring {
    async fn run(self, cx: Context) -> JobResult<()> {
        let began = Instant::now();
        let told: State<Told> = cx.supply()?;
        told.0.send(began).await?;
        Ok(())
    }
}

/// Takes its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Slow {
    pub(crate) millis: u64,
}

impl Job for Slow {
    const NAME: &'static str = "slow";
    const QUEUE: &'static str = "slow";
    type Return = ();
}

impl Handler for Slow {
    async fn run(self, _: Context) -> JobResult<()> {
        tokio::time::sleep(Duration::from_millis(self.millis)).await;
        Ok(())
    }
}

/// Does nothing once a gate is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gated(pub(crate) Noop);

impl Job for Gated {
    const NAME: &'static str = "gated";
    type Return = ();
}

impl Handler for Gated {
    async fn run(self, cx: Context) -> JobResult<()> {
        let gate: State<watch::Receiver<bool>> = cx.supply()?;
        (*gate).clone().wait_for(|open| *open).await?;
        self.0.run(cx).await
    }
}

/// Runs until the worker stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold {}

impl Job for Hold {
    const NAME: &'static str = "hold";
    type Return = ();
}

/// How many [`Hold`] run.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) count: AtomicU64,
    pub(crate) wanted: u64,
    pub(crate) all: Notify,
}

impl Handler for Hold {
    async fn run(self, cx: Context) -> JobResult<()> {
        let held: State<Held> = cx.supply()?;
        if held.count.fetch_add(1, Ordering::Relaxed) + 1 == held.wanted {
            held.all.notify_one();
        }
        std::future::pending().await
    }
}

/// One of up to a hundred types of jobs that do nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Typed<const N: usize>(pub(crate) Noop);

impl<const N: usize> Typed<N> {
    const TEXT: [u8; 8] = [b't', b'y', b'p', b'e', b'-', b'0', b'0' + (N / 10) as u8, b'0' + (N % 10) as u8];
}

impl<const N: usize> Job for Typed<N> {
    const NAME: &'static str = match str::from_utf8(&Self::TEXT) {
        Ok(name) => name,
        Err(_) => "no text",
    };
    type Return = ();
}

impl<const N: usize> Handler for Typed<N> {
    async fn run(self, cx: Context) -> JobResult<()> {
        self.0.run(cx).await
    }
}

/// The name of the `n`th type.
pub(crate) fn type_name(n: usize) -> String {
    format!("type-{n:03}")
}

/// With the first `count` of the hundred types.
pub(crate) fn with_types(count: usize) -> Registry {
    let mut registry = Registry::new();
    macro_rules! ten {
        ($($tens:literal)*) => { $(ten!(@ $tens; 0 1 2 3 4 5 6 7 8 9);)* };
        (@ $tens:literal; $($n:literal)*) => { $(
            if $tens * 10 + $n < count {
                registry = registry.with::<Typed<{ $tens * 10 + $n }>>();
            }
        )* };
    }
    ten!(0 1 2 3 4 5 6 7 8 9);
    registry
}

/// Of `wanted` jobs that count, none yet: the state of all of them.
pub(crate) fn none_of(wanted: u64) -> std::sync::Arc<Ran> {
    std::sync::Arc::new(Ran::none_of(wanted))
}

/// The handlers of no-op jobs in a queue with so many shards, of which some numbers are measured.
pub(crate) fn sharded(shards: u8) -> Registry {
    match shards {
        1 => Registry::new().with::<Sharded<1>>(),
        2 => Registry::new().with::<Sharded<2>>(),
        4 => Registry::new().with::<Sharded<4>>(),
        other => panic!("{other} shards are not measured"),
    }
}
