//! `topology` on a server: what is told, what is made, and a worker that may make nothing.

use std::{collections::BTreeSet, path::Path};

use lapin::{
    Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use worker_tests::{
    eventually::eventually,
    rabbit::{Node, Vhost, shared_node, shared_vhost},
};

use crate::cli::program::{Printed, Program};

/// A program that also runs for an exchange.
fn on(vhost: &Vhost) -> Program {
    Program::new().with("WORKER_BROKER_URL", vhost.url()).with("FIXTURE", "listens")
}

/// The findings by name, each with its status and what is said about it.
fn findings(printed: &Printed) -> Vec<(String, String, String)> {
    let found = printed.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = found["findings"].as_array().unwrap().iter();
    found.map(|finding| (text(&finding["name"]), text(&finding["standing"]), text(&finding["detail"]))).collect()
}

fn standing<'a>(found: &'a [(String, String, String)], name: &str) -> (&'a str, &'a str) {
    let (_, standing, detail) = found.iter().find(|(found, ..)| found == name).unwrap();
    (standing, detail)
}

#[tokio::test]
async fn what_is_missing_is_told_and_not_made_until_it_is_applied() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let program = on(&vhost);
    let nothing = program.run(&["topology", "check", "--json"]).exits(3).says(&["missing"]);
    let found = findings(&nothing);
    assert!(found.iter().all(|(_, standing, _)| standing == "missing" || standing == "unseen"), "{found:?}");
    assert_eq!(standing(&found, "events to audit (order.*)"), ("unseen", "AMQP does not show bindings"));
    assert_eq!(node.list_queues(vhost.name()).await, [], "looking makes nothing");

    let applied = program.run(&["topology", "apply", "--json"]).exits(0).json();
    let created = applied["created"].as_array().unwrap().len();
    let queues: Vec<_> = node.list_queues(vhost.name()).await;
    assert_eq!(created, queues.len() + 1, "every queue, and the exchange");
    let planned = program.run(&["topology", "show", "--format", "json"]).exits(0).json();
    for planned in planned["queues"].as_array().unwrap() {
        let there = queues.iter().find(|queue| planned["name"] == *queue.name).unwrap();
        assert_eq!(planned["arguments"], Value::Object(there.arguments.clone()), "{}", there.name);
    }
    node.publish_to(vhost.name(), "events", "order.placed", json!({}), "{}").await;
    assert_eq!(node.queue_info(vhost.name(), "audit").await.ready, 1, "the binding is there");

    program.run(&["topology", "check"]).exits(0);
    program.run(&["topology", "apply"]).exits(0).says(&["everything was there"]);
    assert_eq!(node.list_queues(vhost.name()).await.len(), queues.len());
}

