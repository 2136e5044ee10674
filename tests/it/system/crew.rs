//! A folder with a database and a journal, and processes that work on it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use worker_core::{
    Client, Job,
    broker::{DeadJob, Inspector, Page, QueueStats, Selection},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
};
use worker_tests::eventually::eventually;

/// The jobs of `crew`, as a producer knows them.
macro_rules! job {
    ($type:ident, $name:literal { $($field:ident),* }) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(super) struct $type { $(pub(super) $field: u64),* }

        impl Job for $type {
            const NAME: &'static str = $name;
            const QUEUE: &'static str = "crew";
            type Return = ();
        }
    };
}

job!(Mark, "mark" { n, millis });
job!(Grind, "grind" { n, millis });
job!(Seize, "seize" { n });
job!(Hang, "hang" { n });
job!(Die, "die" { n });
job!(Fail, "fail" { n });

pub(super) struct Crew {
    folder: TempDir,
    pub(super) client: Client,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) event: String,
    pub(super) n: u64,
    pub(super) attempt: u32,
    pub(super) pid: u32,
}

impl Crew {
    pub(super) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let broker = SqliteBroker::open(folder.path().join("jobs.db"), SqliteOptions::default()).await.unwrap();
        Self { client: Client::new(Arc::new(broker)), folder }
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Enqueues, and insists that each is durable.
    pub(super) async fn enqueue<J: Job>(&self, jobs: impl IntoIterator<Item = J>) {
        for answer in self.client.enqueue_all(jobs).await {
            answer.unwrap();
        }
    }

    /// A worker process with these settings; its log goes to a file named by its number.
    pub(super) fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let log = self.path(&format!("log-{}", fs::read_dir(self.folder.path()).unwrap().count()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crew"));
        command.arg("run").current_dir(self.folder.path()).env_clear();
        command.env("CREW_JOURNAL", self.path("journal")).env("WORKER_BROKER_URL", "sqlite:jobs.db");
        command.envs(settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Process { child: command.spawn().unwrap(), log }
    }

    /// What ran so far, in order.
    pub(super) fn journal(&self) -> Vec<Noted> {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        let noted = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let [event, n, attempt, pid, _enqueued] = &*words else { panic!("torn line {line:?}") };
            let (n, attempt, pid) = (n.parse().unwrap(), attempt.parse().unwrap(), pid.parse().unwrap());
            Noted { event: (*event).to_owned(), n, attempt, pid }
        };
        text.lines().map(noted).collect()
    }

    pub(super) fn count(&self, event: &str) -> usize {
        self.journal().iter().filter(|noted| noted.event == event).count()
    }

    /// How often each job started.
    pub(super) fn starts(&self) -> BTreeMap<u64, usize> {
        let mut starts = BTreeMap::new();
        for noted in self.journal().iter().filter(|noted| noted.event == "start") {
            *starts.entry(noted.n).or_default() += 1;
        }
        starts
    }

    /// Waits until `count` events of this kind are in the journal.
    pub(super) async fn wait_for(&self, count: usize, event: &str) {
        eventually(format!("{count} jobs {event}"), async || (self.count(event) >= count).then_some(())).await;
    }

    /// Waits until nothing waits or runs; the dead are left.
    pub(super) async fn wait_until_done(&self) {
        eventually("everything was done", async || {
            let QueueStats { ready, running, delayed, .. } = self.stats().await;
            (ready + running + delayed == 0).then_some(())
        })
        .await;
    }

    pub(super) async fn stats(&self) -> QueueStats {
        let queues = self.inspector().queues().await.unwrap();
        queues.into_iter().find(|stats| stats.queue == "crew").unwrap()
    }

    pub(super) async fn dead(&self) -> Vec<DeadJob> {
        self.inspector().dead(&Selection::default(), Page::first(1_000)).await.unwrap().jobs
    }

    pub(super) fn inspector(&self) -> Arc<dyn Inspector> {
        self.client.broker().inspector().unwrap()
    }
}

/// A worker process. It is killed where a test fails half-way.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// SIGKILL: no handler, no destructor.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        eventually("the worker process ended", async || self.child.try_wait().unwrap()).await
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
