//! The main job: a folder of pictures in, thumbnails out, through a durable queue.
//!
//! It enqueues one job per picture and, beside them, jobs that fail on
//! purpose; runs a worker in this process until all have ended; and closes with
//! a table. Stop it with Ctrl-C and run it again: what was enqueued is on disk.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write as _},
    iter,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{sync::Notify, time::interval};
use worker_core::{
    Client, ConfigError, ConnectError, DrainReport, Enqueueable, Job, JobReport, QueueName, Worker,
    broker::QueueStats,
    cli::exit,
    config::{BrokerUrl, Settings, SettingsReader},
};

use crate::{
    BROKER_URL,
    jobs::{flaky, poison, thumbnail},
    pictures::{self, Found},
    signals::stop_requested,
    state::Mailer,
    tally::{Counts, Tally},
};

/// Flaky jobs that a run enqueues, to show retries.
const FLAKY_JOBS: usize = 3;

/// Between two looks at the queues, in case another worker takes our jobs.
const LOOK: Duration = Duration::from_millis(500);

/// Make thumbnails of a folder of pictures, through a durable queue on disk.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  example-app thumbnails\n  example-app --input ~/Pictures --output ~/thumbnails --size 512"
)]
struct Args {
    /// The folder of pictures (JPEG, PNG), searched with the folders within; default: a few that ship with the app
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where the thumbnails go, under the same names; created if missing
    #[arg(long, value_name = "DIR", default_value = "thumbnails")]
    output: PathBuf,
    /// The longer side of a thumbnail at most, in pixels, 16 to 4096; nothing is enlarged
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: u32,
    /// The broker's URL; default: WORKER_BROKER_URL, or sqlite:example-app.db
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
}

/// Where the pictures are that ship with the app.
pub(crate) fn shipped_pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures")
}

/// The settings of this application's own commands.
pub(crate) fn settings(broker: Option<String>) -> Result<Settings, Box<dyn Error>> {
    let mut reader = SettingsReader::new().default_broker_url(BROKER_URL);
    if let Some(url) = broker {
        reader = reader.flag("--broker", url);
    }
    Ok(reader.read(std::env::vars_os())?)
}

/// Runs the command, and says on the standard error why where it could not.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(demo(args)).unwrap_or_else(|error| failed(&*error));
    // A decoder that still runs is not waited for.
    runtime.shutdown_background();
    code
}

/// Says why a command ended early, and ends as the operator's commands do.
pub(crate) fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    let causes: Vec<_> = iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    say(&format!("error: {}", causes.join(": ")));
    ExitCode::from(code(error))
}

fn code(error: &(dyn Error + 'static)) -> u8 {
    match error.downcast_ref() {
        Some(ConnectError::Config(_)) => exit::CONFIG,
        Some(ConnectError::Broker(_)) => exit::UNAVAILABLE,
        None if error.is::<ConfigError>() => exit::CONFIG,
        _ => exit::FAILURE,
    }
}

async fn demo(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let settings = settings(args.broker.clone())?;
    let input = args.input.clone().unwrap_or_else(shipped_pictures);
    let found = pictures::find(&input, &args.output).map_err(|error| format!("`{}`: {error}", input.display()))?;
    if found.pictures.is_empty() {
        return Err(format!("there is no .jpg, .jpeg or .png file in `{}`", input.display()).into());
    }
    std::fs::create_dir_all(&args.output).map_err(|error| format!("`{}`: {error}", args.output.display()))?;
    let started = Instant::now();
    let client = settings.connect().await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    enqueue(&client, &args, &input, &found, &tally).await?;
    say(&format!(
        "{} pictures of {} enqueued in {}{}",
        found.pictures.len(),
        input.display(),
        settings.broker_url,
        if found.skipped > 0 { format!(" ({} other files skipped)", found.skipped) } else { String::new() }
    ));
    let interrupted = run(&settings, &client, &tally).await?;
    client.close().await?;
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    report(&tally, &args.output, started.elapsed(), &settings.broker_url, interrupted)?;
    Ok(if interrupted { ExitCode::from(75) } else { ExitCode::SUCCESS })
}

/// Enqueues this run's jobs. Paths are absolute: a worker may run in another folder.
async fn enqueue(
    client: &Client,
    args: &Args,
    input: &Path,
    found: &Found,
    tally: &Mutex<Tally>,
) -> Result<(), Box<dyn Error>> {
    let (input, output) = (std::path::absolute(input)?, std::path::absolute(&args.output)?);
    let pictures = found.pictures.iter();
    let thumbnails = pictures.map(|picture| thumbnail::new(input.join(picture), output.join(picture), args.size));
    enqueue_all(client, thumbnail::NAME, thumbnails, tally).await?;
    enqueue_all(client, flaky::NAME, (0..FLAKY_JOBS).map(|_| flaky::new()), tally).await?;
    enqueue_all(client, poison::NAME, [poison::new()], tally).await
}

async fn enqueue_all(
    client: &Client,
    name: &str,
    jobs: impl IntoIterator<Item: Enqueueable>,
    tally: &Mutex<Tally>,
) -> Result<(), Box<dyn Error>> {
    for answer in client.enqueue_all(jobs).await {
        let enqueued = answer?;
        tally.lock().unwrap_or_else(PoisonError::into_inner).enqueued(enqueued.id, name);
    }
    Ok(())
}

/// Runs a worker until every job of this run has ended, here or in another
/// worker; whether somebody stopped it before.
async fn run(settings: &Settings, client: &Client, tally: &Arc<Mutex<Tally>>) -> Result<bool, Box<dyn Error>> {
    let bar = progress_bar(tally.lock().unwrap_or_else(PoisonError::into_inner).total());
    let ended = Arc::new(Notify::new());
    let observer = {
        let (tally, bar, ended) = (Arc::clone(tally), bar.clone(), Arc::clone(&ended));
        move |report: &JobReport| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.ended(report);
            bar.set_position(tally.total() - tally.open() as u64);
            bar.set_message(summary(&tally));
            if tally.open() == 0 {
                ended.notify_one();
            }
        }
    };
    let queues = [thumbnail::QUEUE, flaky::QUEUE];
    // The queues come last: without these two, WORKER_QUEUES would let this run wait for ever.
    let worker = settings.configure(Worker::builder(client)).state(Mailer::default()).queues(queues).observe(observer);
    let (mut interrupted, mut elsewhere) = (false, false);
    let shutdown = async {
        tokio::select! {
            () = ended.notified() => {}
            () = taken_elsewhere(client, &queues) => elsewhere = true,
            () = stop_requested() => {
                interrupted = true;
                bar.suspend(|| say("stopping: what runs is finished first"));
            }
        }
    };
    let report: DrainReport = worker.build()?.run(shutdown).await?;
    bar.finish_and_clear();
    let open = tally.lock().unwrap_or_else(PoisonError::into_inner).open();
    if elsewhere && open > 0 {
        say(&format!("{open} jobs were run by another worker on the same queues"));
    }
    if interrupted {
        say(&format!("stopped: {report}; {open} jobs wait in the queue, and the next run begins with them"));
    }
    Ok(interrupted && open > 0)
}