#[tokio::test]
async fn what_others_declared_is_adopted_and_what_would_hold_jobs_for_ever_is_not() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let program = on(&vhost);
    for (queue, arguments) in [
        ("emails", json!({"x-max-length": 500})),
        ("emails_dlq", json!({"x-queue-type": "quorum", "x-message-ttl": 86_400_000})),
        ("emails_retry_5000", json!({"x-queue-type": "quorum", "x-message-ttl": 60_000})),
        ("emails_suspects", json!({"x-queue-type": "stream"})),
    ] {
        node.declare_queue(vhost.name(), queue, arguments).await;
    }
    program.run(&["topology", "apply", "--queue", "emails"]).exits(3).says(&["2 different"]);
    let found = findings(&program.run(&["topology", "check", "--json", "--queue", "emails"]).exits(3));
    let (adopted, detail) = standing(&found, "emails");
    assert!(adopted == "adopted" && detail.contains("`x-max-length` is 500 instead of nothing"), "{detail}");
    assert!(detail.contains("`x-queue-type` is"), "{detail}");
    let (adopted, detail) = standing(&found, "emails_dlq");
    assert!(adopted == "adopted" && detail.contains("drops a dead letter"), "{detail}");
    let (different, detail) = standing(&found, "emails_suspects");
    assert!(different == "different" && detail.contains("`x-queue-type` is `stream` instead of `quorum`"), "{detail}");
    let (different, detail) = standing(&found, "emails_retry_5000");
    assert!(different == "different" && detail.contains("`x-message-ttl` is 60000 instead of 5000"), "{detail}");
    let others = found.iter().filter(|(name, ..)| {
        !["emails", "emails_dlq", "emails_suspects", "emails_retry_5000"].contains(&name.as_str())
    });
    assert!(others.clone().all(|(_, standing, _)| standing == "same"), "{:?}", others.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_exchange_of_another_kind_is_different() {
    let (node, vhost) = (shared_node(), shared_vhost());
    node.declare_exchange(vhost.name(), "events", "fanout").await;
    let program = on(&vhost);
    let found = findings(&program.run(&["topology", "check", "--json", "--queue", "audit"]).exits(3));
    assert_eq!(standing(&found, "events"), ("different", "it is fanout, and topic is needed"));
    // All the rest is made.
    let applied = program.run(&["topology", "apply", "--json"]).exits(3);
    let created: Value = serde_json::from_str(&applied.stdout).unwrap();
    let created: Vec<_> = created["created"].as_array().unwrap().iter().map(|made| made["name"].clone()).collect();
    assert!(created.contains(&json!("audit")) && !created.contains(&json!("events")), "{created:?}");
    let left = findings(&program.run(&["topology", "check", "--json"]).exits(3));
    let missing: Vec<_> = left.iter().filter(|(_, standing, _)| standing == "missing").collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn exported_definitions_can_be_imported_and_are_all_that_is_needed() {
    let node = Node::start().await;
    let vhost = node.fresh_vhost().await;
    let program = on(&vhost);
    let exported = program.run(&["topology", "export"]).exits(0).stdout;
    node.import_definitions(&exported).await;
    // A second time, as at each deploy.
    node.import_definitions(&exported).await;
    let found = findings(&program.run(&["topology", "check", "--json"]).exits(0));
    let others: Vec<_> = found.iter().filter(|(_, standing, _)| standing != "same").collect();
    assert!(
        matches!(&*others, [(name, standing, _)] if name.starts_with("events to") && standing == "unseen"),
        "{others:?}"
    );
    node.publish_to(vhost.name(), "events", "order.placed", json!({}), "{}").await;
    assert_eq!(node.queue_info(vhost.name(), "audit").await.ready, 1, "the binding is there");
}

/// A user who may publish and consume, and declare nothing: as the guide has it, with other queues.
async fn bound_user(vhost: &Vhost) -> String {
    let (node, user) = (shared_node(), format!("bound-{}", vhost.name()));
    node.create_user(&user, "secret").await;
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/topology.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let line = guide.lines().find(|line| line.contains("rabbitmqctl set_permissions")).unwrap();
    let [configure, write, read] = [1, 3, 5].map(|place| line.split('\'').nth(place).unwrap());
    assert_eq!(configure, "^$");
    // From RabbitMQ 4 on an exchange is shown only to who has some right to it.
    let read = read.replace("orders|emails", "trouble|audit|default|events");
    node.set_permissions(&user, vhost.name(), configure, write, &read).await;
    vhost.url().replace("guest:guest", &format!("{user}:secret"))
}

#[tokio::test]
async fn a_worker_that_may_not_declare_starts_retries_and_dead_letters_with_what_was_applied() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let url = bound_user(&vhost).await;
    let bound = Program::new()
        .with("WORKER_BROKER_URL", &url)
        .with("FIXTURE", "listens")
        .with("WORKER_TOPOLOGY", "check")
        .with("WORKER_QUEUES", "trouble,audit,default");
    let refused = bound.run(&["run"]).exits(3).says(&[
        "WORKER_TOPOLOGY is `check`, so nothing is declared",
        "queue `trouble` is missing",
        "queue `trouble_retry_5000` is missing",
        "queue `worker.delay.32` is missing",
        "exchange `events` is missing",
        "`fixture topology apply` declares them",
    ]);
    assert!(!refused.stderr.contains("`orders`"), "it does not serve that: {refused}");
    bound.run(&["topology", "apply"]).exits(69).says(&["access to queue", "refused"]);
    bound.run(&["enqueue", "ping"]).exits(69).says(&["queue `default_dlq` does not exist", "declares nothing"]);
    assert_eq!(node.list_queues(vhost.name()).await, []);

    // An administrator, with the same settings but for the user.
    let admin = on(&vhost).with("WORKER_TOPOLOGY", "check");
    admin.run(&["topology", "apply"]).exits(0);
    let before: Vec<_> = node.list_queues(vhost.name()).await.into_iter().map(|queue| queue.name).collect();
    bound
        .run(&["topology", "check"])
        .exits(0)
        .prints(&["what it was declared with is told only to who may configure it"]);

    let worker = bound.start(&["run"]);
    worker.stderr.wait_for("worker started");
    // One waits on a rung, one on the ladder, one is delayed; one is an event.
    bound.run(&["enqueue", "fail_twice", "message=on a rung", "--id", "rung"]).exits(0);
    bound.run(&["enqueue", "fail_soon", "message=on the ladder", "--id", "ladder"]).exits(0);
    bound.run(&["enqueue", "ping", "--in", "300ms"]).exits(0);
    node.publish_to(vhost.name(), "events", "order.placed", json!({}), "{}").await;
    let is_dead = async || {
        let dead = bound.run(&["dlq", "list", "--queue", "trouble", "--json"]).exits(0).json();
        let dead = dead["jobs"].as_array().unwrap().iter().filter(|job| job["attempts"] == 2).count();
        (dead == 2).then_some(())
    };
    eventually("both were tried twice and are dead", is_dead).await;
    eventually("the others are done", async || {
        let queues = node.list_queues(vhost.name()).await;
        let open = queues.iter().filter(|queue| !queue.name.ends_with("_dlq")).map(|queue| queue.ready + queue.unacked);
        (open.sum::<u64>() == 0).then_some(())
    })
    .await;
    worker.signal("TERM");
    let log = worker.wait().exits(0).stderr;
    assert!(!log.contains("declares nothing"), "nothing was missing: {log}");
    let after: Vec<_> = node.list_queues(vhost.name()).await.into_iter().map(|queue| queue.name).collect();
    assert_eq!(after, before, "nothing was made");
}

#[tokio::test]
async fn a_worker_makes_at_its_start_what_its_plan_says_and_so_all_that_trouble_needs() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let program = on(&vhost);
    let planned = program.run(&["topology", "show", "--queue", "trouble", "--format", "json"]).exits(0).json();
    let queues = planned["queues"].as_array().unwrap().iter();
    let at_start: BTreeSet<_> = queues
        .filter(|queue| queue["made"] == "at_start")
        .map(|queue| queue["name"].as_str().unwrap().to_owned())
        .collect();
    // A release waits a second or two, a porter puts back for four.
    assert!(["worker.delay.32", "worker.delay.1024", "worker.delay.4096"].iter().all(|name| at_start.contains(*name)));
    let worker = program.start(&["run", "--queues", "trouble"]);
    eventually("the queue is consumed", async || {
        let there = node.list_queues(vhost.name()).await;
        there.iter().any(|queue| queue.name == "trouble" && queue.consumers > 0).then_some(())
    })
    .await;
    let there: BTreeSet<_> = node.list_queues(vhost.name()).await.into_iter().map(|queue| queue.name).collect();
    assert_eq!(there, at_start);
    worker.signal("TERM");
    let log = worker.wait().exits(0).stderr;
    assert!(!log.contains("levels of the delay ladder"), "{log}");
}

