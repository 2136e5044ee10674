//! How what a plan has is on the server, without making anything.
//!
//! AMQP says whether a queue or an exchange is there, and by refusals what it
//! was declared with ([`adopt`](super::adopt)), to whoever may configure it.
//! Bindings it never shows.

use std::time::Duration;

use lapin::types::FieldTable;

use crate::{
    broker::{Finding, Plan, PlannedQueue, Role, Standing},
    brokers::rabbitmq::{
        adopt,
        declare::{Declarer, broker_error},
        exchanges::kind_there,
        headers,
        lapin_link::GUARD_EXCHANGE,
        link::{DeclareExchange, LinkError, LinkErrorKind},
        plan::table,
        ranks::Nature,
        topology,
    },
    error::BrokerError,
    exchange::Exchange,
};

/// Arguments that decide where a message goes on, and when.
const FORWARDING: [&str; 3] = ["x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key"];

const NOT_LOOKED_AT: &str = "this user may not look at it";
const NOT_COMPARED: &str = "it is there; what it was declared with is told only to who may configure it";

/// How each thing in `plan` is.
pub(super) async fn compare(declarer: &Declarer, plan: &Plan) -> Result<Vec<Finding>, BrokerError> {
    // The server writes each refusal into its log: after one, nothing more is asked that needs the right.
    let mut may_compare = true;
    let mut found = Vec::new();
    for queue in &plan.queues {
        let standing = of_queue(declarer, queue, &mut may_compare).await;
        found.push(standing.map_err(|error| failed("queue", &queue.name, &error))?);
    }
    for exchange in &plan.exchanges {
        let standing = of_exchange(declarer, exchange, &mut may_compare).await;
        found.push(standing.map_err(|error| failed("exchange", exchange.name.as_str(), &error))?);
    }
    let unseen = |binding| Finding::binding(binding, Standing::Unseen).because("AMQP does not show bindings");
    found.extend(plan.bindings.iter().map(unseen));
    Ok(found)
}

fn failed(what: &str, name: &str, error: &LinkError) -> BrokerError {
    broker_error(&format!("{what} `{name}` cannot be looked at"), error)
}

async fn of_queue(declarer: &Declarer, queue: &PlannedQueue, may_compare: &mut bool) -> Result<Finding, LinkError> {
    match declarer.depth(&queue.name).await {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(Finding::queue(queue, Standing::Missing)),
        Err(error) if error.kind == LinkErrorKind::Refused => {
            return Ok(Finding::queue(queue, Standing::Unseen).because(NOT_LOOKED_AT));
        }
        Err(error) => return Err(error),
    }
    let not_compared = || Finding::queue(queue, Standing::Same).because(NOT_COMPARED);
    if !*may_compare {
        return Ok(not_compared());
    }
    let wanted = table(&queue.arguments);
    match adopt::arguments(declarer, &queue.name, wanted.clone()).await {
        Ok(Some(there)) => Ok(judged(queue, &wanted, &there.arguments)),
        Ok(None) => Ok(Finding::queue(queue, Standing::Missing)),
        Err(error) if error.kind == LinkErrorKind::Refused => {
            *may_compare = false;
            Ok(not_compared())
        }
        // It belongs to one connection alone.
        Err(error) if error.kind == LinkErrorKind::Locked => {
            Ok(Finding::queue(queue, Standing::Different).because("it is exclusive to another connection"))
        }
        Err(error) => Err(error),
    }
}

