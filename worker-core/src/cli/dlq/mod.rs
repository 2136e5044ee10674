//! `dlq`: the dead-letter queues as a workplace.

mod change;
mod list;
mod scan;
mod show;

use clap::{Args, Subcommand, builder::TypedValueParser as _};

use crate::{
    broker::Selection,
    cli::{
        broker::{Missing, inspector_of, known_queues, with_client},
        fail::Fail,
        out::Out,
        shards::{self, Former},
    },
    client::Client,
    config::Settings,
    name::{JobName, QueueName},
    outcome::FailureKind,
    registry::Registry,
    shard,
    telemetry::TARGET,
};

/// Look at the jobs that failed for good, run them again, or drop them
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = r#"A job is dead-lettered when its retries are spent or another attempt cannot
help. It stays, with its payload and its error, until it is replayed or
dropped.

Examples:
  myapp dlq list --group-by kind
  myapp dlq show 0199a1b2-…
  myapp dlq replay --job send_welcome --kind timed_out --dry-run"#
)]
pub(super) struct DlqArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Replay(change::ReplayArgs),
    Drop(change::DropArgs),
}

impl Command {
    /// The queue that was named.
    fn queue(&self) -> Option<&QueueName> {
        match self {
            Self::List(args) => args.queue(),
            Self::Show(_) => None,
            Self::Replay(change::ReplayArgs { what }) | Self::Drop(change::DropArgs { what }) => what.queue(),
        }
    }
}

/// Which dead jobs, by what they are.
#[derive(Debug, Clone, Args)]
struct Filter {
    /// Only jobs that died in this queue, whichever of its shards
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Only jobs of this type
    #[arg(long, value_name = "JOB")]
    job: Option<JobName>,
    /// Only jobs that failed in this way
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    kind: Option<FailureKind>,
}

fn kind_parser() -> impl clap::builder::TypedValueParser<Value = FailureKind> {
    clap::builder::PossibleValuesParser::new(FailureKind::ALL.map(FailureKind::as_str))
        .try_map(|text| FailureKind::parse(&text).ok_or("no kind of failure"))
}

impl Filter {
    const fn is_empty(&self) -> bool {
        self.queue.is_none() && self.job.is_none() && self.kind.is_none()
    }

    fn selection(&self, desk: &Desk<'_>) -> Selection {
        let known = desk.known.clone();
        let queues = self.queue.iter().flat_map(|queue| {
            // One that is not there has no dead letters, rather than all.
            let others = known.iter().filter(move |name| shard::is_of(name, queue) && *name != queue);
            [queue].into_iter().chain(others).cloned()
        });
        Selection { queues: queues.collect(), job: self.job.clone(), kind: self.kind, known, ..Selection::default() }
    }

    /// The same as it was written, to be written again.
    fn flags(&self) -> String {
        let queue = self.queue.as_ref().map(|queue| format!(" --queue {queue}"));
        let job = self.job.as_ref().map(|job| format!(" --job {job}"));
        let kind = self.kind.map(|kind| format!(" --kind {kind}"));
        [queue, job, kind].into_iter().flatten().collect()
    }
}

pub(super) async fn dlq(
    args: DlqArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    if let Command::Replay(change::ReplayArgs { what }) | Command::Drop(change::DropArgs { what }) = &args.command {
        what.check()?;
    }
    let work = async |client: &Client| {
        let queues = args.command.queue().map_or_else(|| known_queues(settings, registry), |queue| vec![queue.clone()]);
        let inspector = inspector_of(client, registry)?;
        let found = shards::stats(client, &*inspector, registry, &queues, Former::OfAll).await?;
        if let Some(queue) = args.command.queue().filter(|queue| !found.iter().any(|stats| stats.queue == **queue)) {
            tracing::warn!(target: TARGET, %queue, "there is no such queue; is its name right?");
        }
        let known = found.into_iter().map(|stats| stats.queue).collect();
        let desk = Desk { inspector, known, now: client.clock().now(), name, out };
        match args.command {
            Command::List(args) => list::list(&args, &desk).await,
            Command::Show(args) => show::show(&args, &desk).await,
            Command::Replay(args) => change::change(change::Change::Replay, &args.what, &desk, registry).await,
            Command::Drop(args) => change::change(change::Change::Drop, &args.what, &desk, registry).await,
        }
    };
    with_client(settings, Missing::Refuse, work).await
}

/// What every one of these commands works with.
struct Desk<'a> {
    inspector: std::sync::Arc<dyn crate::broker::Inspector>,
    /// The queues of the program's jobs with all their shards, for a broker that cannot list its own.
    known: Vec<QueueName>,
    /// When the command began: what dies later is left alone.
    now: crate::time::Timestamp,
    /// The program's name.
    name: &'a str,
    out: Out,
}
