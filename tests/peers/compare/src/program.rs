//! The peers' programs: where they are, and how they are run.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::{process::Command, time::timeout};

use crate::{
    peer::{Peer, Program},
    place::Place,
};

/// How long a program may take for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to do where something was not installed.
const INSTALL: &str = "start with tests/peers/run.sh, which installs it, and says why if it cannot";

/// What a peer prints when it has enqueued or processed.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Report {
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

#[derive(Deserialize)]
struct Counted {
    jobs: u64,
}

/// Where the programs are.
pub(crate) struct Programs {
    /// The folder `tests/peers`.
    home: PathBuf,
    /// Where cargo puts what it builds.
    target: PathBuf,
    /// Where `run.sh` installs what is not built.
    cache: PathBuf,
}

impl Programs {
    pub(crate) fn new() -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let folder = |variable, otherwise: PathBuf| env::var_os(variable).map_or(otherwise, PathBuf::from);
        let target = folder("CARGO_TARGET_DIR", home.join("target"));
        let users = folder("XDG_CACHE_HOME", folder("HOME", ".".into()).join(".cache"));
        Self { home, target, cache: folder("WORKER_PEERS_CACHE", users.join("worker-peers")) }
    }

    /// Sees that a peer is there: `run.sh` has built or installed it.
    pub(crate) fn check(&self, peer: &Peer) -> Result<(), String> {
        let (path, hint) = match peer.program {
            Program::Rust(package) => {
                let hint =
                    format!("start with tests/peers/run.sh, which builds it; if it did, {package} does not compile");
                (self.built(package), hint)
            }
            Program::Python(_) => (self.cache.join("venv/bin/python"), INSTALL.to_owned()),
            Program::Node(_) => (self.cache.join("node/node_modules"), INSTALL.to_owned()),
        };
        if path.exists() { Ok(()) } else { Err(format!("{} is missing: {hint}", path.display())) }
    }

    fn built(&self, package: &str) -> PathBuf {
        self.target.join("release").join(package)
    }

    fn command(&self, peer: &Peer) -> Command {
        let mut command = match peer.program {
            Program::Rust(package) => Command::new(self.built(package)),
            Program::Python(script) => {
                let mut command = Command::new(self.cache.join("venv/bin/python"));
                command.arg(self.home.join("python").join(script));
                command
            }
            Program::Node(script) => {
                let mut command = Command::new("node");
                command.arg(self.home.join("node").join(script)).env("WORKER_PEERS_NODE", self.cache.join("node"));
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Lets a peer enqueue or process so many jobs at a place.
    pub(crate) async fn run(&self, peer: &Peer, what: &str, place: &Place, jobs: u64) -> Result<Report, String> {
        let report: Report = self.ask(peer, what, place, jobs).await?;
        if report.jobs > 0 && report.seconds > 0.0 {
            return Ok(report);
        }
        Err(format!("{} {what} says that it has done nothing", peer.name))
    }

    /// How many jobs a peer says are not done.
    pub(crate) async fn count(&self, peer: &Peer, place: &Place) -> Result<u64, String> {
        self.ask(peer, "count", place, 0).await.map(|Counted { jobs }| jobs)
    }

    async fn ask<T: DeserializeOwned>(&self, peer: &Peer, what: &str, place: &Place, jobs: u64) -> Result<T, String> {
        let mut command = self.command(peer);
        command.args([what, "--url", &place.url, "--queue", &place.queue, "--kind", place.kind()]);
        command.args(["--jobs", &jobs.to_string()]);
        let name = format!("{} {what}", peer.name);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.map_err(|_| format!("{name} took more than {} s", PATIENCE.as_secs()))?;
        let output = output.map_err(|error| format!("{name} cannot be run: {error}"))?;
        let Output { status, stdout, stderr } = &output;
        let said = String::from_utf8_lossy(stdout);
        let line = said.lines().next_back().unwrap_or_default();
        match serde_json::from_str(line) {
            Ok(answer) if status.success() => Ok(answer),
            _ => Err(format!("{name} ended with {status}: {}", last_words(&String::from_utf8_lossy(stderr), line))),
        }
    }
}

/// What a program said last, on one line: its errors, and what should have been the answer.
fn last_words(stderr: &str, answer: &str) -> String {
    let lines: Vec<_> = stderr.lines().chain([answer]).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" / ").chars().take(600).collect()
}