/// What it means that `queue` was declared as it is `there`.
fn judged(queue: &PlannedQueue, wanted: &FieldTable, there: &FieldTable) -> Finding {
    let differences = differences(wanted, there);
    if differences.is_empty() {
        return Finding::queue(queue, Standing::Same);
    }
    let decides = |name: &str| queue.role.forwards() && FORWARDING.contains(&name);
    // An acknowledged job would stay in it.
    let kind = there.inner().get("x-queue-type").and_then(headers::text);
    // What a job asks for by name must hold, whatever else differs: `declare` refuses it too.
    let refused = match queue.role {
        Role::Jobs => Nature::read(there).lacks(&queue.asked).is_some(),
        Role::DeadLetters if queue.asked.dead_letter_ttl.is_some() => {
            differences.iter().any(|(name, _)| name == topology::MESSAGE_TTL)
        }
        _ => false,
    };
    let is_no_good =
        refused || kind.as_deref() == Some(adopt::STREAM) || differences.iter().any(|(name, _)| decides(name));
    let standing = if is_no_good { Standing::Different } else { Standing::Adopted };
    let mut told: Vec<_> = differences.into_iter().map(|(_, text)| text).collect();
    if queue.role == Role::DeadLetters {
        let asked = wanted.inner().get(topology::MESSAGE_TTL).and_then(headers::integer);
        let asked = asked.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        told.extend(adopt::losses(there, asked).into_iter().map(|(name, _, what)| format!("by `{name}` it {what}")));
    }
    Finding::queue(queue, standing).because(told.join("; "))
}

/// The arguments that differ, each with what there is and what is wanted.
fn differences(wanted: &FieldTable, there: &FieldTable) -> Vec<(String, String)> {
    let value = |table: &FieldTable, name: &str| table.inner().get(name).map(headers::from_amqp);
    let names = wanted.inner().keys().chain(there.inner().keys()).map(ToString::to_string);
    let names: std::collections::BTreeSet<_> = names.collect();
    let differing = names.into_iter().filter_map(|name| {
        let (ours, theirs) = (value(wanted, &name), value(there, &name));
        let text = |value: Option<serde_json::Value>| match value {
            None => "nothing".to_owned(),
            Some(serde_json::Value::String(text)) => format!("`{text}`"),
            Some(value) => value.to_string(),
        };
        (ours != theirs).then(|| {
            let told = format!("`{name}` is {} instead of {}", text(theirs), text(ours));
            (name, told)
        })
    });
    differing.collect()
}

async fn of_exchange(declarer: &Declarer, exchange: &Exchange, may_compare: &mut bool) -> Result<Finding, LinkError> {
    let declare = async |how| declarer.channel().await?.declare_exchange(exchange.name.as_str(), how).await;
    match declare(DeclareExchange::Passive).await {
        Ok(()) => {}
        Err(error) if error.kind == LinkErrorKind::NotFound => {
            return Ok(Finding::exchange(exchange, Standing::Missing));
        }
        Err(error) if error.kind == LinkErrorKind::Refused => {
            return Ok(Finding::exchange(exchange, Standing::Unseen).because(NOT_LOOKED_AT));
        }
        Err(error) => return Err(error),
    }
    let not_compared = || Finding::exchange(exchange, Standing::Same).because(NOT_COMPARED);
    if !*may_compare {
        return Ok(not_compared());
    }
    match declare(DeclareExchange::Compared(exchange.kind)).await {
        Ok(()) => Ok(not_compared()),
        Err(error) if error.kind == LinkErrorKind::Mismatch => Ok(judged_exchange(exchange, &error.text)),
        Err(error) if error.kind == LinkErrorKind::Refused => {
            *may_compare = false;
            Ok(not_compared())
        }
        Err(error) => Err(error),
    }
}

