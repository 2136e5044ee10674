//! `run`: a worker, from its settings to its exit code.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::Instant,
};

use crate::{
    cli::{
        admin::Admin,
        app::{Parts, runtime},
        broker::{CLOSE_WAIT_MAX, close},
        exit,
        fail::Fail,
        notify::Notifier,
        signals::Signals,
        topology,
    },
    client::Client,
    config::{Settings, SettingsReader, Target},
    telemetry::TARGET,
    time::monotonic_now,
    worker::Worker,
};

/// Work on jobs until SIGTERM or SIGINT
#[derive(Debug, Args)]
#[command(after_help = r#"The first SIGTERM or SIGINT (Ctrl-C) drains: no further job is taken, what was
not started is given back at once, and what runs may finish within
--shutdown-timeout. A second one cancels what runs and gives it back. Nothing
is lost either way; the exit code is 0 when what ran could finish and 75 when
running jobs were cancelled and given back.

Examples:
  myapp run --queues emails=4,orders --concurrency 32
  RUST_LOG=worker=debug myapp run        one line for every job
  WORKER_LOG_FORMAT=json myapp run       lines for a log collector
  myapp run --admin 127.0.0.1:9091       with probes and metrics
  myapp run --topology check             as a user who may not declare queues"#)]
pub(super) struct RunArgs {
    /// Serve these queues, each with at most SLOTS jobs at once [default: WORKER_QUEUES, or the
    /// queues of all registered jobs]
    #[arg(long, value_name = "QUEUE[=SLOTS],…")]
    queues: Option<String>,
    /// Run at most this many jobs at once, 1 to 10000 [default: WORKER_CONCURRENCY, or 16]
    #[arg(long, value_name = "JOBS")]
    concurrency: Option<String>,
    /// Hold at most this many jobs of each queue, running or about to, 1 to 65535 [default:
    /// WORKER_PREFETCH, or what the time that jobs take asks for]
    #[arg(long, value_name = "JOBS")]
    prefetch: Option<String>,
    /// Let running jobs go on this long after the first signal [default: WORKER_SHUTDOWN_GRACE, or 30s]
    #[arg(long, value_name = "DURATION")]
    shutdown_timeout: Option<String>,
    /// Serve /livez, /readyz, /startupz and /metrics at this address; a port alone is one of the
    /// loopback address [default: WORKER_ADMIN, or off]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Declare what is missing in the broker (`apply`), or declare nothing and end with exit code 3
    /// where something is missing (`check`) [default: WORKER_TOPOLOGY, or apply]
    #[arg(long, value_name = "MODE")]
    topology: Option<String>,
}

impl RunArgs {
    /// Tells `reader` what the flags say.
    pub(super) fn flags(&self, mut reader: SettingsReader) -> SettingsReader {
        let flags = [
            ("--queues", &self.queues),
            ("--concurrency", &self.concurrency),
            ("--prefetch", &self.prefetch),
            ("--shutdown-timeout", &self.shutdown_timeout),
            ("--admin", &self.admin),
            ("--topology", &self.topology),
        ];
        for (flag, value) in flags {
            if let Some(value) = value {
                reader = reader.flag(flag, value);
            }
        }
        reader
    }
}

/// Jobs run on a runtime of their own: one that blocks all of its threads holds
/// up its neighbours, but neither the broker, nor the signals, nor the end.
pub(super) fn run(settings: &Settings, parts: Parts, name: &str) -> Result<u8, Fail> {
    topology::possible(settings, name)?;
    let jobs = runtime(&mut Builder::new_multi_thread())?;
    let own = runtime(&mut Builder::new_current_thread())?;
    // A thread of its own, so that it can also tell that the worker's does not turn.
    let side = settings.admin.map(|_| runtime(Builder::new_multi_thread().worker_threads(1))).transpose()?;
    let code = run_on(&own, &jobs, side.as_ref(), settings, parts, name);
    if let Some(side) = side {
        side.shutdown_background();
    }
    // What still blocks a thread is not waited for.
    own.shutdown_background();
    jobs.shutdown_background();
    code
}

