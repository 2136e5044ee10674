//! The program that the tests of the command line run: a dozen small jobs behind an `App`.
//!
//! The variable `FIXTURE` chooses what the application does in code, one word each.

use std::{
    future::pending,
    io::{self, Write as _},
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use worker_core::{
    __private::{blocking, inventory},
    Argument, Arguments, Context, Handler, Job, JobError, JobOptions, JobResult, Payload, Registration, Requirement,
    RetryPolicy, State,
    cli::App,
};

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
        "three-slots" => app.worker(|builder| builder.concurrency(3)),
        _ => app,
    };
    app.main()
}

/// Prints its arguments.
fn hello(args: Vec<std::ffi::OsString>) -> ExitCode {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    match writeln!(io::stdout(), "{}", args.join("|")) {
        Ok(()) => ExitCode::from(7),
        Err(_) => ExitCode::FAILURE,
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

/// A job without retries: what fails is dead at once.
const ONCE: JobOptions = JobOptions::DEFAULT.retry(RetryPolicy::new(0, Duration::from_secs(1), Duration::from_secs(1)));

macro_rules! job {
    ($name:ident, $queue:literal, $summary:literal, ($($arg:ident: $type:ty),*), $arguments:expr, { $($more:item)* }, $run:expr) => {
        #[derive(Serialize, Deserialize)]
        #[expect(non_camel_case_types, reason = "a job is named like a function")]
        struct $name { $($arg: $type),* }

        impl Job for $name {
            const NAME: &'static str = stringify!($name);
            const QUEUE: &'static str = $queue;
            const OPTIONS: JobOptions = ONCE;
            type Return = ();
        }

        impl Handler for $name {
            const ARGUMENTS: Arguments = $arguments;
            const SUMMARY: &'static str = $summary;
            $($more)*
            async fn run(self, cx: Context) -> JobResult<()> {
                let run: fn(Self, Context) -> _ = $run;
                run(self, cx).await
            }
        }

        inventory::submit! { Registration::new::<$name>(file!(), line!()) }
    };
}

const fn required(name: &'static str, type_text: &'static str) -> Argument {
    Argument { name, type_text, required: true }
}

const fn optional(name: &'static str, type_text: &'static str) -> Argument {
    Argument { name, type_text, required: false }
}

job!(echo, "default", "Says a text again", (text: String), Arguments::Named(&[required("text", "String")]), {},
    |job, _| async move { drop(job.text); Ok(()) });

job!(add, "calculator", "Adds two numbers", (a: i64, b: i64),
    Arguments::Named(&[required("a", "i64"), required("b", "i64")]), {},
    |job, _| async move { job.a.checked_add(job.b).map(drop).ok_or_else(|| "too large".into()) });

job!(greet, "emails", "Greets somebody, loudly if asked to", (name: String, loud: Option<bool>),
Arguments::Named(&[required("name", "String"), optional("loud", "Option<bool>")]),
{ fn requirements() -> Vec<Requirement> { vec![Requirement::state::<Greeting>()] } },
|job, cx| async move {
    let greeting: State<Greeting> = cx.state::<Greeting>()?.into();
    drop((greeting.0, job.name, job.loud));
    Ok(())
});

job!(fail, "trouble", "Fails", (message: String), Arguments::Named(&[required("message", "String")]), {},
    |job, _| async move { Err(job.message.into()) });

job!(reject, "trouble", "Fails for good", (message: String), Arguments::Named(&[required("message", "String")]), {},
    |job, _| async move { Err(JobError::discard(job.message)) });

job!(settings, "default", "Takes arguments of many types", (retries: u32, tags: Vec<String>, ratio: f64),
    Arguments::Named(&[required("retries", "u32"), required("tags", "Vec<String>"), required("ratio", "f64")]), {},
    |job, _| async move { drop((job.retries, job.tags, job.ratio)); Ok(()) });

job!(ping, "default", "Does nothing", (), Arguments::Named(&[]), {}, |_, _| async { Ok(()) });

job!(wait, "slow", "Waits", (ms: u64), Arguments::Named(&[required("ms", "u64")]), {},
    |job, _| async move { say_that_it_runs()?; tokio::time::sleep(Duration::from_millis(job.ms)).await; Ok(()) });

job!(
    stuck,
    "slow",
    "Blocks its thread for ever",
    (),
    Arguments::Named(&[]),
    {
        const BLOCKING: bool = true;
    },
    |_, _| async {
        blocking(|| {
            say_that_it_runs()?;
            let (_never, received) = mpsc::sync_channel::<()>(0);
            received.recv().map_err(JobError::from)
        })
        .await
    }
);

/// A job whose payload is one value.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Whole(Payload<Order>);

impl Job for Whole {
    const NAME: &'static str = "whole";
    const QUEUE: &'static str = "orders";
    type Return = ();
}

impl Handler for Whole {
    const ARGUMENTS: Arguments = Arguments::Whole("Order");
    const SUMMARY: &'static str = "Takes an order";

    async fn run(self, _: Context) -> JobResult<()> {
        let Payload(Order { id, amount }) = self.0;
        drop((id, amount));
        Ok(())
    }
}

inventory::submit! { Registration::new::<Whole>(file!(), line!()) }
