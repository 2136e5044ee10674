//! `topology`: what the program needs of its broker, shown, checked, declared, written down for others.

mod apply;
mod check;
mod definitions;
mod export;
mod graph;
mod kubernetes;
mod show;

use clap::{Args, Subcommand};

use crate::{
    broker::{Finding, Needs, Plan},
    cli::{broker::known_queues, exit, fail::Fail, out::Out},
    config::Settings,
    name::QueueName,
    registry::Registry,
    telemetry::TARGET,
};

pub(super) use check::{possible, verify};

/// Show, check, declare or export the queues and exchanges that this program needs
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = r#"What a program needs follows from its jobs: their queues, the exchanges that
they run for, and on RabbitMQ the queues for dead letters, suspects, retries
and delays. `run` declares it; where it may not, an administrator does, with
`apply` or by what `export` writes, and `run --topology check` declares nothing.

Examples:
  myapp topology show                        what there will be
  myapp topology show --format mermaid       the same as a picture
  myapp topology check                       what is missing, exit code 3 if any
  myapp topology export > definitions.json   for `rabbitmqctl import_definitions`"#
)]
pub(super) struct TopologyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(show::ShowArgs),
    Check(check::CheckArgs),
    Apply(apply::ApplyArgs),
    Export(export::ExportArgs),
}

/// Whose needs.
#[derive(Debug, Clone, Args)]
struct Chosen {
    /// Only what the jobs of this queue need; can be given several times [default: the queues of
    /// all registered jobs, and WORKER_QUEUES]
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<QueueName>,
}

impl Chosen {
    fn needs(&self, settings: &Settings, registry: &Registry) -> Result<Needs, Fail> {
        let known = known_queues(settings, registry);
        let queues = if self.queues.is_empty() { &known } else { &self.queues };
        for queue in queues.iter().filter(|queue| registry.of_queue(queue).next().is_none()) {
            tracing::warn!(target: TARGET, %queue, "no registered job belongs to this queue; is its name right?");
        }
        let needs = registry.needs(queues);
        let problems = registry.own_problems().iter().cloned().chain(needs.topology.problem());
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(needs),
            problems => Err(Fail::new(exit::CONFIG, problems.join("\n  "))),
        }
    }

    fn plan(&self, settings: &Settings, registry: &Registry) -> Result<Plan, Fail> {
        Ok(settings.plan(&self.needs(settings, registry)?))
    }
}

pub(super) async fn topology(
    args: TopologyArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    match args.command {
        Command::Show(args) => show::show(&args, settings, registry, out),
        Command::Export(args) => export::export(&args, settings, registry, name, out),
        Command::Check(args) => check::check(&args, settings, registry, name, out).await,
        Command::Apply(args) => apply::apply(&args, settings, registry, name, out).await,
    }
}

/// `2 missing, 1 different`, or nothing where all is fine.
fn faults(findings: &[Finding]) -> Option<String> {
    let count = |standing| findings.iter().filter(|finding| finding.standing == standing).count();
    let counts = [crate::broker::Standing::Missing, crate::broker::Standing::Different].map(|s| (count(s), s));
    let told = counts.iter().filter(|(count, _)| *count > 0).map(|(count, s)| format!("{count} {}", s.as_str()));
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}
