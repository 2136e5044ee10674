//! Lives through simulated worlds: `cargo sim --help`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its result")]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use worker_core::brokers::rabbitmq::Mutant;
use worker_tests::sim::{
    Case, Flow, Kind, Summary, every_step, first_to_catch, live_all, possible, regressions, shrink,
};

/// Live through whole worlds that a seed decides, and check what became of every job
#[derive(Debug, Parser)]
#[command(name = "cargo sim")]
#[command(after_help = "Exits with 1 when a world broke a promise. It prints a command that lives through that
world again, made smaller; put its seed into tests/src/sim/regressions.txt.

Examples:
  cargo sim --seeds 100000                   on all processors
  cargo sim --seeds 1000 --from 500000       fresh ones
  cargo sim --world rabbitmq --seed 17       one, with its record
  cargo sim --steps                          a process that is killed at every step
  cargo sim --mutants                        which seed catches each known bad variant")]
struct Args {
    /// How many seeds, of each kind of world
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed alone; prints its record
    #[arg(long, requires = "world", conflicts_with_all = ["seeds", "from", "mutants"])]
    seed: Option<u64>,
    /// Of that seed these jobs alone
    #[arg(long, value_delimiter = ',', requires = "seed")]
    only: Option<Vec<String>>,
    /// One kind of world alone
    #[arg(long)]
    world: Option<World>,
    /// Each twice: the second time must be the same to the letter
    #[arg(long)]
    twice: bool,
    /// Instead: kills a process at every step of the flows that matter
    #[arg(long, conflicts_with_all = ["seed", "mutants", "twice"])]
    steps: bool,
    /// Instead: tries the variants that are known to be bad, each until a seed catches it
    #[arg(long)]
    mutants: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum World {
    Memory,
    Rabbitmq,
}

impl From<World> for Kind {
    fn from(world: World) -> Self {
        match world {
            World::Memory => Self::Memory,
            World::Rabbitmq => Self::Rabbit,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.steps {
        return if steps() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let kinds = args.world.map_or_else(|| vec![Kind::Memory, Kind::Rabbit], |world| vec![world.into()]);
    let all_is_well = match (args.seed, args.mutants) {
        (Some(seed), _) => one(&Case { kind: kinds[0], seed, only: args.only }),
        (None, true) => mutants(args.from, args.seeds),
        (None, false) => {
            kinds.into_iter().map(|kind| many(kind, args.from, args.seeds, args.twice)).fold(true, |a, b| a & b)
        }
    };
    if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(case: &Case) -> bool {
    let lived = case.live();
    lived.lines().for_each(|line| println!("{line}"));
    lived.problems.iter().for_each(|problem| eprintln!("wrong: {problem}"));
    lived.problems.is_empty()
}

fn steps() -> bool {
    let mut all_is_well = true;
    for (modern, version) in [(false, "3.10"), (true, "4.3")] {
        for flow in Flow::ALL {
            let (deaths, problems) = every_step(flow, modern);
            println!("{flow:?} on {version}: {deaths} deaths, {} broke a promise", problems.len());
            problems.iter().for_each(|problem| println!("  {problem}"));
            all_is_well &= problems.is_empty();
        }
    }
    all_is_well
}

fn many(kind: Kind, from: u64, seeds: u64, twice: bool) -> bool {
    let first = regressions(kind);
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {per_sec} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(seeds + first.len() as u64).with_style(style).with_prefix(kind.name());
    let began = Instant::now();
    let cases = first.into_iter().chain((from..from + seeds).map(|seed| Case::new(kind, seed)));
    let live = if twice { Case::live_twice } else { Case::live };
    let summary = live_all(cases, live, |_| bar.inc(1));
    bar.finish_and_clear();
    report(kind, &summary, began.elapsed())
}

fn report(kind: Kind, Summary { worlds, happened, failures }: &Summary, took: Duration) -> bool {
    let rate = *worlds as f64 / took.as_secs_f64();
    println!(
        "{kind}: {worlds} worlds in {:.1} s ({rate:.0} a second), {} broke a promise",
        took.as_secs_f64(),
        failures.len()
    );
    let never: Vec<_> = possible(kind).into_iter().filter(|what| !happened.contains_key(what)).collect();
    let counts = |of: &BTreeMap<&str, u64>| of.iter().map(|(what, n)| format!("{what} {n}")).collect::<Vec<_>>();
    println!("  happened: {}", counts(happened).join(", "));
    if !never.is_empty() {
        println!("  never happened: {}", never.join(", "));
    }
    for (case, problems) in failures {
        println!("{case}\n  {}", problems.join("\n  "));
    }
    if let Some((case, _)) = failures.first() {
        println!("smaller: {}", shrink(case));
    }
    failures.is_empty()
}

fn mutants(from: u64, seeds: u64) -> bool {
    let mut escaped = Vec::new();
    for mutant in Mutant::ALL {
        match first_to_catch(mutant, from..from + seeds) {
            Some(case) => println!("{mutant:?} is caught by seed {}", case.seed),
            None => escaped.push(mutant),
        }
    }
    escaped.iter().for_each(|mutant| println!("{mutant:?} escapes {seeds} seeds"));
    escaped.is_empty()
}
