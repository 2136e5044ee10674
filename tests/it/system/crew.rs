//! A folder with a journal, a broker, and processes that work on it.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        pub(crate) struct $type { $(pub(crate) $field: u64),* }

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

pub(crate) struct Crew {
    folder: TempDir,
    /// Where the worker processes find the broker.
    url: String,
    pub(crate) client: Client,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) event: String,
    pub(crate) n: u64,
    pub(crate) attempt: u32,
    pub(crate) pid: u32,
}

impl Crew {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let broker = SqliteBroker::open(folder.path().join("jobs.db"), SqliteOptions::default()).await.unwrap();
        Self { client: Client::new(Arc::new(broker)), folder, url: "sqlite:jobs.db".into() }
    }

    /// On the broker of `client`, which processes reach at `url`.
    pub(crate) fn on(client: Client, url: String) -> Self {
        Self { folder: TempDir::new().unwrap(), url, client }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Enqueues, and insists that each is durable.
    pub(crate) async fn enqueue<J: Job>(&self, jobs: impl IntoIterator<Item = J>) {
        for answer in self.client.enqueue_all(jobs).await {
            answer.unwrap();
        }
    }

    /// A worker process with these settings; its log goes to a file named by its number.
    pub(crate) fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let log = self.path(&format!("log-{}", fs::read_dir(self.folder.path()).unwrap().count()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crew"));
        command.arg("run").current_dir(self.folder.path()).env_clear();
        command.env("CREW_JOURNAL", self.path("journal")).env("WORKER_BROKER_URL", &self.url);
        command.envs(settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Process { child: command.spawn().unwrap(), log }
    }

    /// What ran so far, in order.
    pub(crate) fn journal(&self) -> Vec<Noted> {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        let noted = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let [event, n, attempt, pid, _enqueued] = &*words else { panic!("torn line {line:?}") };
            let (n, attempt, pid) = (n.parse().unwrap(), attempt.parse().unwrap(), pid.parse().unwrap());
            Noted { event: (*event).to_owned(), n, attempt, pid }
        };
        // A line that crosses a page of the file may be seen half-way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(noted).collect()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.journal().iter().filter(|noted| noted.event == event).count()
    }

    /// How often each job started.
    pub(crate) fn starts(&self) -> BTreeMap<u64, usize> {
        let mut starts = BTreeMap::new();
        for noted in self.journal().iter().filter(|noted| noted.event == "start") {
            *starts.entry(noted.n).or_default() += 1;
        }
        starts
    }

    /// Waits until `count` events of this kind are in the journal.
    pub(crate) async fn wait_for(&self, count: usize, event: &str) {
        eventually(format!("{count} jobs {event}"), async || (self.count(event) >= count).then_some(())).await;
    }

    /// Which jobs ran to their end, each once.
    pub(crate) fn ended(&self) -> BTreeSet<u64> {
        self.journal().iter().filter(|noted| noted.event == "end").map(|noted| noted.n).collect()
    }

    /// Waits until nothing waits or runs; the dead are left.
    pub(crate) async fn wait_until_done(&self) {
        eventually("everything was done", async || (self.stats().await.unfinished() == 0).then_some(())).await;
    }

    pub(crate) async fn stats(&self) -> QueueStats {
        let queues = self.inspector().queues(&[]).await.unwrap();
        queues.into_iter().find(|stats| stats.queue == "crew").unwrap()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadJob> {
        self.inspector().dead(&Selection::default(), Page::first(1_000)).await.unwrap().jobs
    }

    pub(crate) fn inspector(&self) -> Arc<dyn Inspector> {
        self.client.broker().inspector().unwrap()
    }
}

/// A worker process. It is killed where a test fails half-way.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// SIGKILL: no handler, no destructor.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the worker process ended", async || self.child.try_wait().unwrap()).await
    }

    /// Waits until it has said this.
    pub(crate) async fn said(&self, what: &str) {
        eventually(format!("the worker said {what:?}"), async || self.log().contains(what).then_some(())).await;
    }

    pub(crate) fn is_running(&mut self) -> bool {
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
