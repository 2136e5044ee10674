//! How soon a job starts, within one process and across two, and what an idle worker costs.
//!
//! `cargo bench-latency [JOBS]` enqueues one job at a time into an idle system
//! and prints the time from the enqueue's `Ok` to the handler's first line, and
//! the processor time of a worker process that has nothing to do.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, ExitCode, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use worker_core::{
    Client, Context, Handler, Job, JobResult, Registry, State, Worker,
    brokers::sqlite::{SqliteBroker, SqliteOptions},
};

/// Between two jobs: long enough that everything is idle again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the idle worker is watched.
const IDLE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ring {}

impl Job for Ring {
    const NAME: &'static str = "ring";
    type Return = ();
}

/// Who is told that the handler has begun.
struct Told(Mutex<Box<dyn FnMut() + Send>>);

impl Handler for Ring {
    async fn run(self, cx: Context) -> JobResult<()> {
        let told: State<Told> = cx.supply()?;
        (told.0.lock().unwrap())();
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [role, path] = &*args
        && role == "worker"
    {
        let mut stdout = std::io::stdout();
        work(&client(Path::new(path)).await, move || {
            stdout.write_all(b".").and_then(|()| stdout.flush()).unwrap();
        })
        .await;
        return ExitCode::SUCCESS;
    }
    let Ok(jobs) = args.first().map_or(Ok(1_000), |jobs| jobs.parse::<usize>()) else {
        eprintln!("usage: latency [JOBS]");
        return ExitCode::from(2);
    };
    println!("{jobs} jobs, one at a time, SQLite {}, synchronous=FULL\n", rusqlite::version());
    println!("{:<36} {:>9} {:>9} {:>9}", "from Ok to the handler's first line", "p50", "p99", "max");
    print("within one process", within(jobs).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let mut worker = Worked::start(&path);
    print("across two processes", across(&path, &mut worker, jobs).await);
    let before = worker.processor_time();
    tokio::time::sleep(IDLE).await;
    let used = worker.processor_time().checked_sub(before).unwrap_or_default();
    println!("\nan idle worker process uses {:.3}% of a core", 100.0 * used.as_secs_f64() / IDLE.as_secs_f64());
    ExitCode::SUCCESS
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    println!("{what:<36} {:>9} {:>9} {:>9}", ms(at(50)), ms(at(99)), ms(at(100)));
}

async fn client(path: &Path) -> Client {
    Client::new(Arc::new(SqliteBroker::open(path, SqliteOptions::default()).await.unwrap()))
}

async fn work(client: &Client, told: impl FnMut() + Send + 'static) {
    let told = Told(Mutex::new(Box::new(told)));
    let worker = Worker::builder(client).registry(Registry::new().with::<Ring>()).state(told).build().unwrap();
    worker.run(std::future::pending()).await.unwrap();
}

async fn within(jobs: usize) -> Vec<Duration> {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&folder.path().join("jobs.db")).await;
    let (sender, received) = mpsc::sync_channel(1);
    // A task of its own: waiting for it blocks the thread.
    let mut working = JoinSet::new();
    let consumer = client.clone();
    working.spawn(async move { work(&consumer, move || sender.send(Instant::now()).unwrap()).await });
    let mut times = Vec::new();
    for _ in 0..jobs {
        tokio::time::sleep(PAUSE).await;
        client.enqueue(Ring {}).await.unwrap();
        let ok = Instant::now();
        // The handler may have begun before `Ok` was heard.
        let began = tokio::task::block_in_place(|| received.recv().unwrap());
        times.push(began.saturating_duration_since(ok));
    }
    times
}

async fn across(path: &Path, worker: &mut Worked, jobs: usize) -> Vec<Duration> {
    let client = client(path).await;
    let mut times = Vec::new();
    for _ in 0..jobs {
        tokio::time::sleep(PAUSE).await;
        client.enqueue(Ring {}).await.unwrap();
        let ok = Instant::now();
        tokio::task::block_in_place(|| worker.hear());
        times.push(ok.elapsed());
    }
    client.close().await.unwrap();
    times
}

/// The worker process.
struct Worked(Child);

impl Worked {
    fn start(path: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(program);
        Self(command.arg("worker").arg(path).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for the byte that its handler writes.
    fn hear(&mut self) {
        self.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    /// The processor time of all its threads so far.
    fn processor_time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let nanoseconds = threads.map(|thread| {
            let text = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Worked {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