/// Resolves when nothing waits or runs in our queues any more.
async fn taken_elsewhere(client: &Client, queues: &[&str]) {
    let Some(inspector) = client.broker().inspector() else { return std::future::pending().await };
    let known: Vec<QueueName> = queues.iter().filter_map(|queue| queue.parse().ok()).collect();
    let mut look = interval(LOOK);
    let mut empty_looks = 0;
    // Twice, so that the observer of our own last job goes first.
    while empty_looks < 2 {
        look.tick().await;
        let Ok(stats) = inspector.queues(&known).await else { continue };
        let ours = stats.iter().filter(|stats| known.contains(&stats.queue));
        let jobs: u64 = ours.map(QueueStats::unfinished).sum();
        empty_looks = if jobs == 0 { empty_looks + 1 } else { 0 };
    }
}

fn progress_bar(jobs: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(jobs), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:32} {pos}/{len} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn summary(tally: &Tally) -> String {
    let sum = |of: fn(&Counts) -> u64| tally.types().map(|(_, counts)| of(counts)).sum::<u64>();
    format!("{} succeeded, {} retried, {} dead", sum(|c| c.succeeded), sum(|c| c.retried), sum(|c| c.dead))
}

pub(crate) fn say(text: &str) {
    // Where nobody can read it, there is nobody to tell.
    drop(writeln!(io::stderr(), "{text}"));
}

fn report(tally: &Tally, output: &Path, wall: Duration, broker: &BrokerUrl, interrupted: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", table(tally))?;
    let verb = if interrupted { "stopped" } else { "done" };
    writeln!(stdout, "{verb} in {:.1} s; the thumbnails are in {}", wall.as_secs_f64(), output.display())?;
    if let Some(id) = tally.first_dead() {
        let flag = if broker.to_string() == BROKER_URL { String::new() } else { format!(" --broker {broker}") };
        writeln!(stdout, "\nJobs that cannot succeed wait in the dead-letter queue. Look at them, and run one again:")?;
        let commands = [
            ("dlq list".into(), ""),
            (format!("dlq show {id}"), ""),
            (format!("dlq replay {id}"), "  # asks first"),
            ("run".into(), "  # works on it, until Ctrl-C"),
        ];
        for (command, note) in commands {
            writeln!(stdout, "  cargo run --release -p example-app -- {command}{flag}{note}")?;
        }
    }
    Ok(())
}

fn table(tally: &Tally) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["job", "enqueued", "succeeded", "retried", "dead", "p50", "p99"]);
    for (job, counts) in tally.types() {
        let time = |share| counts.run_time(share).map_or_else(|| "-".into(), shown);
        let Counts { enqueued, succeeded, retried, dead, .. } = counts;
        let numbers = [enqueued, succeeded, retried, dead].map(ToString::to_string);
        table.add_row([vec![job.to_owned()], numbers.to_vec(), vec![time(0.50), time(0.99)]].concat());
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// A run time with three digits at most: `850 µs`, `12.3 ms`, `1.20 s`.
fn shown(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_serves_its_own_queues_whatever_the_environment_says() {
        let settings = SettingsReader::new().read([("WORKER_QUEUES".into(), "mail".into())]).unwrap();
        let client = Client::connect("memory:").await.unwrap();
        let tally = Arc::new(Mutex::new(Tally::default()));
        enqueue_all(&client, poison::NAME, [poison::new()], &tally).await.unwrap();
        let interrupted = run(&settings, &client, &tally).await.unwrap();
        assert!(!interrupted);
        assert_eq!(tally.lock().unwrap().open(), 0);
    }

    #[tokio::test]
    async fn a_mistake_in_the_configuration_ends_like_that_of_an_operators_command() {
        let typo = SettingsReader::new().read([("WORKER_CONCURENCY".into(), "4".into())]).unwrap_err();
        assert_eq!(code(&typo), exit::CONFIG);
        let no_broker = Client::connect("postgres://localhost").await.unwrap_err();
        assert_eq!(code(&no_broker), exit::CONFIG);
        let no_folder = Client::connect("sqlite:/there/is/no/folder.db").await.unwrap_err();
        assert_eq!(code(&no_folder), exit::UNAVAILABLE);
    }
}
