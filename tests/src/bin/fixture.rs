//! The program that the tests of the command line run: a dozen small jobs behind an `App`.
//!
//! The variable `FIXTURE` chooses what the application does in code.

use std::{
    future::pending,
    io::{self, Write as _},
    num::NonZeroU8,
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use worker_core::{Handler, JobOptions, On, cli::App, exchange::ExchangeKind, prelude::*};

fn main() -> ExitCode {
    let wanted = std::env::var("FIXTURE").unwrap_or_default();
    let app = App::new().version("1.2.3").about("Runs the jobs of the tests").command("hello", "Say hello", hello);
    let app = match wanted.as_str() {
        "no-state" => app,
        "state-fails" => app.state_with(async || Err::<Greeting, _>(io::Error::other("the mail server is away"))),
        "state-hangs" => app.state_with(async || pending::<Result<Greeting, io::Error>>().await),
        _ => app.state_with(async || Ok::<_, io::Error>(Greeting("Hello"))),
    };
    let app = match wanted.as_str() {
        "default-command" => app.default_command("hello"),
        "default-url" => app.default_broker_url("sqlite:fixture.db"),
        // An observer runs on the worker's own task, which this one never gives back.
        "loop-hangs" => app.worker(|builder| builder.observe(|_| hang())),
        // The application has a recorder of its own.
        "records" => app.state_with(async || record()),
        "three-slots" => app.worker(|builder| builder.concurrency(3)),
        "asks-before-it-starts" => app.worker(|builder| {
            ask();
            builder
        }),
        "listens" => app.registry(worker_core::Registry::discovered().with::<Audit>()),
        "shards" => app.registry(worker_core::Registry::discovered().with::<Ship<4>>()),
        "fewer-shards" => app.registry(worker_core::Registry::discovered().with::<Ship<2>>()),
        "observer-hangs" => app.worker(|builder| builder.observe(|_| hang())),
        // One that never executes itself again.
        "as-it-is" => return app.main_from(std::env::args_os()),
        _ => app,
    };
    app.main()
}

fn record() -> Result<(), io::Error> {
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().map(drop).map_err(io::Error::other)
}

/// Prints its arguments.
fn hello(args: Vec<std::ffi::OsString>) -> ExitCode {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    match writeln!(io::stdout(), "{}", args.join("|")) {
        Ok(()) => ExitCode::from(7),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits for a line, when everything but the worker itself is there.
fn ask() {
    drop(writeln!(io::stdout(), "connected; may it start?"));
    drop(io::stdin().read_line(&mut String::new()));
}

/// Blocks who calls it, which is the worker's event loop, for ever.
fn hang() {
    drop(writeln!(io::stderr(), "the observer hangs"));
    loop {
        std::thread::park();
    }
}

/// For tests that must not go on before.
fn say_that_it_runs() -> io::Result<()> {
    writeln!(io::stdout(), "the job runs")
}

/// State that one job needs.
struct Greeting(&'static str);

/// The payload of a job that takes one value.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    amount: f64,
}

/// Says a text again.
#[job]
async fn echo(text: String) {
    drop(text);
}

/// Adds two numbers.
#[job(queue = "calculator", dead_letter_queue = "calculator_dead")]
async fn add(a: i64, b: i64) -> JobResult<i64> {
    Ok(a.checked_add(b).ok_or("too large")?)
}

/// Greets somebody, loudly if asked to.
#[job(queue = "emails")]
async fn greet(name: String, loud: Option<bool>, greeting: State<Greeting>) -> JobResult<String> {
    let text = format!("{} {name}", greeting.0);
    Ok(if loud == Some(true) { text.to_uppercase() } else { text })
}

/// Fails, and is not tried again.
#[job(queue = "trouble", max_retries = 0)]
async fn fail(message: String) -> JobResult {
    Err(message.into())
}

/// Fails, and fails again on its only retry, which waits on a queue for just this pause.
#[job(queue = "trouble", max_retries = 1, backoff = "5s..5s")]
async fn fail_twice(message: String) -> JobResult {
    Err(message.into())
}

/// The same with a pause that no queue is for.
#[job(queue = "trouble", max_retries = 1, backoff = "200ms..200ms")]
async fn fail_soon(message: String) -> JobResult {
    Err(message.into())
}

/// Fails for good.
#[job(queue = "trouble")]
async fn reject(message: String) -> JobResult {
    Err(JobError::discard(message))
}

/// Takes arguments of many types.
#[job]
async fn settings(retries: u32, tags: Vec<String>, ratio: f64) -> JobResult<f64> {
    Ok(ratio * f64::from(retries) * tags.concat().parse::<f64>()?)
}

/// Does nothing.
#[job]
async fn ping() {}

/// Takes an order.
#[job(queue = "orders")]
async fn whole(Payload(order): Payload<Order>) -> JobResult<f64> {
    drop(order.id);
    Ok(order.amount)
}

/// Waits.
#[job(queue = "slow")]
async fn wait(ms: u64) -> JobResult {
    say_that_it_runs()?;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(())
}

/// A job that runs for an exchange, registered by hand so that only some of these programs have it.
#[derive(Debug, Serialize, Deserialize)]
struct Audit {}

impl Job for Audit {
    const NAME: &'static str = "audit";
    const QUEUE: &'static str = "audit";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.on(On::new("events", ExchangeKind::Topic, &["order.*"]));
    type Return = ();
}

impl Handler for Audit {
    async fn run(self, _: Context) -> JobResult {
        Ok(())
    }
}

/// Ships nothing odd, from a queue with `N` shards.
#[derive(Debug, Serialize, Deserialize)]
struct Ship<const N: u8> {
    number: u64,
}

impl<const N: u8> Job for Ship<N> {
    const NAME: &'static str = "ship";
    const QUEUE: &'static str = "shipping";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.shards(NonZeroU8::new(N).unwrap());
    type Return = ();
}

impl<const N: u8> Handler for Ship<N> {
    async fn run(self, _: Context) -> JobResult {
        if self.number % 2 == 1 { Err(JobError::discard("odd")) } else { Ok(()) }
    }
}

/// Blocks its thread for ever.
#[job(queue = "slow")]
fn stuck() -> JobResult {
    say_that_it_runs()?;
    let (_never, received) = mpsc::sync_channel::<()>(0);
    Ok(received.recv()?)
}
