//! The alerts: about metrics that exist, with labels that they have.

use serde_json::Value;
use worker_core::telemetry::{METRICS, Metric, MetricKind};

use super::{at, yaml};

/// The metric that an expression means by `name`.
fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| match metric.kind {
        MetricKind::Histogram => name.strip_prefix(metric.name).is_some_and(|part| part == "_bucket"),
        _ => name == metric.name,
    })
}

/// What stands in brackets after `mark`, separated by commas.
fn listed<'a>(expression: &'a str, mark: &str, end: char) -> Vec<&'a str> {
    let lists = expression.split(mark).skip(1).filter_map(|rest| rest.split(end).next());
    lists.flat_map(|list| list.split(',')).map(str::trim).collect()
}

#[test]
fn every_alert_is_about_metrics_and_labels_that_exist() {
    let rules = &yaml("deploy/prometheus/rules.yaml")[0];
    let alerts = at(rules, "/groups/0/rules").as_array().unwrap();
    for alert in alerts {
        let expression = at(alert, "/expr").as_str().unwrap();
        let words = expression.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let names: Vec<_> = words.filter(|word| word.starts_with("worker_")).collect();
        let metrics: Vec<_> =
            names.iter().map(|name| metric(name).unwrap_or_else(|| panic!("no metric `{name}`"))).collect();
        assert!(!metrics.is_empty(), "{expression}");
        let selectors = listed(expression, "{", '}').into_iter().filter_map(|selector| selector.split('=').next());
        for label in listed(expression, "by (", ')').into_iter().chain(selectors) {
            let known = |metric: &&Metric| label == "le" || metric.labels.contains(&label);
            assert!(metrics.iter().all(known), "`{label}` is no label of {names:?}");
        }
        let text = at(alert, "/annotations/summary").as_str().unwrap();
        for label in text.split("$labels.").skip(1).map(|rest| rest.split(' ').next().unwrap()) {
            assert!(label == "instance" || listed(expression, "by (", ')').contains(&label), "`{label}` in `{text}`");
        }
        assert!(alert.pointer("/annotations/action").is_some_and(Value::is_string), "{alert:#} says what to do");
    }
    assert!(alerts.len() > 5);
}

#[test]
fn outcomes_are_those_of_the_documentation() {
    let telemetry = super::read("worker-core/src/telemetry.rs");
    let rules = super::read("deploy/prometheus/rules.yaml");
    for outcome in rules.split("outcome=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(telemetry.contains(&format!("//! | `{outcome}` |")), "`{outcome}` is no outcome");
    }
}