fn run_on(
    own: &Runtime,
    jobs: &Runtime,
    side: Option<&Runtime>,
    settings: &Settings,
    mut parts: Parts,
    name: &str,
) -> Result<u8, Fail> {
    let signals = Signals::listen().map_err(|error| Fail::new(exit::FAILURE, format_args!("signals: {error}")))?;
    // Before all else, so that a probe sees the program start, however long that takes.
    let admin = match settings.admin.zip(side) {
        None => None,
        Some((address, side)) => Some(side.block_on(Admin::listen(address))?),
    };
    own.block_on(async {
        // The application's state belongs to the jobs, and so does what it spawns.
        let states = within(jobs, make_states(settings, &mut parts));
        let Some(()) = unless_asked(&signals, states).await? else { return Ok(exit::OK) };
        if let Some(admin) = &admin {
            // After the application's own code, whose recorder wins, and before anything is recorded.
            admin.record();
        }
        let prepared = unless_asked(&signals, prepare(settings, parts, jobs.handle().clone(), name)).await?;
        let Some((client, worker)) = prepared else { return Ok(exit::OK) };
        if let Some(admin) = &admin {
            admin.watch(worker.status(), client.clone());
        }
        let worked = work(&signals, &client, worker).await;
        // Last, so that a probe sees the worker drain.
        if let Some(admin) = admin {
            admin.stop().await;
        }
        worked
    })
}

/// Polls `work` here, as if it were polled on `runtime`.
async fn within<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|task| {
        let _entered = runtime.enter();
        work.as_mut().poll(task)
    })
    .await
}

/// What `start` gives; none where a signal comes first.
async fn unless_asked<T>(signals: &Signals, start: impl Future<Output = Result<T, Fail>>) -> Result<Option<T>, Fail> {
    tokio::select! {
        biased;
        signal = signals.nth(1) => {
            tracing::info!(target: TARGET, "{signal} before the worker had started");
            Ok(None)
        }
        started = start => started.map(Some),
    }
}

async fn make_states(settings: &Settings, parts: &mut Parts) -> Result<(), Fail> {
    if *settings.broker_url.target() == Target::Memory {
        tracing::warn!(target: TARGET, "the jobs of `memory:` end with this process, and no other process sees them");
    }
    tracing::debug!(target: TARGET, states = parts.late_states.len(), "making the application's state");
    for state in std::mem::take(&mut parts.late_states) {
        state(&mut parts.states).await?;
    }
    Ok(())
}

async fn prepare(settings: &Settings, parts: Parts, jobs: Handle, name: &str) -> Result<(Client, Worker), Fail> {
    let Parts { registry, states, worker, .. } = parts;
    let client = settings.connect().await?;
    tracing::info!(target: TARGET, url = %settings.broker_url, "connected to the broker");
    let builder = Worker::builder(&client).registry(registry.clone()).states(states).jobs_on(jobs);
    let builder = match worker {
        Some(choose) => choose(builder),
        None => builder,
    };
    let worker = settings.configure(builder).build()?;
    let queues: Vec<_> = worker.status().queues().into_iter().map(|status| status.queue).collect();
    if let Err(fail) = topology::verify(settings, &client, &registry, &queues, name).await {
        close(&client, CLOSE_WAIT_MAX).await;
        return Err(fail);
    }
    Ok((client, worker))
}

/// How long after the grace period the broker is let go of at the latest, whatever it does, so
/// that the process is gone after 5 s.
const END_AFTER: Duration = Duration::from_millis(4_500);

async fn work(signals: &Signals, client: &Client, worker: Worker) -> Result<u8, Fail> {
    let (ends_at, grace) = (Mutex::new(None), worker.grace());
    let ends_after = |wait| {
        let mut ends_at = ends_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = monotonic_now() + wait;
        *ends_at = Some(ends_at.map_or(at, |before: Instant| before.min(at)));
    };
    let asked = async {
        let signal = signals.nth(1).await;
        ends_after(grace + END_AFTER);
        tracing::info!(
            target: TARGET,
            "{signal}: shutting down; a second signal cancels what still runs and gives it back"
        );
    };
    let insisted = async {
        let signal = signals.nth(2).await;
        ends_after(END_AFTER);
        tracing::warn!(target: TARGET, "second signal ({signal}): not waiting any longer");
    };
    let notifier = Notifier::start(worker.status());
    let report = worker.run_until(asked, insisted).await;
    notifier.end().await;
    let report = report?;
    let ends_at = ends_at.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left = ends_at.map_or(CLOSE_WAIT_MAX, |at| at.saturating_duration_since(monotonic_now()));
    close(client, left.min(CLOSE_WAIT_MAX)).await;
    Ok(if report.is_clean() { exit::OK } else { exit::PARTIAL })
}
