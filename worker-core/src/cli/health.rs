//! `health`: can this configuration reach its broker, and how are its queues.
//!
//! It changes nothing: it creates neither a queue nor a database.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    broker::{Capabilities, QueueStats},
    cli::{
        args::duration,
        broker::{Missing, with_client},
        exit,
        fail::Fail,
        out::{Out, count, say},
        shards::sum,
        table::{Column, Table},
    },
    client::{Client, Health, Presence, QueueHealth},
    config::Settings,
    name::QueueName,
    registry::Registry,
    shard,
};

/// Check that the broker can be reached and that the queues exist
#[derive(Debug, Args)]
#[command(after_help = r#"Exits with 0 when all is well, with 69 when the broker cannot be reached, takes
no new jobs, or a queue is missing, and with 78 when the configuration is wrong.
It changes nothing.

Examples:
  myapp health --timeout 1s              in a readiness probe
  myapp health --json | jq .healthy

JSON:
  {"healthy", "reasons": [text], "remarks": [text],
   "broker": {"url", "reachable", "reach": "up", "blocked", "down" or null,
   "error": text or null, "capabilities": {"broker", "durable", "shared",
   "retry_is_atomic", "exact_blame", "keeps_place", "counts_all", "priorities",
   "two_priorities", "queue_priorities", "ranks_returned", "exchanges", "calls",
   "bundles", "server": text or null} or null},
   "queues": [{"queue", "exists", "ready", "running", "delayed", "dead",
   "consumers"}]}; "exists" and numbers are null where the broker cannot
   tell; a remark is about what is not known, and makes nothing unhealthy"#)]
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
    reasons: Vec<String>,
    remarks: Vec<String>,
    broker: Reached,
    queues: Vec<Found>,
}

