//! A job on the blocking pool that goes on when the test says so.
//!
//! While a thread of the pool runs, virtual time stands still by itself, so
//! tests with such a job move it by hand.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::{spawn_blocking, yield_now},
};
use worker_core::{Context, Handler, Job, JobOptions, JobResult, Requirement, seconds};

use crate::bench::RETRY;
use worker_tests::eventually::PATIENCE;

/// What blocking jobs wait at.
#[derive(Debug)]
pub(crate) struct Gate {
    entered: watch::Sender<usize>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self { entered: watch::Sender::new(0), open: Mutex::new(false), opened: Condvar::new() })
    }

    /// Waits until `count` runs have come here.
    pub(crate) async fn entered(&self, count: usize) {
        drop(self.entered.subscribe().wait_for(|entered| *entered >= count).await.unwrap());
    }

    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.entered.send_modify(|entered| *entered += 1);
        // With a bound: where a test fails before it opens the gate, its runtime waits for this thread.
        drop(self.opened.wait_timeout_while(self.open.lock().unwrap(), PATIENCE, |open| !*open).unwrap());
    }
}

/// Blocks its thread until the gate opens, and has 30 seconds for it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Blocking {}

impl Job for Blocking {
    const NAME: &'static str = "blocking";
    const QUEUE: &'static str = "q";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(RETRY).timeout(seconds(30));
    type Return = ();
}

impl Handler for Blocking {
    const BLOCKING: bool = true;

    fn requirements() -> Vec<Requirement> {
        vec![Requirement::state::<Gate>()]
    }

    async fn run(self, cx: Context) -> JobResult {
        let gate = cx.state::<Gate>()?;
        spawn_blocking(move || gate.pass()).await?;
        Ok(())
    }
}

/// Moves virtual time, and lets everything that is due then happen.
pub(crate) async fn advance(time: Duration) {
    tokio::time::advance(time).await;
    settle_down().await;
}

/// Lets everything happen that can without time passing.
pub(crate) async fn settle_down() {
    for _ in 0..100 {
        yield_now().await;
    }
}
