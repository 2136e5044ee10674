//! What the conformance suite must know about a broker to test it.
//!
//! A fixture is one fresh, isolated storage. On it, processes are opened and
//! die; each handle that [`open`](BrokerFixture::open) gives stands for a
//! process of its own. Time is virtual where the broker's is, real elsewhere;
//! cases ask the fixture for it and keep their delays short.

pub mod expected;
mod memory;
mod rabbit;
mod simulated;
mod sqlite;

use std::{any::Any, sync::Arc, time::Duration};

use tokio::{runtime::Runtime, time::sleep};
use worker_core::{
    Clock, Timestamp,
    broker::{Broker, Capabilities},
};

use crate::{eventually::PATIENCE, process::Process, sample::QUEUE};

pub use memory::MemoryFixture;
pub use rabbit::{RabbitFixture, RabbitProcess};
pub use simulated::SimulatedFixture;
pub use sqlite::SqliteFixture;

/// A broker under test: one isolated storage, and its processes.
pub trait BrokerFixture: Send + Sync + Sized + 'static {
    /// The broker.
    type Broker: Broker;

    /// The column of `docs/conformance.md` that says what this broker does.
    fn column(&self) -> impl Future<Output = &'static str> + Send;

    /// What runs a case; its clock is paused where the broker's time is virtual.
    fn runtime() -> Runtime;

    /// A fresh, empty storage. Called inside the runtime.
    fn new() -> Self;

    /// Another process on this storage.
    fn open(&self) -> impl Future<Output = Self::Broker> + Send;

    /// The sudden death of a process: nothing it holds is given back in an orderly way.
    fn crash(&self, process: &Self::Broker) -> impl Future<Output = ()> + Send;

    /// Stops a process without killing it, for longer than others wait for it:
    /// what it owned goes to them, blamed if it had begun.
    ///
    /// # Errors
    ///
    /// Why this cannot be done inside one test process.
    fn freeze(&self, process: &Self::Broker) -> impl Future<Output = Result<(), &'static str>> + Send {
        let _ = process;
        async { Err("cannot be frozen") }
    }

    /// Lets a frozen process go on.
    fn thaw(&self, process: &Self::Broker) -> impl Future<Output = ()> + Send {
        let _ = process;
        async {}
    }

    /// Keeps the storage from changing until what is returned is dropped, for
    /// longer than the broker waits by itself.
    ///
    /// # Errors
    ///
    /// Why this cannot be done to this broker.
    fn obstruct(&self) -> Result<Box<dyn Any + Send>, &'static str> {
        Err("cannot be obstructed")
    }

    /// The broker's clock.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The date on the broker's clock.
    fn date(&self) -> Timestamp {
        self.clock().now()
    }

    /// Lets time pass.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send {
        sleep(time)
    }

    /// How late a job that is due may be delivered, on a machine that is busy with other tests.
    fn lateness(&self) -> Duration;

    /// How long to wait for what must come.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// How long a case watches that nothing is delivered.
    fn quiet(&self) -> Duration;

    /// Another process, with [`QUEUE`] declared.
    fn process(&self) -> impl Future<Output = Process<'_, Self>> + Send {
        async {
            let process = self.bare_process().await;
            process.declare(QUEUE).await;
            process
        }
    }

    /// Another process that has declared nothing.
    fn bare_process(&self) -> impl Future<Output = Process<'_, Self>> + Send {
        async { Process::new(self, self.open().await) }
    }

    /// What the broker can do.
    fn capabilities(&self) -> impl Future<Output = Capabilities> + Send {
        async { self.open().await.capabilities() }
    }
}

/// Runs `case` on a fresh storage.
///
/// # Panics
///
/// When the case fails.
pub fn run<F: BrokerFixture>(case: impl AsyncFnOnce(&F)) {
    F::runtime().block_on(async {
        let fixture = F::new();
        case(&fixture).await;
    });
}

/// Runs the conformance case `name` on a fresh storage, and compares what came of it with `docs/conformance.md`.
///
/// # Panics
///
/// When the case fails, and when it was left out or was not, against what that page says.
pub fn conform<F: BrokerFixture>(name: &str, case: impl AsyncFnOnce(&F)) {
    expected::begin();
    run::<F>(async |fixture| {
        case(fixture).await;
        expected::check(name, fixture.column().await, expected::end());
    });
}

/// Says why a case does not apply to a broker, so that a run shows what was left out.
#[expect(clippy::print_stderr, reason = "the reason belongs into the output of the test")]
pub fn skipped(capabilities: &Capabilities, reason: &'static str) {
    eprintln!("skipped on the {} broker: {reason}", capabilities.broker);
    expected::left_out(reason);
}