#[derive(Serialize)]
struct Reached {
    url: String,
    reachable: bool,
    reach: Option<&'static str>,
    capabilities: Option<Capabilities>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Found {
    queue: QueueName,
    exists: Option<bool>,
    ready: Option<u64>,
    running: Option<u64>,
    delayed: Option<u64>,
    dead: Option<u64>,
    consumers: Option<u64>,
}

pub(super) async fn health(args: &HealthArgs, settings: &Settings, registry: &Registry, out: Out) -> Result<u8, Fail> {
    let wanted: Vec<_> = match &settings.queues {
        Some(served) => served.iter().map(|served| served.queue.clone()).collect(),
        None => registry.queues(),
    };
    let shards: Vec<_> = wanted.iter().flat_map(|queue| registry.shards(queue)).collect();
    let ask = async |client: &Client| {
        wanted.iter().chain(&registry.queues()).for_each(|queue| client.broker().know(&registry.topology(queue)));
        Ok(client.health().queues(shards.clone()).within(args.timeout).await)
    };
    let asked = timeout(args.timeout, with_client(settings, Missing::Refuse, ask)).await.unwrap_or_else(|_| {
        let within = humantime::format_duration(args.timeout);
        Err(Fail::new(exit::UNAVAILABLE, format_args!("no answer from the broker within {within}")))
    });
    let url = settings.broker_url.to_string();
    let (document, fail) = match asked {
        Ok(health) if health.answers => (document(url, health, &wanted), None),
        Ok(health) => {
            let fail = Fail::new(exit::UNAVAILABLE, health.reasons.join("; "));
            let mut document = unreachable(url, &wanted, &fail);
            (document.broker.reach, document.broker.capabilities) =
                (Some(health.reach.as_str()), Some(health.capabilities));
            (document, Some(fail))
        }
        Err(fail) => (unreachable(url, &wanted, &fail), Some(fail)),
    };
    if args.json {
        out.json(&document)?;
    } else if fail.is_none() {
        out.table(&table(&document))?;
        document.remarks.iter().for_each(|remark| say(format_args!("note: {remark}")));
    }
    match fail {
        Some(fail) => Err(fail),
        None if document.healthy => Ok(exit::OK),
        None => {
            let missing = document.queues.iter().any(|found| found.exists != Some(true));
            let ways_out = if missing { "; `topology apply`, `run` and `enqueue` create queues" } else { "" };
            say(format_args!("unhealthy: {}{ways_out}", document.reasons.join("; ")));
            Ok(exit::UNAVAILABLE)
        }
    }
}

/// What an answer says.
fn document(url: String, health: Health, wanted: &[QueueName]) -> Document {
    let Health { healthy, reasons, remarks, reach, capabilities, queues, .. } = health;
    // Of a queue with shards, all together: the reasons name one that is missing.
    let found = |queue: &QueueName| {
        let is_of = |name: &QueueName| name == queue || shard::is_of(name, queue);
        let parts: Vec<&QueueHealth> = queues.iter().filter(|part| is_of(&part.queue)).collect();
        let is = |presence: Presence| parts.iter().any(|part| part.presence == presence);
        let all_exist = parts.iter().all(|part| part.presence == Presence::Exists);
        let exists = if all_exist { Some(true) } else { is(Presence::Missing).then_some(false) };
        let stats: Vec<QueueStats> = parts.iter().filter_map(|part| part.stats.clone()).collect();
        let stats = (all_exist || !stats.is_empty()).then(|| sum(queue.clone(), &stats));
        Found {
            queue: queue.clone(),
            exists,
            ready: stats.as_ref().map(|stats| stats.ready),
            running: stats.as_ref().and_then(|stats| stats.running),
            delayed: stats.as_ref().and_then(|stats| stats.delayed),
            dead: stats.as_ref().map(|stats| stats.dead),
            consumers: stats.as_ref().map(|stats| stats.consumers),
        }
    };
    let (capabilities, reach) = (Some(capabilities), Some(reach.as_str()));
    let broker = Reached { url, reachable: true, reach, capabilities, error: None };
    // Where none is wanted, it is about those that the broker lists.
    let listed: BTreeSet<_> =
        queues.iter().filter(|_| wanted.is_empty()).map(|part| shard::whole(&part.queue)).collect();
    let queues = wanted.iter().chain(&listed).map(found).collect();
    Document { healthy, reasons, remarks, broker, queues }
}

/// The same where there is none.
fn unreachable(url: String, wanted: &[QueueName], fail: &Fail) -> Document {
    let error = fail.message.clone();
    let unknown = |queue: &QueueName| Found {
        queue: queue.clone(),
        exists: None,
        ready: None,
        running: None,
        delayed: None,
        dead: None,
        consumers: None,
    };
    Document {
        healthy: false,
        reasons: error.iter().cloned().collect(),
        remarks: Vec::new(),
        broker: Reached { url, reachable: false, reach: None, capabilities: None, error },
        queues: wanted.iter().map(unknown).collect(),
    }
}

fn table(document: &Document) -> Table {
    let mut table = Table::new([Column::text("CHECK"), Column::text("STATUS"), Column::wrapped("DETAIL")]);
    let can = document.broker.capabilities.as_ref().map(abilities).unwrap_or_default();
    let status = document.broker.reach.filter(|reach| *reach != "up").unwrap_or("ok");
    table.row([format!("broker {}", document.broker.url), status.into(), can]);
    for found in &document.queues {
        let (status, detail) = match (found.exists, found.ready, found.dead, found.consumers) {
            (Some(true), Some(ready), Some(dead), Some(consumers)) => {
                ("ok", depth(ready, found.running, dead, consumers))
            }
            (Some(false), Some(ready), Some(dead), _) => {
                ("missing", format!("not all of its shards are created yet; in the others {ready} ready, {dead} dead"))
            }
            _ => ("missing", "not created yet".to_owned()),
        };
        table.row([format!("queue {}", found.queue), status.into(), detail]);
    }
    table
}

/// What is in a queue, and who consumes it, as far as it is known.
pub(super) fn depth(ready: u64, running: Option<u64>, dead: u64, consumers: u64) -> String {
    let running = running.map(|running| format!("{running} running, ")).unwrap_or_default();
    format!("{ready} ready, {running}{dead} dead, {}", count(consumers, "consumer"))
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
        (capabilities.calls, "calls"),
        (capabilities.bundles, "bundles"),
    ];
    let server = capabilities.server.as_deref();
    server.into_iter().chain(can.iter().filter(|(yes, _)| *yes).map(|(_, what)| *what)).collect::<Vec<_>>().join(", ")
}
