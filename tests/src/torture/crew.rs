//! The processes: each is started anew when it ends, until it is told to.

use std::{
    fmt,
    fs::OpenOptions,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

/// Its number, on every Unix.
const SIGTERM: i32 = 15;

/// How soon the end of a process is noticed.
const LOOK: Duration = Duration::from_millis(5);

/// How long a process that ended by itself rests before it is started anew, as under a service manager.
const REST: Duration = Duration::from_millis(200);

/// One process after the other, of which each does the same.
pub struct Slot {
    /// The name of the file of its records, and of that of its log.
    pub name: String,
    folder: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    now: Mutex<Now>,
}

struct Now {
    child: Option<Child>,
    since: Instant,
    told: Option<Told>,
    starts: usize,
    /// How those ended who should not have, or not so.
    ends: Vec<ExitStatus>,
}

/// What a process was sent of which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Kill,
    /// In its first moments, when nobody listens to a SIGTERM yet.
    EndAtOnce,
    End,
}

/// How long a process may take until it listens to a SIGTERM.
const LISTENS: Duration = Duration::from_secs(3);

impl Slot {
    /// Nobody runs yet.
    #[must_use]
    pub fn new(folder: &Path, name: String, args: &[&str], environment: &[(&str, String)]) -> Self {
        Self {
            name,
            folder: folder.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            now: Mutex::new(Now { child: None, since: Instant::now(), told: None, starts: 0, ends: Vec::new() }),
        }
    }

    /// Keeps a process running until one has ended well of its own, or all are to stop; then waits for its end.
    ///
    /// # Panics
    ///
    /// When this program cannot be started.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the process runs on.
    pub async fn keep(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.start();
            let ended = self.ended().await;
            let told = self.now().told;
            if ended.success() && told.is_none() {
                return;
            }
            if !is_as_told(ended, told) {
                self.now().ends.push(ended);
                select! {
                    () = stop.cancelled() => {}
                    () = sleep(REST) => {}
                }
            }
        }
    }

    /// SIGKILL.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn kill(&self) {
        let mut now = self.now();
        now.told = Some(Told::Kill);
        if let Some(child) = &mut now.child {
            // It has not been waited for, so that nobody else has its number.
            child.kill().expect("a child can be killed");
        }
    }

    /// SIGTERM, once: a second one would tell it to drop everything.
    pub fn end(&self) {
        let mut now = self.now();
        if now.told.is_none() && now.child.is_some() {
            now.told = Some(if now.since.elapsed() < LISTENS { Told::EndAtOnce } else { Told::End });
            now.signal("TERM");
        }
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.now().signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.now().signal("CONT");
    }

    /// The number of the process that runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.now().child.as_ref().map(Child::id)
    }

    /// How many processes there were.
    pub fn starts(&self) -> usize {
        self.now().starts
    }

    /// How processes ended that should not have, or not so, in words; without those that died of `expected`.
    pub fn ends(&self, expected: Option<i32>) -> Vec<String> {
        let word = |end: &ExitStatus| match (end.code(), end.signal()) {
            (Some(code), _) => format!("{} ended with {code}", self.name),
            (None, signal) => format!("{} died of signal {}", self.name, signal.unwrap_or_default()),
        };
        self.now().ends.iter().filter(|end| end.signal().is_none() || end.signal() != expected).map(word).collect()
    }

    /// Starts one, whoever keeps them running or not.
    pub(super) fn start(&self) {
        let log = OpenOptions::new().append(true).create(true).open(self.folder.join(format!("{}.log", self.name)));
        let log = log.expect("the folder can be written to");
        let mut command = Command::new(std::env::current_exe().expect("the program knows where it is"));
        command.args(&self.args).current_dir(&self.folder).env_clear();
        command.env("TORTURE_RECORDS", self.folder.join(&self.name));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be opened twice")).stderr(log);
        let mut now = self.now();
        now.child = Some(command.spawn().expect("the program can be started"));
        (now.since, now.told) = (Instant::now(), None);
        now.starts += 1;
    }

    /// Waits until the one that was started has ended.
    pub(super) async fn ended(&self) -> ExitStatus {
        loop {
            {
                let mut now = self.now();
                let child = now.child.as_mut().expect("it was started");
                if let Some(status) = child.try_wait().expect("a child can be waited for") {
                    now.child = None;
                    return status;
                }
            }
            sleep(LOOK).await;
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("nobody panics with it")
    }
}

fn is_as_told(ended: ExitStatus, told: Option<Told>) -> bool {
    match told {
        None => false,
        Some(Told::Kill) => true,
        Some(Told::EndAtOnce) => ended.success() || ended.signal() == Some(SIGTERM),
        Some(Told::End) => ended.success(),
    }
}

impl Now {
    fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        assert!(sent.expect("there is `kill`").success(), "SIG{name} could not be sent");
    }
}

impl fmt::Debug for Slot {
    /// Without its environment, in which there is a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    /// A run that failed half-way leaves nobody behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.now().child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
