//! `topology show`: everything that the program needs, as a table, as data or as a picture.

use clap::{Args, ValueEnum};

use super::{Chosen, graph::Graph};
use crate::{
    broker::{Finding, Made, Plan, PlannedQueue, Role, Standing},
    cli::{
        exit,
        fail::Fail,
        out::{Out, hint},
        table::{Column, Table},
    },
    config::Settings,
    registry::Registry,
};

/// Show the queues, exchanges and bindings that there will be
#[derive(Debug, Args)]
#[command(after_help = r#"It asks no broker. On a terminal, queues for retries and for delays stand in one
row each; in a pipe, and with --format json, every queue has its own, with what
it is declared with.

Columns:
  FOR   jobs, dead letters, suspects, retries, due jobs, delays
  MADE  by `run`: at its start, or when the first job needs it; `8 at start` in
        a row for several: the others when needed

JSON:
  {"queues": [{"name", "role", "of": queue or null, "made", "arguments"}],
   "exchanges": [{"name", "kind"}], "bindings": [{"exchange", "queue", "on"}]}

Examples:
  myapp topology show --format dot | dot -Tsvg > topology.svg
  myapp topology show --format mermaid --queue orders"#)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// As what
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Rows
    Table,
    /// One JSON document
    Json,
    /// Graphviz
    Dot,
    /// Mermaid, for a page in Markdown
    Mermaid,
}

pub(super) fn show(args: &ShowArgs, settings: &Settings, registry: &Registry, out: Out) -> Result<u8, Fail> {
    let plan = args.chosen.plan(settings, registry)?;
    match args.format {
        Format::Json => out.json(&plan)?,
        Format::Dot => out.text(&Graph::of(&plan).dot())?,
        Format::Mermaid => out.text(&Graph::of(&plan).mermaid())?,
        Format::Table if out.is_terminal() => {
            out.table(&short(&plan))?;
            hint(format_args!("`--format json` has every queue with its arguments, `--format mermaid` a picture"));
        }
        Format::Table => out.table(&long(&plan))?,
    }
    Ok(exit::OK)
}

/// Queues that differ only in how long a message waits in them.
pub(super) struct Series<'a> {
    pub(super) first: &'a PlannedQueue,
    pub(super) count: usize,
    at_start: usize,
}

impl Series<'_> {
    /// `orders`, or `orders_retry_*`.
    pub(super) fn name(&self) -> String {
        if self.count == 1 {
            return self.first.name.clone();
        }
        format!("{}*", self.first.name.trim_end_matches(|c: char| c.is_ascii_digit()))
    }

    /// When they are made: all of them, or so many when a worker starts and the others when needed.
    fn made(&self) -> String {
        match self.at_start {
            0 => words(Made::WhenNeeded),
            count if count == self.count => words(Made::AtStart),
            count => format!("{count} {}", words(Made::AtStart)),
        }
    }

    /// Whether `name` is one of its queues.
    pub(super) fn has(&self, name: &str) -> bool {
        self.first.name == name
    }
}

/// The queues of a plan, those for retries and delays in series.
pub(super) fn series(plan: &Plan) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    for queue in &plan.queues {
        let at_start = usize::from(queue.made == Made::AtStart);
        match all.last_mut() {
            Some(last) if queue.role.forwards() && (last.first.role, &last.first.of) == (queue.role, &queue.of) => {
                last.count += 1;
                last.at_start += at_start;
            }
            _ => all.push(Series { first: queue, count: 1, at_start }),
        }
    }
    all
}

/// What a queue is for, in words.
pub(super) const fn purpose(role: Role) -> &'static str {
    match role {
        Role::Jobs => "jobs",
        Role::DeadLetters => "dead letters",
        Role::Suspects => "suspects",
        Role::Retries => "retries",
        Role::Due => "due jobs",
        Role::Delays => "delays",
    }
}

/// What fits on a terminal.
fn short(plan: &Plan) -> Table {
    let titles = ["WHAT", "NAME", "TYPE", "FOR", "MADE"];
    let mut table = Table::new(titles.map(Column::text));
    for one in series(plan) {
        let queue = one.first;
        let count = if one.count == 1 { String::new() } else { format!(", {} queues", one.count) };
        let purpose = format!("{}{count}", purpose(queue.role));
        let kind = queue.kind().unwrap_or_default().to_owned();
        table.row(["queue".into(), one.name(), kind, purpose, one.made()]);
    }
    others(plan).for_each(|[what, name, kind]| table.row([what, name, kind, String::new(), "at start".into()]));
    table
}

/// Everything, for a program.
fn long(plan: &Plan) -> Table {
    let mut table = Table::new(["WHAT", "NAME", "TYPE", "FOR", "MADE", "ARGUMENTS"].map(Column::text));
    for queue in &plan.queues {
        let arguments = if queue.arguments.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&queue.arguments).unwrap_or_default()
        };
        let kind = queue.kind().unwrap_or_default().to_owned();
        table.row(["queue".into(), queue.name.clone(), kind, purpose(queue.role).into(), words(queue.made), arguments]);
    }
    others(plan).for_each(|[what, name, kind]| {
        table.row([what, name, kind, String::new(), "at start".into(), String::new()]);
    });
    table
}

/// When something is made, in words.
fn words(made: Made) -> String {
    made.as_str().replace('_', " ")
}

/// Exchanges and bindings: what, name, type.
fn others(plan: &Plan) -> impl Iterator<Item = [String; 3]> {
    let exchanges =
        plan.exchanges.iter().map(|exchange| (Finding::exchange(exchange, Standing::Same), exchange.kind.to_string()));
    let bindings = plan.bindings.iter().map(|binding| (Finding::binding(binding, Standing::Same), String::new()));
    exchanges.chain(bindings).map(|(finding, kind)| [finding.what.as_str().into(), finding.name, kind])
}
