//! `topology apply`: declares what the program needs, and says what it made.

use clap::Args;
use serde::Serialize;

use super::{Chosen, faults};
use crate::{
    broker::{Finding, Plan, Standing, What},
    cli::{
        broker::{Missing, inspector, with_client},
        exit,
        fail::Fail,
        out::{Out, count, say},
        table::{Column, Table},
    },
    client::Client,
    config::{Settings, TopologyMode},
    registry::Registry,
};

/// Declare what is missing in the broker
#[derive(Debug, Args)]
#[command(after_help = r#"What is there is used as it is. On RabbitMQ it also makes the queues for retries
and delays, which `run` makes when the first job needs them, so that a worker
without the right to declare finds them. To do it again changes nothing.

Exits with 0 when all is there then, and with 3 when something was there before
that the program cannot use: `topology check` says why.

JSON:
  {"created": [{"what": "queue" or "exchange", "name"}], "fine",
   "findings": as `topology check --json` has them, from before}"#)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    created: Vec<Created<'a>>,
    fine: bool,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Created<'a> {
    what: What,
    name: &'a str,
}

/// What of the plan can be made: without what is there and is no good, and what would be bound to it.
fn usable(plan: &Plan, before: &[Finding]) -> Plan {
    let is_no_good = |what: What, name: &str| {
        let is_it = |finding: &Finding| finding.what == what && finding.name == name;
        before.iter().any(|finding| finding.standing == Standing::Different && is_it(finding))
    };
    let mut usable = plan.clone();
    usable.queues.retain(|queue| !is_no_good(What::Queue, &queue.name));
    usable.exchanges.retain(|exchange| !is_no_good(What::Exchange, exchange.name.as_str()));
    usable.bindings.retain(|binding| !is_no_good(What::Exchange, binding.exchange.as_str()));
    usable
}

pub(super) async fn apply(
    args: &ApplyArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let plan = args.chosen.plan(settings, registry)?;
    let mut settings = settings.clone();
    settings.topology = TopologyMode::Apply;
    let declare = async |client: &Client| {
        let before = inspector(client)?.compare(&plan).await?;
        client.broker().apply(&usable(&plan, &before)).await?;
        Ok(before)
    };
    let before = with_client(&settings, Missing::Create, declare).await?;
    let created = before.iter().filter(|finding| finding.standing == Standing::Missing);
    let created: Vec<_> = created.map(|Finding { what, name, .. }| Created { what: *what, name }).collect();
    let left: Vec<_> = before.iter().filter(|finding| finding.standing == Standing::Different).cloned().collect();
    let unusable = faults(&left);
    if args.json {
        out.json(&Document { created, fine: unusable.is_none(), findings: &before })?;
    } else {
        let mut table = Table::new([Column::text("CREATED"), Column::text("NAME")]);
        created.iter().for_each(|Created { what, name }| table.row([what.as_str().into(), (*name).into()]));
        out.table(&table)?;
        match created.len() {
            0 => say(format_args!("everything was there")),
            made => say(format_args!("created {made} of {}", count(before.len() as u64, "thing"))),
        }
    }
    let Some(unusable) = unusable else { return Ok(exit::OK) };
    say(format_args!("the program cannot work with what was there before: {unusable}; see `{name} topology check`"));
    Ok(exit::TOPOLOGY)
}
