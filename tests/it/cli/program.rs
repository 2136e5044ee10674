//! Running the program, and what it printed.

use std::{
    fmt,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use worker_core::{
    Clock as _, FailureKind, JobId, SystemClock,
    broker::{Broker, Subscription, Topology},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
    envelope::Envelope,
    outcome::Failure,
    settlement::Settlement,
};

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in a folder of its own.
pub(crate) struct Program {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), environment: Vec::new() }
    }

    /// With this variable, and no other but those given so.
    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.into(), value.into()));
        self
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, content: &str) -> String {
        std::fs::write(self.path(file), content).unwrap();
        self.path(file).display().to_string()
    }

    /// Runs it to its end, with nothing to read.
    pub(crate) fn run(&self, args: &[&str]) -> Printed {
        self.start(args).end()
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Printed {
        let mut running = self.start_with_input(args);
        running.write(input);
        running.end()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.spawn(self.command(env!("CARGO_BIN_EXE_fixture").as_ref(), args).stdin(Stdio::null()))
    }

    pub(crate) fn start_with_input(&self, args: &[&str]) -> Running {
        self.spawn(self.command(env!("CARGO_BIN_EXE_fixture").as_ref(), args).stdin(Stdio::piped()))
    }

    /// The same at a terminal of so many columns, whose keyboard is `Running::write`.
    pub(crate) fn start_at_terminal(&self, columns: u16, args: &[&str]) -> Running {
        let words = args.iter().map(|arg| format!(" '{arg}'")).collect::<String>();
        let line = format!("stty cols {columns} rows 40; exec {}{words}", env!("CARGO_BIN_EXE_fixture"));
        let mut command = self.command("script".as_ref(), &["-qec", &line, "/dev/null"]);
        self.spawn(command.env("TERM", "xterm").env("SHELL", "/bin/sh").stdin(Stdio::piped()))
    }

    /// Runs a line of shell.
    pub(crate) fn shell(&self, line: &str) -> Printed {
        self.spawn(self.command("sh".as_ref(), &["-c", line]).stdin(Stdio::null())).end()
    }

    /// A worker, once it runs the job `wait` or `stuck`.
    pub(crate) fn start_with_running_job(&self, args: &[&str]) -> Running {
        let running = self.start(&[&["run"], args].concat());
        running.stdout.wait_for("the job runs");
        running
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).env_clear();
        // For `script`, `stty` and the shell between them.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        command
    }

    fn spawn(&self, command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Output::collect(child.stdout.take().unwrap());
        let stderr = Output::collect(child.stderr.take().unwrap());
        Running { stdin: child.stdin.take(), child, stdout, stderr }
    }

    /// Puts dead jobs into `jobs.db`: as many as there are `(id, job, kind, error)`, oldest first.
    pub(crate) fn bury(&self, dead: &[(&str, &str, FailureKind, &str)]) {
        let jobs: Vec<_> = dead.iter().map(|(id, job, ..)| (id.parse().unwrap(), *job)).collect();
        let failures = dead.iter().map(|(.., kind, error)| Failure::new(*kind, *error));
        self.bury_with(&jobs, failures.collect());
    }

    fn bury_with(&self, jobs: &[(JobId, &str)], failures: Vec<Failure>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let broker = SqliteBroker::open(self.path("jobs.db"), SqliteOptions::default()).await.unwrap();
            let queue: worker_core::QueueName = "trouble".parse().unwrap();
            broker.declare(&Topology::queues([queue.clone()])).await.unwrap();
            let now = SystemClock.now();
            for (jobs, failures) in jobs.chunks(1_000).zip(failures.chunks(1_000)) {
                let envelope = |(id, job): &(JobId, &str)| {
                    let payload = format!(r#"{{"message":"of {id}"}}"#).into_bytes();
                    Envelope::new(id.clone(), queue.clone(), Some(job.parse().unwrap()), payload, now)
                };
                for answer in broker.enqueue(jobs.iter().map(envelope).collect()).await {
                    answer.unwrap();
                }
                let subscription = Subscription::new(queue.clone(), 1_000.try_into().unwrap());
                let (mut source, settler) = broker.consume(subscription).await.unwrap();
                let (mut failures, mut tickets) = (failures.iter(), Vec::new());
                while tickets.len() < jobs.len() {
                    for delivery in source.next_batch(1_000).await.unwrap() {
                        let failure = failures.next().unwrap().clone();
                        tickets.push(settler.submit(delivery, Settlement::DeadLetter { failure }));
                    }
                }
                for ticket in tickets {
                    ticket.await.unwrap();
                }
                source.stop().await.unwrap();
            }
            broker.close().await.unwrap();
        });
    }
}

/// The program at work.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Running {
    /// What the user types or pipes in.
    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        // The program may be done with it.
        drop(stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()));
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
    }

    /// Waits until it is over.
    pub(crate) fn end(mut self) -> Printed {
        drop(self.stdin.take());
        self.wait()
    }

    /// The same with the input left open, as a terminal's is.
    pub(crate) fn wait(mut self) -> Printed {
        let (stdout, stderr) = (self.stdout.to_its_end(), self.stderr.to_its_end());
        let code = self.child.wait().unwrap().code();
        Printed { code: code.unwrap_or(-1), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test failed half-way.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One of its streams, read as it comes.
#[derive(Clone)]
pub(crate) struct Output(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn collect(mut stream: impl Read + Send + 'static) -> Self {
        let output = Self(Arc::default());
        let collecting = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                let mut collected = collecting.0.0.lock().unwrap();
                collected.bytes.extend_from_slice(&buffer[..read]);
                collected.ended = read == 0;
                collecting.0.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        output
    }

    /// What was printed until now.
    pub(super) fn so_far(&self) -> String {
        self.0.0.lock().unwrap().text()
    }

    /// Waits until `text` was printed.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let collected = self.wait_while(|collected| !collected.text().contains(text) && !collected.ended);
        assert!(collected.contains(text), "`{text}` was not printed, but:\n{collected}");
    }

    #[track_caller]
    fn to_its_end(&self) -> String {
        self.wait_while(|collected| !collected.ended)
    }

    #[track_caller]
    fn wait_while(&self, mut goes_on: impl FnMut(&Collected) -> bool) -> String {
        let (collected, changed) = &*self.0;
        let collected = collected.lock().unwrap();
        let (collected, waited) = changed.wait_timeout_while(collected, PATIENCE, |c| goes_on(c)).unwrap();
        assert!(!waited.timed_out(), "still running, after:\n{}", collected.text());
        collected.text()
    }
}

impl Collected {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// What it printed, and its exit code.
pub(crate) struct Printed {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Printed {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{self}");
        self
    }

    /// Checks that all of `parts` were said on standard error.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        let missing: Vec<_> = parts.iter().filter(|part| !self.stderr.contains(**part)).collect();
        assert!(missing.is_empty(), "not said: {missing:?}\n{self}");
        self
    }

    /// Checks that all of `parts` were printed on standard output.
    #[track_caller]
    pub(crate) fn prints(self, parts: &[&str]) -> Self {
        let missing: Vec<_> = parts.iter().filter(|part| !self.stdout.contains(**part)).collect();
        assert!(missing.is_empty(), "not printed: {missing:?}\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The row of a tab-separated table that begins with `first`, as its cells.
    #[track_caller]
    pub(crate) fn row(&self, first: &str) -> Vec<String> {
        let row = self.stdout.lines().find(|line| line.split('\t').next() == Some(first));
        let row = row.unwrap_or_else(|| panic!("no row `{first}`\n{self}"));
        row.split('\t').map(str::to_owned).collect()
    }
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}\nstdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr)
    }
}
