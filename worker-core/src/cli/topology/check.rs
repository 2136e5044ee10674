//! `topology check`: how what the broker has differs from what the program needs. It makes nothing.

use clap::Args;
use serde::Serialize;

use super::{Chosen, faults};
use crate::{
    broker::{Finding, Standing},
    cli::{
        broker::{self, Missing, inspector, with_client},
        exit,
        fail::Fail,
        out::{Out, count, hint, say},
        table::{Column, Table},
    },
    client::Client,
    config::{Settings, TOPOLOGY, Target, TopologyMode},
    name::QueueName,
    registry::Registry,
};

/// Tell what is missing in the broker, or different
#[derive(Debug, Args)]
#[command(after_help = r#"Exits with 0 when the program can work with what is there, with 3 when something
is missing or different, with 69 when the broker cannot be reached. It makes
nothing. On a terminal, what is as it should be is only counted.

Status:
  same       as this program would declare it; or there, and the user may not
             know more, as "detail" says
  adopted    declared by others in another way, and used as it is
  unseen     not shown: bindings on RabbitMQ, and what the user may not look at
  missing    not there
  different  there, and no good: an exchange of another kind, a stream, or a
             queue for retries or delays that forwards elsewhere or at another
             time, a queue that lacks what its jobs ask for

JSON:
  {"fine", "findings": [{"what": "queue", "exchange" or "binding", "name",
   "standing": as above, "detail": text or null}]}"#)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    fine: bool,
    findings: &'a [Finding],
}

pub(super) async fn check(
    args: &CheckArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let plan = args.chosen.plan(settings, registry)?;
    let compare = async |client: &Client| Ok(inspector(client)?.compare(&plan).await?);
    let findings = with_client(settings, Missing::Refuse, compare).await?;
    let faults = faults(&findings);
    if args.json {
        out.json(&Document { fine: faults.is_none(), findings: &findings })?;
    } else {
        let same = findings.iter().filter(|finding| is_plain(finding)).count();
        let shown = findings.iter().filter(|finding| !(out.is_terminal() && is_plain(finding)));
        out.table(&table(shown))?;
        if out.is_terminal() && same > 0 {
            say(format_args!("{} as needed", count(same as u64, "thing")));
        }
    }
    let Some(faults) = faults else { return Ok(exit::OK) };
    say(format_args!("what the program needs is not there: {faults}"));
    hint(format_args!("`{name} topology apply` declares what is missing"));
    Ok(exit::TOPOLOGY)
}

/// Whether there is nothing to say about it.
fn is_plain(finding: &Finding) -> bool {
    finding.standing == Standing::Same && finding.detail.is_none()
}

pub(super) fn table<'a>(findings: impl Iterator<Item = &'a Finding>) -> Table {
    let mut table =
        Table::new([Column::text("WHAT"), Column::text("NAME"), Column::text("STATUS"), Column::wrapped("DETAIL")]);
    for Finding { what, name, standing, detail, .. } in findings {
        let detail = detail.clone().unwrap_or_default();
        table.row([what.as_str().into(), name.clone(), standing.as_str().into(), detail]);
    }
    table
}

/// What can be known before a worker that declares nothing connects.
pub(in crate::cli) fn possible(settings: &Settings, name: &str) -> Result<(), Fail> {
    if settings.topology != TopologyMode::Check {
        return Ok(());
    }
    match settings.broker_url.target() {
        Target::Memory => {
            let message =
                format!("{} is `check`, and `memory:` begins empty: everything would be missing", origin(settings));
            Err(Fail::new(exit::CONFIG, message).hint("leave it at `apply`"))
        }
        _ => broker::check(settings, Missing::Refuse)
            .map_err(|fail| fail.hint(format_args!("`{name} topology apply` creates it"))),
    }
}

/// Sees that a worker that declares nothing finds all that the jobs of `queues` need.
pub(in crate::cli) async fn verify(
    settings: &Settings,
    client: &Client,
    registry: &Registry,
    queues: &[QueueName],
    name: &str,
) -> Result<(), Fail> {
    if settings.topology != TopologyMode::Check {
        return Ok(());
    }
    let plan = settings.plan(&registry.needs(queues));
    let findings = inspector(client)?.compare(&plan).await?;
    let lacking: Vec<_> = findings.iter().filter(|finding| !finding.standing.is_fine()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let line = |finding: &&Finding| {
        let Finding { what, name, standing, detail, .. } = finding;
        let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("\n  {} `{name}` is {}{detail}", what.as_str(), standing.as_str())
    };
    let message = format!(
        "{} is `check`, so nothing is declared, and of {} that the jobs need {} not as needed:{}",
        origin(settings),
        count(findings.len() as u64, "thing"),
        if lacking.len() == 1 { "one is".to_owned() } else { format!("{} are", lacking.len()) },
        lacking.iter().map(line).collect::<String>(),
    );
    let hint = format!(
        "`{name} topology apply` declares them, as a user who may; `{name} topology export` writes them down for RabbitMQ's own tools"
    );
    Err(Fail::new(exit::TOPOLOGY, message).hint(hint))
}

/// Who says that nothing is declared: the flag or the variable.
fn origin(settings: &Settings) -> String {
    let entry = settings.entries().iter().find(|entry| *entry.setting == TOPOLOGY);
    entry.map_or_else(|| TOPOLOGY.variable.into(), crate::config::Entry::origin_text)
}
