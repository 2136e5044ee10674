//! Everything that is claimed of speed, beside the best bare loops, as ratios: `cargo bench-all --help`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a measurement that fails has no result to save, and its result is what it prints"
)]

mod bare;
mod child;
mod curve;
mod jobs;
mod measure;
mod ours;
mod processor;
mod report;
mod rows;
mod stage;

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use clap::{Parser, ValueEnum};
use tokio::runtime::Builder;

use crate::{
    child::Role,
    report::{Measured, Setting},
    rows::{ROWS, Row},
    stage::{Scale, Stage},
};

/// The variable by which the tests choose RabbitMQ too.
const VERSION: &str = "TEST_RABBITMQ_VERSION";

/// Measure the framework beside the best bare loops with the same libraries, in turn, as ratios
#[derive(Debug, Parser)]
#[command(name = "cargo bench-all")]
#[command(
    after_help = "It starts a RabbitMQ node of its own. Nothing else should run on the machine: a line whose rounds lie more
than 30% apart is not judged. What is measured, how, and the last results: docs/performance.md.

Examples:
  cargo bench-all                        everything, about three quarters of an hour
  cargo bench-all --row P1,P4            two rows
  cargo bench-all --quick                whether everything runs, in two minutes; its figures say nothing
  cargo bench-all --json results.json    the table, and a file for programs"
)]
struct Args {
    /// These rows alone, as --list names them
    #[arg(long, value_delimiter = ',', value_name = "ROW", value_parser = row)]
    row: Vec<&'static Row>,
    /// How often each side is measured; 5, or 1 with --quick
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: Option<u16>,
    /// Few jobs and one round: whether everything runs
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// A million jobs too, where the usual run stops at 100,000
    #[arg(long)]
    full: bool,
    /// Write JSON: to this file beside the table, or without a file in place of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// Which RabbitMQ; as TEST_RABBITMQ_VERSION says, or 3.10
    #[arg(long, value_enum, value_name = "VERSION")]
    rabbitmq: Option<Version>,
    /// Name the rows, and measure nothing
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "3.10")]
    V3_10,
    #[value(name = "4.0")]
    V4_0,
    #[value(name = "4.3")]
    V4_3,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V3_10 => "3.10",
            Self::V4_0 => "4.0",
            Self::V4_3 => "4.3",
        }
    }
}

fn row(text: &str) -> Result<&'static Row, String> {
    let found = ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such row; use {}", ROWS.iter().map(|row| row.id).collect::<Vec<_>>().join(", ")))
}

fn main() -> ExitCode {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("there is room for a few threads");
    let given: Vec<_> = env::args().skip(1).collect();
    if let [word, url, role @ ..] = &*given
        && word == "child"
    {
        runtime.block_on(Role::parse(role).play(url));
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    if args.list {
        ROWS.iter().for_each(|row| println!("{:<6} {}", row.id, row.title));
        return ExitCode::SUCCESS;
    }
    // The tests' nodes are chosen by the environment, which a program cannot safely change of itself.
    if let Some(version) =
        args.rabbitmq.map(Version::name).filter(|version| env::var(VERSION).as_deref() != Ok(version))
    {
        let program = env::current_exe().expect("this program is a file");
        let error = Command::new(program).args(&given).env(VERSION, version).exec();
        eprintln!("cannot start again with {VERSION}={version}: {error}");
        return ExitCode::FAILURE;
    }
    let (setting, rows) = runtime.block_on(measure(&args));
    match &args.json {
        Some(None) => println!("{}", report::json(&setting, &rows)),
        Some(Some(file)) => {
            print!("{}", report::table(&setting, &rows));
            if let Err(error) = fs::write(file, report::json(&setting, &rows)) {
                eprintln!("cannot write {}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
        None => print!("{}", report::table(&setting, &rows)),
    }
    ExitCode::SUCCESS
}

async fn measure(args: &Args) -> (Setting, Vec<Measured>) {
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Usual,
    };
    let rounds = args.rounds.map_or(if args.quick { 1 } else { 5 }, usize::from);
    let stage = Stage::new(scale, rounds);
    let mut setting = Setting::of_now(rounds, format!("{scale:?}").to_lowercase());
    let chosen: Vec<_> =
        ROWS.iter().filter(|row| args.row.is_empty() || args.row.iter().any(|one| one.id == row.id)).collect();
    let mut rows = Vec::new();
    for Row { id, title, measure } in chosen {
        let began = Instant::now();
        eprintln!("{id}: {title}");
        let lines = measure(&stage).await;
        eprintln!("{id}: measured in {:.1} s", began.elapsed().as_secs_f64());
        rows.push(Measured { id, lines });
    }
    setting.rabbitmq = stage.node_version().await;
    (setting, rows)
}
