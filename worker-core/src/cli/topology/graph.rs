//! A plan as a picture, in Graphviz's and in Mermaid's words. Pure.

use super::show::{purpose, series};
use crate::{
    broker::{Plan, Role},
    cli::out::escape,
};

/// Boxes and arrows.
pub(super) struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    label: String,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Exchange,
    Jobs,
    Other,
}

struct Edge {
    from: usize,
    to: usize,
    label: String,
    /// A worker carries it; otherwise the broker does.
    by_worker: bool,
}

impl Graph {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut graph = Self { nodes: Vec::new(), edges: Vec::new() };
        for exchange in &plan.exchanges {
            graph.node(format!("{}\n{} exchange", exchange.name, exchange.kind), Shape::Exchange);
        }
        let (queues, before) = (series(plan), plan.exchanges.len());
        for one in &queues {
            let shape = if one.first.role == Role::Jobs { Shape::Jobs } else { Shape::Other };
            let count = if one.count == 1 { String::new() } else { format!(", {} queues", one.count) };
            graph.node(format!("{}\n{}{count}", one.name(), purpose(one.first.role)), shape);
        }
        let place = |name: &str| queues.iter().position(|one| one.has(name)).map(|place| before + place);
        for binding in &plan.bindings {
            let from = plan.exchanges.iter().position(|exchange| exchange.name == binding.exchange);
            if let (Some(from), Some(to)) = (from, place(binding.queue.as_str())) {
                graph.edge(from, to, binding.on.to_string(), false);
            }
        }
        let due = queues.iter().position(|one| one.first.role == Role::Due).map(|place| before + place);
        for (index, one) in queues.iter().enumerate().map(|(index, one)| (before + index, one)) {
            let of = one.first.of.as_ref().and_then(|queue| place(queue.as_str()));
            match (one.first.role, of) {
                (Role::Jobs, _) => {
                    if let Some(due) = due {
                        graph.edge(due, index, "due".into(), true);
                    }
                }
                (Role::DeadLetters, Some(jobs)) => graph.edge(jobs, index, "failed for good".into(), true),
                (Role::Suspects, Some(jobs)) => graph.edge(jobs, index, "its worker died".into(), true),
                (Role::Retries, Some(jobs)) => {
                    graph.edge(jobs, index, "failed".into(), true);
                    graph.edge(index, jobs, "waited".into(), false);
                }
                (Role::Delays, _) => {
                    if let Some(due) = due {
                        graph.edge(index, due, "waited".into(), false);
                        graph.edge(due, index, "not due yet".into(), true);
                    }
                }
                (Role::DeadLetters, None) => {
                    if let Some(due) = due {
                        graph.edge(due, index, "unreadable".into(), true);
                    }
                }
                (Role::Due | Role::Suspects | Role::Retries, _) => {}
            }
        }
        graph
    }

    fn node(&mut self, label: String, shape: Shape) {
        self.nodes.push(Node { label, shape });
    }

    fn edge(&mut self, from: usize, to: usize, label: String, by_worker: bool) {
        self.edges.push(Edge { from, to, label, by_worker });
    }

    /// For Graphviz: what a worker does is dashed.
    pub(super) fn dot(&self) -> String {
        let mut text = String::from("digraph topology {\n  rankdir=LR;\n  node [shape=box];\n");
        for (index, Node { label, shape }) in self.nodes.iter().enumerate() {
            let look = match shape {
                Shape::Exchange => ", shape=hexagon",
                Shape::Jobs => ", style=bold",
                Shape::Other => "",
            };
            text.push_str(&format!("  n{index} [label={}{look}];\n", quoted(label)));
        }
        for Edge { from, to, label, by_worker } in &self.edges {
            let look = if *by_worker { ", style=dashed" } else { "" };
            text.push_str(&format!("  n{from} -> n{to} [label={}{look}];\n", quoted(label)));
        }
        text + "}\n"
    }

    /// For Mermaid: what a worker does is dashed.
    pub(super) fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        for (index, Node { label, shape }) in self.nodes.iter().enumerate() {
            let label = entities(label);
            text.push_str(&match shape {
                Shape::Exchange => format!("  n{index}{{{{\"{label}\"}}}}\n"),
                Shape::Jobs => format!("  n{index}[[\"{label}\"]]\n"),
                Shape::Other => format!("  n{index}[\"{label}\"]\n"),
            });
        }
        for Edge { from, to, label, by_worker } in &self.edges {
            let arrow = if *by_worker { "-.->" } else { "-->" };
            let label = if label.is_empty() { String::new() } else { format!("|\"{}\"|", entities(label)) };
            text.push_str(&format!("  n{from} {arrow}{label} n{to}\n"));
        }
        text
    }
}

/// A string of Graphviz's: `\` and `"` are escaped, lines end with `\n`.
fn quoted(label: &str) -> String {
    let lines = label.lines().map(|line| escape(line).replace('\\', "\\\\").replace('"', "\\\""));
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}

/// Text inside Mermaid's quotes: whatever could mean something there is written by its number.
fn entities(label: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | '_' | '-' | ':' | '=');
    let line = |line: &str| -> String {
        let one = |c: char| if is_plain(c) { c.to_string() } else { format!("#{};", u32::from(c)) };
        escape(line).chars().map(one).collect()
    };
    label.lines().map(line).collect::<Vec<_>>().join("<br>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{Needs, Topology},
        exchange::{Binding, ExchangeKind},
    };

    fn graph(key: &str) -> Graph {
        let topology = Topology::queues(["audit".parse().unwrap()])
            .exchange("events".parse().unwrap(), ExchangeKind::Topic)
            .bind(Binding::by_key("events".parse().unwrap(), "audit".parse().unwrap(), key));
        Graph::of(&Plan::plain(&Needs::new(topology)))
    }

    #[test]
    fn a_picture_has_a_box_for_each_thing_and_an_arrow_for_each_way() {
        assert_eq!(
            graph("order.*").dot(),
            "digraph topology {\n  rankdir=LR;\n  node [shape=box];\n  n0 [label=\"events\\ntopic exchange\", shape=hexagon];\n  \
             n1 [label=\"audit\\njobs\", style=bold];\n  n0 -> n1 [label=\"order.*\"];\n}\n"
        );
        assert_eq!(
            graph("order.#").mermaid(),
            "flowchart LR\n  n0{{\"events<br>topic exchange\"}}\n  n1[[\"audit<br>jobs\"]]\n  n0 -->|\"order.#35;\"| n1\n"
        );
        assert!(graph("").mermaid().contains("n0 --> n1"), "no empty label");
    }

    #[test]
    fn nothing_in_a_key_ends_its_label() {
        let wild = "a\"]; b \\ `c` |d| <e> #quot; \u{1b}[2J\n%% f";
        let dot = graph(wild).dot();
        let label = dot.lines().find(|line| line.contains("->")).unwrap();
        let inside = label.split_once("label=\"").unwrap().1.strip_suffix("\"];").unwrap();
        let unescaped = inside.replace("\\\\", "").replace("\\\"", "");
        assert!(!unescaped.contains(['"', '\\', '\u{1b}']), "{label}");
        assert_eq!(dot.lines().count(), 7, "{dot}");
        let mermaid = graph(wild).mermaid();
        let label = mermaid.lines().last().unwrap();
        let inside = label.split_once("-->|\"").unwrap().1.strip_suffix("\"| n1").unwrap();
        assert!(!inside.contains(['"', '|', '<', '`', '[', '\u{1b}', '%']), "{label}");
        assert_eq!(mermaid.lines().count(), 4, "{mermaid}");
    }
}
