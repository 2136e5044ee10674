//! A worker in a process of its own: what it takes is its own, and not the producer's.
//!
//! The benchmark starts itself again with `child ROLE URL …`. The child says by
//! a byte on its standard output that something has happened, or how often by
//! eight, and ends when its standard input does, as it does when the benchmark
//! is gone.

use std::{
    io::{Read as _, Write as _},
    process::Stdio,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child as Process, Command},
    sync::{Notify, mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use worker_core::{Client, Registry, Worker};

use crate::{
    jobs::{Held, Hold, Ring, Told, none_of, sharded},
    ours::{self, Size},
    processor,
};

/// How long a child may take for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a child tells how many it has settled.
const TELL_EVERY: Duration = Duration::from_millis(5);

/// What it does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Runs so many no-op jobs with this prefetch, and says when the last is settled.
    Drain { jobs: u64, prefetch: usize },
    /// Says when each [`Ring`] begins.
    Ring,
    /// Says when so many [`Hold`] run at once.
    Hold(u64),
    /// Says that it is connected, and waits to be told to begin; then runs no-op jobs of a queue with so many shards, and
    /// tells how many are settled.
    Serve { shards: u8 },
}

impl Role {
    fn args(self) -> Vec<String> {
        match self {
            Self::Drain { jobs, prefetch } => vec!["drain".into(), jobs.to_string(), prefetch.to_string()],
            Self::Ring => vec!["ring".into()],
            Self::Hold(jobs) => vec!["hold".into(), jobs.to_string()],
            Self::Serve { shards } => vec!["serve".into(), shards.to_string()],
        }
    }

    /// What [`args`](Self::args) has written.
    pub(crate) fn parse(args: &[String]) -> Self {
        let number = |n: usize| args[n].parse().unwrap();
        match &*args[0] {
            "drain" => Self::Drain { jobs: number(1), prefetch: number(2) as usize },
            "ring" => Self::Ring,
            "hold" => Self::Hold(number(1)),
            "serve" => Self::Serve { shards: number(1) as u8 },
            other => panic!("{other} is no role"),
        }
    }

    /// Plays it.
    pub(crate) async fn play(self, url: &str) {
        let client = Client::connect(url).await.unwrap();
        if let Self::Serve { .. } = self {
            say();
            let begun = spawn_blocking(|| std::io::stdin().read_exact(&mut [0])).await.unwrap();
            if begun.is_err() {
                return; // The benchmark is gone.
            }
        }
        let ended = spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        match self {
            Self::Drain { jobs, prefetch } => {
                ours::process(&client, jobs, Size::of_prefetch(prefetch)).await;
                say();
                drop(ended.await);
            }
            Self::Ring => {
                let (told, mut heard) = mpsc::channel(1);
                let worker = Worker::builder(&client).registry(Registry::new().with::<Ring>()).state(Told(told));
                let (stop, stopped) = oneshot::channel::<()>();
                let mut working = JoinSet::new();
                working.spawn(worker.build().unwrap().run(async { drop(stopped.await) }));
                let saying = async {
                    while heard.recv().await.is_some() {
                        say();
                    }
                };
                tokio::select! {
                    () = saying => {}
                    _ = ended => {}
                }
                drop(stop);
                working.join_all().await.into_iter().for_each(|report| assert!(report.unwrap().is_clean()));
            }
            Self::Hold(wanted) => {
                let held = Arc::new(Held { count: AtomicU64::new(0), wanted, all: Notify::new() });
                let size = Size { slots: wanted as usize, prefetch: Some(wanted as usize) };
                let worker = ours::worker(&client, Registry::new().with::<Hold>(), &none_of(1), size);
                let worker = worker.state_arc(Arc::clone(&held)).grace(Duration::ZERO);
                let saying = async {
                    held.all.notified().await;
                    say();
                    drop(ended.await);
                };
                worker.build().unwrap().run(saying).await.unwrap();
            }
            Self::Serve { shards } => {
                let worker = ours::worker(&client, sharded(shards), &none_of(u64::MAX), Size::of_prefetch(256));
                let worker = worker.build().unwrap();
                let status = worker.status();
                // On a task of its own, so that it does not wake the worker's event loop.
                let mut telling = JoinSet::new();
                telling.spawn(async move {
                    let mut told = 0;
                    loop {
                        sleep(TELL_EVERY).await;
                        let settled = status.settled();
                        if settled > told {
                            told = settled;
                            write(&told.to_le_bytes());
                        }
                    }
                });
                worker.run(async { drop(ended.await) }).await.unwrap();
            }
        }
        client.close().await.unwrap();
    }
}

/// That it has happened.
fn say() {
    write(b".");
}

fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).unwrap();
}

/// The other process.
pub(crate) struct Child(Process);

impl Child {
    /// Starts it on the broker at `url`.
    pub(crate) fn start(url: &str, role: Role) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("child").arg(url).args(role.args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        Self(command.spawn().unwrap())
    }

    /// Waits until it says that it has happened; when that was heard.
    pub(crate) async fn hear(&mut self) -> Instant {
        let heard = self.0.stdout.as_mut().unwrap().read_u8();
        timeout(PATIENCE, heard).await.expect("the child does it in time").unwrap();
        Instant::now()
    }

    /// Lets it begin, where it waits for that.
    pub(crate) async fn begin(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b".").await.unwrap();
    }

    /// Waits until it tells how many it has settled.
    pub(crate) async fn hear_settled(&mut self) -> u64 {
        let told = self.0.stdout.as_mut().unwrap().read_u64_le();
        timeout(PATIENCE, told).await.expect("the child does it in time").unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id().unwrap()
    }

    /// Its processor time so far.
    pub(crate) fn time(&self) -> Duration {
        processor::time(self.pid())
    }

    /// That of its living threads.
    pub(crate) fn time_of_threads(&self) -> Duration {
        processor::time_of_threads(self.pid())
    }

    /// What it has in memory, in megabytes.
    pub(crate) fn memory(&self) -> f64 {
        processor::memory(self.pid())
    }

    /// Lets it end.
    pub(crate) async fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().await.unwrap().success(), "the child failed");
    }
}
