//! What all peers written in Rust share: their command line, the clock and the line they print.
//!
//! A peer is a program with two commands, `enqueue` and `process`, and where nobody else can look into its store a
//! third, `count`. Each prints one line of JSON, which `compare` reads. The programs in other languages do the same.

mod clock;
mod counter;

use std::{error::Error, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::runtime::Builder;

pub use clock::{Clock, Measured};
pub use counter::Counter;

/// About 100 bytes as JSON with the number beside it: the payload of all peers.
pub const TEXT: &str = "a payload of a usual size for a job: some ids, a template, an address; 0123456789";

/// Whatever went wrong: it is printed, and the measurement is none.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What is to be done.
#[derive(Debug, Clone, Args)]
pub struct Work {
    /// Where the broker is: `amqp://…`, or the path of a SQLite file
    #[arg(long)]
    pub url: String,
    /// The queue's name
    #[arg(long, default_value = "jobs")]
    pub queue: String,
    /// How many jobs are enqueued, or wait to be processed
    #[arg(long, default_value_t = 0)]
    pub jobs: u64,
    /// How the queue is declared where the peer leaves the choice
    #[arg(long, value_enum, default_value_t = Kind::Classic)]
    pub kind: Kind,
}

/// RabbitMQ's types of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Classic,
    Quorum,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enqueue jobs in the way that is best for many, and end at once
    Enqueue(Work),
    /// Run the jobs that wait, and end
    Process(Work),
    /// Say how many jobs are not done
    Count(Work),
}

#[derive(Debug, Parser)]
struct Given {
    #[command(subcommand)]
    command: Command,
}

/// One of those that are compared.
#[expect(async_fn_in_trait, reason = "nobody calls it but `run`, on one thread")]
pub trait Peer {
    /// Enqueues `work.jobs`: the clock runs from the first call to the last `Ok`.
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure>;

    /// Runs `work.jobs` that wait: the clock runs from the worker's start to the last job's end, or its
    /// acknowledgement where the peer tells of it.
    async fn process(&self, work: &Work) -> Result<Measured, Failure>;

    /// How many jobs are not done; of a broker that `compare` asks by itself, nobody asks the peer.
    async fn count(&self, _: &Work) -> Result<u64, Failure> {
        Err("the broker is asked by itself".into())
    }
}

#[derive(Serialize)]
struct Counted {
    jobs: u64,
}

/// The whole program of a peer.
pub fn run(peer: &impl Peer) -> ExitCode {
    let command = Given::parse().command;
    let runtime = Builder::new_multi_thread().enable_all().build().expect("there is room for a few threads");
    let line = runtime.block_on(async {
        Ok::<_, Failure>(match &command {
            Command::Enqueue(work) => {
                say(&peer.enqueue(work).await?)?;
                // As a process ends that has done what it was for, or that is killed: what was said to be enqueued
                // must be. No destructor runs, no connection is closed.
                std::process::exit(0);
            }
            Command::Process(work) => peer.process(work).await.map(|measured| say(&measured))?,
            Command::Count(work) => peer.count(work).await.map(|jobs| say(&Counted { jobs }))?,
        })
    });
    match line.and_then(|said| said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(line)?);
    Ok(())
}