#[tokio::test]
async fn a_retry_whose_rung_is_gone_takes_the_ladder() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let admin = on(&vhost);
    admin.run(&["topology", "apply", "--queue", "trouble"]).exits(0);
    let worker = admin.start(&["run", "--queues", "trouble", "--topology", "check"]);
    worker.stderr.wait_for("worker started");
    eventually("the queue is consumed", async || {
        (node.queue_info(vhost.name(), "trouble").await.consumers > 0).then_some(())
    })
    .await;
    for queue in node.list_queues(vhost.name()).await {
        if queue.name.starts_with("trouble_retry_") {
            node.delete_queue(vhost.name(), &queue.name).await;
        }
    }
    admin.run(&["enqueue", "fail_twice", "message=no rung"]).exits(0);
    worker.stderr.wait_for("job dead-lettered");
    worker.signal("TERM");
    worker.wait().exits(0);
    let rungs = node.list_queues(vhost.name()).await.into_iter().filter(|queue| queue.name.contains("_retry_"));
    assert_eq!(rungs.count(), 0, "none was made");
    assert_eq!(admin.run(&["dlq", "list", "--json"]).exits(0).json()["jobs"][0]["attempts"], 2);
}

/// What a comparison rests on: an argument of no kind of queue of ours, with a value that it cannot have, is not
/// looked at where there is a queue, and refused where there is none. So is one of an exchange, in any case.
#[tokio::test]
async fn a_declaration_that_only_compares_makes_nothing_on_this_server() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let connection = Connection::connect(vhost.url(), ConnectionProperties::default()).await.unwrap();
    let declare = async |name: &str, kind: &str, guarded: bool| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        if guarded {
            arguments.insert("x-max-age".into(), AMQPValue::LongString("never".into()));
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare(name.into(), options, arguments).await.map(drop).map_err(|error| error.to_string())
    };
    for kind in ["quorum", "classic"] {
        let refused = declare(kind, kind, true).await.unwrap_err();
        assert!(refused.contains("invalid arg"), "{refused}");
        assert!(node.list_queues(vhost.name()).await.iter().all(|queue| queue.name != kind));
        declare(kind, kind, false).await.unwrap();
        declare(kind, kind, true).await.unwrap();
    }
    let told = declare("quorum", "classic", true).await.unwrap_err();
    assert!(told.contains("inequivalent arg 'x-queue-type'"), "{told}");

    let exchange = async |guarded: bool| {
        let mut arguments = FieldTable::default();
        if guarded {
            arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(1));
        }
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let channel = connection.create_channel().await.unwrap();
        let declared = channel.exchange_declare("x".into(), ExchangeKind::Topic, options, arguments).await;
        declared.map_err(|error| error.to_string())
    };
    for _ in 0..2 {
        let refused = exchange(true).await.unwrap_err();
        assert!(refused.contains("invalid type"), "there is none, and none was made: {refused}");
    }
    exchange(false).await.unwrap();
    let told = exchange(true).await.unwrap_err();
    assert!(told.contains("inequivalent arg 'alternate-exchange'") && told.contains("current is none"), "{told}");
}
