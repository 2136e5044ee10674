//! The admin server of `run`: probes and metrics for machines.
//!
//! It is there before the worker is and goes last, so that a probe sees the
//! whole life of the process. It reads the worker's status and changes nothing.
//! What it owns is bounded, and nothing that a client does or leaves undone
//! holds up the worker: it shares no lock, queue or task with it. Only
//! `/readyz?verbose` asks the broker, by the worker's connection: one at a
//! time, within a bound.

mod metrics;
mod pages;
mod serve;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{net::TcpListener, sync::Mutex, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{metrics::Page, serve::serve};
use crate::{
    cli::{exit, fail::Fail},
    client::Client,
    telemetry::TARGET,
    worker::WorkerStatus,
};

/// How long answers that are being written may take when the process ends.
const STOP_WAIT_MAX: Duration = Duration::from_secs(1);

/// The server at work.
pub(super) struct Admin {
    seen: Arc<Seen>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

/// What the pages show: as much of the program as there is yet.
#[derive(Default)]
struct Seen {
    worker: OnceLock<WorkerStatus>,
    client: OnceLock<Client>,
    /// One asks the broker at a time, however many ask us.
    asking: Mutex<()>,
    metrics: OnceLock<Page>,
}

impl Admin {
    /// Serves at `address` from now on.
    pub(super) async fn listen(address: SocketAddr) -> Result<Self, Fail> {
        let listener = TcpListener::bind(address).await.map_err(|error| refused(address, &error))?;
        let bound = listener.local_addr().map_err(|error| refused(address, &error))?;
        tracing::info!(target: TARGET, address = %bound, "admin server listens");
        if !bound.ip().is_loopback() {
            tracing::warn!(
                target: TARGET, address = %bound,
                "other machines may reach the admin server, which has no password and shows names of queues and jobs"
            );
        }
        let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&seen), stop.clone()));
        Ok(Self { seen, stop, task })
    }

    /// Records metrics from now on, unless the application does by itself.
    pub(super) fn record(&self) {
        drop(self.seen.metrics.set(Page::install()));
    }

    /// Shows how this worker is, and its broker.
    pub(super) fn watch(&self, status: WorkerStatus, client: Client) {
        drop(self.seen.client.set(client));
        drop(self.seen.worker.set(status));
    }

    /// Takes no more connections, and lets those end that are being answered.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        // What then still runs is cancelled with the set.
        drop(timeout(STOP_WAIT_MAX, self.task.join_next()).await);
    }
}

fn refused(address: SocketAddr, error: &io::Error) -> Fail {
    let say = |code, why: &dyn std::fmt::Display| {
        Fail::new(code, format_args!("the admin server cannot listen on {address}: {why}"))
    };
    match error.kind() {
        // It may be free later: a worker that is being replaced still drains.
        io::ErrorKind::AddrInUse => say(exit::FAILURE, &"another process does").hint(format_args!(
            "choose another port with `--admin` or WORKER_ADMIN, or find that process: `ss -ltnp 'sport = :{}'`",
            address.port()
        )),
        io::ErrorKind::AddrNotAvailable => say(exit::CONFIG, &"this machine has no such address"),
        io::ErrorKind::PermissionDenied => say(exit::CONFIG, error).hint("ports below 1024 need a privilege"),
        _ => say(exit::FAILURE, error),
    }
}
