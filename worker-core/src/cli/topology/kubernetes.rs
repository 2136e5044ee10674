//! A plan as resources of RabbitMQ's messaging topology operator for Kubernetes. Pure.
//!
//! A resource's name has a smaller alphabet than a queue's: where they differ
//! it gets a number made of the queue's own name, so that two never share one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::definitions::matching;
use crate::{
    broker::Plan,
    cli::{exit, fail::Fail},
};

/// The most characters of a name before its number: Kubernetes allows 253.
const STEM_MAX: usize = 200;

/// Where the resources belong.
pub(super) struct Cluster {
    namespace: Option<String>,
    name: String,
}

impl Cluster {
    /// `NAME` or `NAMESPACE/NAME`.
    pub(super) fn parse(text: &str) -> Result<Self, Fail> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        if let Some(wrong) = namespace.iter().map(String::as_str).chain([name]).find(|part| !is_resource_name(part)) {
            let message = format!(
                "--cluster is `{text}`, and `{wrong}` is no name in Kubernetes: use a-z, 0-9, `-` and `.`, such as `rabbit` or `messaging/rabbit`"
            );
            return Err(Fail::usage(message));
        }
        Ok(Self { namespace, name: name.to_owned() })
    }

    fn reference(&self) -> Value {
        match &self.namespace {
            Some(namespace) => json!({"name": self.name, "namespace": namespace}),
            None => json!({"name": self.name}),
        }
    }
}

/// The resources as YAML, one document each.
pub(super) fn resources(plan: &Plan, vhost: &str, cluster: &Cluster) -> Result<String, Fail> {
    // Two virtual hosts may have queues of one name, and their resources one namespace.
    let of_vhost = |name: &str| if vhost == "/" { name.to_owned() } else { format!("{vhost}/{name}") };
    let mut all = Vec::new();
    for queue in &plan.queues {
        let spec = json!({
            "name": queue.name, "vhost": vhost, "type": queue.kind().unwrap_or("classic"), "durable": true,
            "autoDelete": false, "arguments": queue.arguments, "rabbitmqClusterReference": cluster.reference(),
        });
        all.push(("Queue", of_vhost(&queue.name), spec));
    }
    for exchange in &plan.exchanges {
        let spec = json!({
            "name": exchange.name, "vhost": vhost, "type": exchange.kind, "durable": true, "autoDelete": false,
            "rabbitmqClusterReference": cluster.reference(),
        });
        all.push(("Exchange", of_vhost(exchange.name.as_str()), spec));
    }
    for binding in &plan.bindings {
        let (key, arguments) = matching(binding);
        let mut spec = json!({
            "source": binding.exchange, "vhost": vhost, "destination": binding.queue, "destinationType": "queue",
            "routingKey": key, "rabbitmqClusterReference": cluster.reference(),
        });
        if !arguments.is_empty() {
            spec["arguments"] = arguments.into();
        }
        let on = serde_json::to_string(&binding.on).unwrap_or_default();
        all.push(("Binding", format!("{} {} {on}", of_vhost(binding.exchange.as_str()), binding.queue), spec));
    }
    let mut names: BTreeMap<(&str, String), String> = BTreeMap::new();
    let mut text = String::new();
    for (kind, meant, spec) in all {
        let name = resource_name(&meant);
        if let Some(other) = names.insert((kind, name.clone()), meant.clone()) {
            let message = format!("`{other}` and `{meant}` would both be the {kind} `{name}`; rename one");
            return Err(Fail::new(exit::FAILURE, message));
        }
        let resource =
            json!({"apiVersion": "rabbitmq.com/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        text.push_str("---\n");
        yaml(&resource, 0, &mut text);
    }
    Ok(text)
}

/// The name of a resource for `meant`: itself where it can be, otherwise like it, with a number of its own.
fn resource_name(meant: &str) -> String {
    if is_resource_name(meant) && !has_number(meant) {
        return meant.to_owned();
    }
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let stem: String = meant.to_ascii_lowercase().chars().map(allowed).take(STEM_MAX).collect();
    // FNV-1a: the same in every version of the program.
    let number = meant
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    match stem.trim_matches('-') {
        "" => format!("x-{number:016x}"),
        stem => format!("{stem}-{number:016x}"),
    }
}

/// Whether it ends as the names do that get a number, so that it could be one of them.
fn has_number(name: &str) -> bool {
    let end = name.rsplit_once('-').map_or("", |(_, end)| end);
    end.len() == 16 && end.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether Kubernetes takes it as a name: a subdomain by RFC 1123.
fn is_resource_name(name: &str) -> bool {
    let is_inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(is_inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Writes a value as YAML. Keys and scalars are JSON's, which is YAML too: only the layout is ours.
fn yaml(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(fields) = value else {
        text.push_str(&format!(" {value}\n"));
        return;
    };
    if fields.is_empty() {
        text.push_str(" {}\n");
        return;
    }
    if depth > 0 {
        text.push('\n');
    }
    for (name, value) in fields {
        let name = if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !name.is_empty() {
            name.clone()
        } else {
            Value::String(name.clone()).to_string()
        };
        text.push_str(&format!("{}{name}:", "  ".repeat(depth)));
        yaml(value, depth + 1, text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_kubernetes_takes_stays_and_any_other_gets_a_number() {
        for name in ["orders", "worker.due", "a-b.c-1"] {
            assert_eq!(resource_name(name), name);
        }
        for (name, stem) in [("orders_dlq", "orders-dlq-"), ("Orders", "orders-"), ("-", "x-"), ("a..b", "a--b-")] {
            let made = resource_name(name);
            assert!(made.starts_with(stem) && has_number(&made) && is_resource_name(&made), "{made}");
        }
        let made = resource_name("orders_dlq");
        assert_ne!(resource_name(&made), made, "what looks like a made name gets another");
    }

    proptest! {
        #[test]
        fn different_queues_have_different_resources(one in "[a-zA-Z0-9._:-]{1,128}", other in "[a-zA-Z0-9._:-]{1,128}") {
            let (made, others) = (resource_name(&one), resource_name(&other));
            prop_assert!(is_resource_name(&made), "{made}");
            prop_assert_eq!(one == other, made == others);
        }

        #[test]
        fn names_that_differ_only_in_what_kubernetes_has_not_stay_apart(one in "[a-z_.:-]{1,4}", other in "[a-zA_.:-]{1,4}") {
            prop_assert_eq!(one == other, resource_name(&one) == resource_name(&other));
        }
    }

    #[test]
    fn a_cluster_can_be_in_another_namespace_and_must_have_a_name() {
        assert_eq!(Cluster::parse("rabbit").unwrap().reference(), json!({"name": "rabbit"}));
        let elsewhere = Cluster::parse("messaging/rabbit").unwrap();
        assert_eq!(elsewhere.reference(), json!({"name": "rabbit", "namespace": "messaging"}));
        for wrong in ["", "a b", "/rabbit", "x/", "Rabbit", "a/b/c"] {
            assert!(Cluster::parse(wrong).is_err(), "{wrong}");
        }
    }
}
