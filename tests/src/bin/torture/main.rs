//! Torments real processes on real servers, and counts what became of every job: `cargo torture --help`.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it prints is its result, and what it cannot write down is lost"
)]

mod jobs;
mod produce;

use std::{
    env, fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::{Builder, TempDir};
use tokio::{runtime, select, time::sleep};
use worker_core::{
    brokers::rabbitmq::{Mutant, mutate_process},
    prelude::App,
};
use worker_tests::torture::{
    apart::{enter, is_apart},
    away::away,
    full::full,
    plan::{Fault, Name, Plan},
    record::Writer,
    report::Report,
    rotten::rotten,
    run::{Progress, run},
    shutdowns::{Meanwhile, shutdowns},
    torn::torn,
};

use crate::jobs::Suspicions;

/// Torment real workers and producers on real servers, and count what became of every job
#[derive(Debug, Parser)]
#[command(name = "cargo torture")]
#[command(after_help = "Exits with 0 when all is as promised, with 1 when not, and says then where the logs and the
records are.

Examples:
  cargo torture run smoke                        every fault one node can have, in two minutes
  cargo torture run million --seed 17            with the faults in another order
  cargo torture shutdowns --meanwhile frozen     SIGTERM while the server answers to nobody
  cargo torture mutants                          whether it finds what is known to be bad
  cargo torture torn --images 10000 --json       for programs")]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print the report as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Keep logs and records in this folder, which must not be there yet
    #[arg(long, global = true, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a plan: jobs, and faults meanwhile; then all is healed, drained and counted
    Run {
        /// Which
        plan: Name,
        /// Decides in which order the faults come, whom they hit and how long they last
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Another number of jobs than the plan has
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        jobs: Option<u64>,
        /// Other faults than the plan has, and how often each: `kill-node=3,reset=2`
        #[arg(long, value_delimiter = ',', value_parser = fault, value_name = "FAULT=TIMES")]
        faults: Option<Vec<(Fault, usize)>>,
    },
    /// Run a plan with each variant that is known to be bad, and tell which are caught; exits with 1 when one is not
    Mutants {
        /// Decides over the faults, as of `run`
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds, from that one on, before a variant counts as escaped
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// These alone, as they are called in the report
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Ask workers to end in the middle of their work, over and over
    Shutdowns {
        /// How often
        #[arg(long, default_value_t = 125)]
        rounds: usize,
        /// How many workers each time
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
        together: u8,
        /// What is wrong with the server meanwhile
        #[arg(long, value_enum, default_value_t = Meanwhile::Nothing)]
        meanwhile: Meanwhile,
    },
    /// Take the server away from a worker, and see what it costs
    Away {
        /// For how long
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        seconds: u64,
    },
    /// Open images of a SQLite file as a loss of power may leave them
    Torn {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        images: u64,
        /// Decides what is written, and what of it is there
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Fill the disk of a SQLite file at each page that it would grow by, and give it room again. Needs root
    Full {
        /// How many pages, one after the other
        #[arg(long, default_value_t = 300)]
        pages: u64,
        /// Decides what is done on the full disks
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Work on SQLite files of which bits, sectors and pages are wrong
    Rotten {
        /// How many
        #[arg(long, default_value_t = 1_000)]
        images: u64,
        /// Decides what is wrong
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// A worker, which the others start
    #[command(hide = true)]
    Work {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A producer, which the others start
    #[command(hide = true)]
    Produce {
        plan: Name,
        #[arg(long)]
        first: u64,
        #[arg(long)]
        end: u64,
    },
}

fn main() -> ExitCode {
    let Args { command, json, keep } = Args::parse();
    done(command, json, keep.as_deref()).unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::from(2)
    })
}

fn done(command: Command, json: bool, keep: Option<&Path>) -> Result<ExitCode, String> {
    match command {
        Command::Work { args } => {
            become_mutant()?;
            work(args)
        }
        Command::Produce { plan, first, end } => {
            become_mutant()?;
            within(produce::produce(plan, first, end, records()?))??;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { plan: name, seed, jobs, faults } => {
            let mut plan = name.plan();
            plan.jobs = jobs.unwrap_or(plan.jobs);
            plan.faults = faults.unwrap_or(plan.faults);
            if plan.faults.iter().any(|(fault, _)| fault.is_of_the_network()) && !is_apart() {
                return Err(format!("a network of its own cannot be had: {}", enter()));
            }
            let folder = Folder::new(keep)?;
            let report = within(torment(name, &plan, seed, &folder.path))?;
            folder.tell(&report, &report.problems, json)
        }
        Command::Mutants { seed, seeds, only } => {
            let known = || Mutant::ALL.map(|mutant| format!("{mutant:?}")).join(", ");
            if let Some(unknown) = only.iter().find(|name| Mutant::ALL.iter().all(|it| format!("{it:?}") != **name)) {
                return Err(format!("no variant is called `{unknown}`; there are {}", known()));
            }
            let chosen = |mutant: &Mutant| only.is_empty() || only.contains(&format!("{mutant:?}"));
            let mut escaped = 0;
            for mutant in Mutant::ALL.into_iter().filter(chosen) {
                escaped += u32::from(!is_caught(mutant, seed..seed.saturating_add(seeds))?);
            }
            Ok(if escaped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Shutdowns { rounds, together, meanwhile } => {
            let folder = Folder::new(keep)?;
            let bar = bar((rounds * usize::from(together)) as u64, "workers");
            let tell = |ended: usize| bar.set_position(ended as u64);
            let report = within(shutdowns(rounds, together.into(), meanwhile, &folder.path, tell))?;
            bar.finish_and_clear();
            folder.tell(&report, &report.problems, json)
        }
        Command::Away { seconds } => {
            let folder = Folder::new(keep)?;
            let report = within(away(seconds, &folder.path))?;
            folder.tell(&report, &report.problems, json)
        }
        Command::Torn { images, seed } => {
            let folder = Folder::new(keep)?;
            let bar = bar(images, "images");
            let report = within(torn(images, seed, |report| bar.set_position(report.images)))?;
            bar.finish_and_clear();
            let report = report.map_err(|error| error.to_string())?;
            folder.tell(&report, &report.problems, json)
        }
        Command::Full { pages, seed } => {
            let folder = Folder::new(keep)?;
            let bar = bar(pages, "disks");
            let report = within(full(pages, seed, |report| bar.set_position(report.disks)))?;
            bar.finish_and_clear();
            let report = report.map_err(|error| error.to_string())?;
            folder.tell(&report, &report.problems, json)
        }
        Command::Rotten { images, seed } => {
            let folder = Folder::new(keep)?;
            let bar = bar(images, "images");
            let report = within(rotten(images, seed, |made| bar.set_position(made)))?;
            bar.finish_and_clear();
            let report = report.map_err(|error| error.to_string())?;
            folder.tell(&report, &report.problems, json)
        }
    }
}

/// Whether one of these seeds shows that something is wrong with a variant.
fn is_caught(mutant: Mutant, seeds: Range<u64>) -> Result<bool, String> {
    let plan = Plan { mutant: Some(mutant), ..Name::Mutants.plan() };
    for seed in seeds.clone() {
        let folder = Folder::new(None)?;
        let report = within(torment(Name::Mutants, &plan, seed, &folder.path))?;
        if let Some(problem) = report.problems.first() {
            println!("{mutant:?} is caught by seed {seed}: {problem}");
            return Ok(true);
        }
    }
    println!("{mutant:?} escapes {} seeds", seeds.end - seeds.start);
    Ok(false)
}

/// The variant that this process is to be, if any.
fn become_mutant() -> Result<(), String> {
    let name = env::var("TORTURE_MUTANT").unwrap_or_default();
    if name.is_empty() {
        return Ok(());
    }
    let mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    mutate_process(mutant.ok_or_else(|| format!("no variant is called `{name}`"))?);
    Ok(())
}

fn within<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    Ok(runtime.map_err(|error| error.to_string())?.block_on(work))
}

/// Where this process puts its records.
fn records() -> Result<PathBuf, String> {
    env::var_os("TORTURE_RECORDS").map(PathBuf::from).ok_or_else(|| "this is started by the other commands".to_owned())
}

fn work(args: Vec<String>) -> Result<ExitCode, String> {
    let writer = Arc::new(Writer::append(&records()?).map_err(|error| error.to_string())?);
    metrics::set_global_recorder(Suspicions(Arc::clone(&writer))).map_err(|error| error.to_string())?;
    let args = ["torture".to_owned()].into_iter().chain(args);
    Ok(App::new().state_arc(writer).main_from(args))
}

/// `kill-node=3`
fn fault(text: &str) -> Result<(Fault, usize), String> {
    let (name, times) = text.split_once('=').unwrap_or((text, "1"));
    let times = times.parse().map_err(|_| format!("`{times}` is not a number of times"))?;
    let known = || Fault::value_variants().iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    let fault =
        Fault::from_str(name, false).map_err(|_| format!("no fault is called `{name}`; there are {}", known()))?;
    Ok((fault, times))
}

async fn torment(name: Name, plan: &Plan, seed: u64, folder: &Path) -> Report {
    let name = name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let progress = Arc::new(Progress::default());
    select! {
        report = run(&name, plan, seed, folder, Arc::clone(&progress)) => report,
        () = show(plan, &progress) => unreachable!("it shows for ever"),
    }
}

async fn show(plan: &Plan, progress: &Progress) {
    let faults: usize = plan.faults.iter().map(|(_, times)| times).sum();
    let bar = bar(plan.jobs, "jobs");
    loop {
        bar.set_position(progress.done.load(Ordering::Relaxed).min(plan.jobs));
        bar.set_message(format!("{}/{faults} faults", progress.faults.load(Ordering::Relaxed)));
        sleep(Duration::from_millis(200)).await;
    }
}

fn bar(length: u64, of: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {prefix} {msg} {elapsed}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(of)
}

/// Where logs and records are.
struct Folder {
    path: PathBuf,
    /// Removed at the end, unless something was wrong.
    temporary: Option<TempDir>,
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self, String> {
        if let Some(keep) = keep {
            fs::create_dir(keep).map_err(|error| format!("{}: {error}", keep.display()))?;
            let path = fs::canonicalize(keep).map_err(|error| error.to_string())?;
            return Ok(Self { path, temporary: None });
        }
        let temporary = Builder::new().prefix("torture-").tempdir().map_err(|error| error.to_string())?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    /// Prints a report, and keeps the folder where something was wrong.
    fn tell<R: Serialize + fmt::Display>(
        self,
        report: &R,
        problems: &[String],
        json: bool,
    ) -> Result<ExitCode, String> {
        if json {
            println!("{}", serde_json::to_string_pretty(report).map_err(|error| error.to_string())?);
        } else {
            println!("{report}");
        }
        if problems.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(mut temporary) = self.temporary {
            temporary.disable_cleanup(true);
        }
        eprintln!("logs and records: {}", self.path.display());
        Ok(ExitCode::FAILURE)
    }
}
