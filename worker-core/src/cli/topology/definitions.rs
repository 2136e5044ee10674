//! A plan as RabbitMQ's definitions: what its tools export and import. Pure.

use serde_json::{Map, Value, json};

use crate::{
    broker::Plan,
    exchange::{Binding, Criterion},
};

pub(super) fn definitions(plan: &Plan, vhost: &str) -> Value {
    let queues = plan.queues.iter().map(|queue| {
        json!({
            "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": queue.arguments,
        })
    });
    let exchanges = plan.exchanges.iter().map(|exchange| {
        json!({
            "name": exchange.name, "vhost": vhost, "type": exchange.kind, "durable": true, "auto_delete": false,
            "internal": false, "arguments": {},
        })
    });
    let bindings = plan.bindings.iter().map(|binding| {
        let (key, arguments) = matching(binding);
        json!({
            "source": binding.exchange, "vhost": vhost, "destination": binding.queue, "destination_type": "queue",
            "routing_key": key, "arguments": arguments,
        })
    });
    json!({
        "queues": queues.collect::<Vec<_>>(),
        "exchanges": exchanges.collect::<Vec<_>>(),
        "bindings": bindings.collect::<Vec<_>>(),
    })
}

/// A binding's key and its arguments.
pub(super) fn matching(binding: &Binding) -> (&str, Map<String, Value>) {
    let (how, headers) = match &binding.on {
        Criterion::Key(key) => return (key, Map::new()),
        Criterion::AllOf(headers) => ("all", headers),
        Criterion::AnyOf(headers) => ("any", headers),
    };
    let headers = headers.iter().map(|(name, value)| (name.to_owned(), value.clone()));
    ("", headers.chain([("x-match".to_owned(), how.into())]).collect())
}
