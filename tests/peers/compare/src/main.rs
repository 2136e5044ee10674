//! Our framework beside its peers, in turn, as ratios: `tests/peers/run.sh --help`.

mod contest;
mod loss;
/// The same medians, ratios and verdicts as the benchmark's.
#[path = "../../../src/bin/bench/measure.rs"]
#[expect(dead_code, reason = "the benchmark has more units and goals")]
mod measure;
mod peer;
mod place;
/// The same reading of `/proc`.
#[path = "../../../src/bin/bench/processor.rs"]
#[expect(dead_code, reason = "the benchmark asks for more")]
mod processor;
mod program;
mod redis;
mod report;
mod site;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

use crate::{
    contest::Measured,
    peer::{PEERS, Peer},
    program::Programs,
    report::Setting,
    site::Site,
};

/// Measure the framework beside other job frameworks, in turn, as ratios
#[derive(Debug, Parser)]
#[command(name = "tests/peers/run.sh", bin_name = "tests/peers/run.sh")]
#[command(
    after_help = "It builds the peers, and starts a RabbitMQ node and a Redis of its own. Nothing else should run
on the machine: a line whose rounds lie more than 30% apart is not judged. What is measured and
how each peer is set up: tests/peers/README.md.

Examples:
  tests/peers/run.sh                              everything; a round takes minutes
  tests/peers/run.sh --only apalis-amqp,queuey    two peers
  tests/peers/run.sh --quick                      whether everything runs; its figures say nothing
  tests/peers/run.sh --only kojin --loss-runs 100 how often jobs are lost that were `Ok`
  tests/peers/run.sh --json peers.json            the table, and a file for programs"
)]
struct Args {
    /// These peers alone, as --list names them
    #[arg(long, value_delimiter = ',', value_name = "PEER", value_parser = peer)]
    only: Vec<&'static Peer>,
    /// How often each side is measured; 5, or 1 with --quick
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: Option<u16>,
    /// How often a producer ends right after its last Ok, and the queue is counted; 5, or 1 with --quick
    #[arg(long, value_name = "RUNS")]
    loss_runs: Option<u16>,
    /// Few jobs and one round: whether everything runs
    #[arg(long)]
    quick: bool,
    /// Write JSON: to this file beside the table, or without a file in place of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// Name the peers, and measure nothing
    #[arg(long)]
    list: bool,
}

fn peer(text: &str) -> Result<&'static Peer, String> {
    let found = PEERS.iter().find(|peer| peer.name == text);
    found.ok_or_else(|| {
        format!("no such peer; use {}", PEERS.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", "))
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        PEERS.iter().for_each(|peer| println!("{:<14} {}; {}", peer.name, peer.version, peer.note));
        return ExitCode::SUCCESS;
    }
    let usual = if args.quick { 1 } else { 5 };
    let rounds = args.rounds.map_or(usual, usize::from);
    let loss_runs = args.loss_runs.map_or(usual, usize::from);
    let mut setting = Setting::of_now(rounds, args.quick);
    let chosen = PEERS.iter().filter(|peer| args.only.is_empty() || args.only.iter().any(|one| one.name == peer.name));
    let (programs, mut site) = (Programs::new(), Site::new(args.quick));
    let mut results = Vec::new();
    for peer in chosen {
        let began = Instant::now();
        eprintln!("{}: {}", peer.name, peer.version);
        let measured = measure(peer, &programs, &mut site, rounds, loss_runs).await;
        if let Err(failure) = &measured {
            eprintln!("{}: failed: {failure}", peer.name);
        }
        eprintln!("{}: done in {:.0} s", peer.name, began.elapsed().as_secs_f64());
        results.push((peer, measured));
    }
    setting.rabbitmq = site.rabbitmq_version().await;
    setting.redis = site.redis_version();
    if let Some(file) = &args.json {
        let text = report::json(&setting, &results);
        match file {
            None => println!("{text}"),
            Some(file) => {
                if let Err(error) = fs::write(file, text) {
                    eprintln!("cannot write {}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    if !matches!(args.json, Some(None)) {
        print!("{}", report::table(&setting, &results));
    }
    if results.iter().all(|(_, measured)| measured.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(
    peer: &'static Peer,
    programs: &Programs,
    site: &mut Site,
    rounds: usize,
    loss_runs: usize,
) -> Result<Measured, String> {
    programs.check(peer)?;
    programs.check(&peer::OURS)?;
    site.prepare(peer).await?;
    let lines = contest::run(peer, programs, site, rounds).await?;
    let losses = loss::run(peer, programs, site, loss_runs).await?;
    Ok(Measured { lines, losses })
}
