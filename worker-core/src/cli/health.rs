//! `health`: can this configuration reach its broker, and are its queues there.
//!
//! It changes nothing: it creates neither a queue nor a database.

use std::{collections::HashSet, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    broker::Capabilities,
    cli::{
        args::duration,
        broker::{Missing, inspector, with_client},
        exit,
        fail::Fail,
        out::{Out, say},
        table::{Column, Table},
    },
    client::Client,
    config::Settings,
    name::QueueName,
    registry::Registry,
};

/// Check that the broker can be reached and that the queues exist
#[derive(Debug, Args)]
#[command(after_help = r#"Exits with 0 when all is well, with 69 when the broker cannot be reached or a
queue is missing, and with 78 when the configuration is wrong. It changes
nothing.

Examples:
  myapp health --timeout 1s              in a readiness probe
  myapp health --json | jq .healthy

JSON:
  {"healthy", "broker": {"url", "reachable", "error": text or null,
   "capabilities": {"broker", "durable", "shared", "retry_is_atomic",
   "exact_blame", "keeps_place", "counts_all", "priorities",
   "two_priorities", "queue_priorities", "ranks_returned", "exchanges", "server": text or null} or null},
   "queues": [{"queue", "exists"}]}"#)]
pub(super) struct HealthArgs {
    /// The longest time that the broker may take to answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    healthy: bool,
    broker: Reached,
    queues: Vec<Found>,
}

#[derive(Serialize)]
struct Reached {
    url: String,
    reachable: bool,
    capabilities: Option<Capabilities>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Found {
    queue: QueueName,
    exists: bool,
}

pub(super) async fn health(args: &HealthArgs, settings: &Settings, registry: &Registry, out: Out) -> Result<u8, Fail> {
    let wanted: Vec<_> = match &settings.queues {
        Some(served) => served.iter().map(|served| served.queue.clone()).collect(),
        None => registry.queues(),
    };
    let looked = timeout(args.timeout, look(settings, &wanted)).await.unwrap_or_else(|_| {
        let within = humantime::format_duration(args.timeout);
        Err(Fail::new(exit::UNAVAILABLE, format_args!("no answer from the broker within {within}")))
    });
    let (capabilities, existing, fail) = match looked {
        Ok((capabilities, existing)) => (Some(capabilities), existing, None),
        Err(fail) => (None, HashSet::new(), Some(fail)),
    };
    let found = |queue: QueueName| Found { exists: existing.contains(&queue), queue };
    let queues: Vec<_> = wanted.into_iter().map(found).collect();
    let healthy = fail.is_none() && queues.iter().all(|found| found.exists);
    let broker = Reached {
        url: settings.broker_url.to_string(),
        reachable: fail.is_none(),
        capabilities,
        error: fail.as_ref().and_then(|fail| fail.message.clone()),
    };
    let document = Document { healthy, broker, queues };
    if args.json {
        out.json(&document)?;
    } else if fail.is_none() {
        out.table(&table(&document))?;
    }
    match fail {
        Some(fail) => Err(fail),
        None if healthy => Ok(exit::OK),
        None => {
            say(format_args!("unhealthy: a queue is missing; `run` and `enqueue` create what they use"));
            Ok(exit::UNAVAILABLE)
        }
    }
}

async fn look(settings: &Settings, wanted: &[QueueName]) -> Result<(Capabilities, HashSet<QueueName>), Fail> {
    let look = async |client: &Client| {
        let queues = inspector(client)?.queues(wanted).await?;
        Ok((client.broker().capabilities(), queues.into_iter().map(|stats| stats.queue).collect()))
    };
    with_client(settings, Missing::Refuse, look).await
}

fn table(document: &Document) -> Table {
    let mut table = Table::new([Column::text("CHECK"), Column::text("STATUS"), Column::wrapped("DETAIL")]);
    let can = document.broker.capabilities.as_ref().map(abilities).unwrap_or_default();
    table.row([format!("broker {}", document.broker.url), "ok".into(), can]);
    for Found { queue, exists } in &document.queues {
        let (status, detail) = if *exists { ("ok", "") } else { ("missing", "not created yet") };
        table.row([format!("queue {queue}"), status.into(), detail.into()]);
    }
    table
}

fn abilities(capabilities: &Capabilities) -> String {
    let can = [
        (capabilities.durable, "durable"),
        (capabilities.shared, "shared"),
        (capabilities.retry_is_atomic, "atomic retries"),
        (capabilities.exact_blame, "exact blame"),
        (capabilities.keeps_place, "order kept on hand-back"),
        (capabilities.counts_all, "all counts"),
        (capabilities.priorities, "priorities"),
        (capabilities.two_priorities, "two priorities"),
        (capabilities.queue_priorities && !capabilities.priorities, "priorities of queues that ask for them"),
        (capabilities.ranks_returned, "priorities kept on hand-back"),
        (capabilities.exchanges, "exchanges"),
    ];
    let server = capabilities.server.as_deref();
    server.into_iter().chain(can.iter().filter(|(yes, _)| *yes).map(|(_, what)| *what)).collect::<Vec<_>>().join(", ")
}