/// What the refusal of a comparison says.
fn judged_exchange(exchange: &Exchange, told: &str) -> Finding {
    let guard = format!("inequivalent arg '{GUARD_EXCHANGE}'");
    let finding = |standing| Finding::exchange(exchange, standing);
    match kind_there(told) {
        Some(kind) => finding(Standing::Different).because(format!("it is {kind}, and {} is needed", exchange.kind)),
        // Only the guard differs, as it always does; or it has an alternate exchange.
        None if told.contains(&guard) && told.contains("current is none") => finding(Standing::Same),
        None if told.contains("inequivalent arg") => {
            finding(Standing::Adopted).because(told.split_once(" - ").map_or(told, |(_, text)| text))
        }
        // The guard is refused as no argument: it was deleted since we saw it.
        None => finding(Standing::Missing),
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::AMQPValue;

    use super::*;
    use crate::{
        broker::Made,
        exchange::ExchangeKind,
        queue::{QueueOptions, QueueType},
    };

    fn judge(role: Role, there: &[(&str, AMQPValue)]) -> Finding {
        let planned = PlannedQueue::new("orders", role, None, Made::AtStart);
        let table = |pairs: &[(&str, AMQPValue)]| {
            let mut table = FieldTable::default();
            for (name, value) in pairs {
                table.insert((*name).into(), value.clone());
            }
            table
        };
        let wanted = table(&[("x-queue-type", text("quorum")), ("x-message-ttl", AMQPValue::LongLongInt(5_000))]);
        judged(&planned, &wanted, &table(there))
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn what_others_declared_is_adopted_unless_jobs_would_wait_there_for_ever() {
        let same = [("x-queue-type", text("quorum")), ("x-message-ttl", AMQPValue::LongInt(5_000))];
        assert_eq!(judge(Role::Retries, &same).standing, Standing::Same, "whatever the width of an integer");
        let classic = [("x-queue-type", text("classic")), ("x-message-ttl", AMQPValue::LongInt(5_000))];
        let found = judge(Role::Retries, &classic);
        assert_eq!(found.standing, Standing::Adopted);
        assert_eq!(found.detail.as_deref(), Some("`x-queue-type` is `classic` instead of `quorum`"));
        let endless = [("x-queue-type", text("quorum"))];
        assert_eq!(judge(Role::Retries, &endless).standing, Standing::Different);
        assert_eq!(judge(Role::Jobs, &endless).standing, Standing::Adopted);
        let stream = [("x-queue-type", text("stream"))];
        assert_eq!(judge(Role::Jobs, &stream).standing, Standing::Different, "nothing ever leaves it");
    }

    #[test]
    fn what_jobs_ask_for_by_name_must_hold_of_the_queue_that_is_there() {
        let mut planned = PlannedQueue::new("orders", Role::Jobs, None, Made::AtStart);
        let mut there = FieldTable::default();
        there.insert("x-queue-type".into(), text("classic"));
        there.insert("x-max-length".into(), AMQPValue::LongInt(1_000));
        let mut wanted = FieldTable::default();
        wanted.insert("x-queue-type".into(), text("quorum"));
        assert_eq!(judged(&planned, &wanted, &there).standing, Standing::Adopted, "nobody asked for a type");
        planned.asked = QueueOptions::default().queue_type(QueueType::Quorum);
        assert_eq!(judged(&planned, &wanted, &there).standing, Standing::Different);
        planned.asked = QueueOptions::default().queue_type(QueueType::Classic);
        assert_eq!(judged(&planned, &wanted, &there).standing, Standing::Adopted, "as it was asked for");
    }

    #[test]
    fn a_dead_letter_queue_that_loses_says_so() {
        let losing = [("x-queue-type", text("quorum")), ("x-message-ttl", AMQPValue::LongInt(86_400_000))];
        let found = judge(Role::DeadLetters, &losing);
        assert_eq!(found.standing, Standing::Adopted);
        let detail = found.detail.unwrap();
        assert!(detail.contains("is 86400000 instead of 5000; by `x-message-ttl` it drops a dead letter"), "{detail}");
    }

    #[test]
    fn an_exchange_is_told_by_what_the_refusal_names() {
        let exchange = Exchange::new("events".parse().unwrap(), ExchangeKind::Topic);
        let of = |told: &str| judged_exchange(&exchange, told).standing;
        let told = |argument: &str, rest: &str| {
            format!("PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange 'events' in vhost '/': {rest}")
        };
        let guard = "received the value '1' of type 'signedint' but current is none";
        assert_eq!(of(&told("alternate-exchange", guard)), Standing::Same);
        let other = "received the value '1' of type 'signedint' but current is the value 'rest' of type 'longstr'";
        assert_eq!(of(&told("alternate-exchange", other)), Standing::Adopted);
        assert_eq!(of(&told("type", "received 'topic' but current is 'fanout'")), Standing::Different);
        assert_eq!(of(&told("durable", "received 'true' but current is 'false'")), Standing::Adopted);
        let none = "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'events'";
        assert_eq!(of(none), Standing::Missing);
    }
}
