//! Probes of a worker whose RabbitMQ is away, frozen, full or back: a node of the test's own.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use worker_tests::{
    eventually::eventually_blocking,
    rabbit::{Alarm, Node},
};

use super::{
    program::Program,
    site::{Site, started},
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A program that gives a node time to start, and notices quickly that it is frozen.
fn program(node: &Node) -> Program {
    Program::new()
        .with("WORKER_BROKER_URL", &node.amqp_url())
        .with("WORKER_CONNECT_TIMEOUT", "2m")
        .with("WORKER_RABBITMQ_HEARTBEAT", "1s")
}

#[track_caller]
fn wait_until_unready(site: Site, why: &str) {
    eventually_blocking(format!("the worker is not ready, for {why}"), || site.get("/readyz").body.contains(why));
    assert_eq!(site.probes(), [200, 503, 200], "it lives, and it has been started");
}

#[test]
fn a_worker_that_starts_before_its_node_lives_and_is_ready_once_both_are_there() {
    runtime().block_on(async {
        let node = Node::start().await;
        node.kill();
        let (running, site) = started(&program(&node), &[]);
        running.stderr.wait_for("RabbitMQ cannot be reached; trying again");
        assert_eq!(site.probes(), [200, 503, 503]);
        node.restart().await;
        site.wait_until_ready();
        assert_eq!(site.probes(), [200, 200, 200]);
        running.signal("TERM");
        running.wait().exits(0);
    });
}

#[test]
fn a_node_that_dies_or_freezes_makes_the_worker_unready_until_it_is_back_and_kills_nobody() {
    runtime().block_on(async {
        let node = Node::start().await;
        let (running, site) = started(&program(&node), &[]);
        site.wait_until_ready();
        node.keep_new_queues().await;
        node.kill();
        wait_until_unready(site, "[-]connected failed: RabbitMQ at 127.0.0.1");
        node.restart().await;
        site.wait_until_ready();
        node.freeze();
        wait_until_unready(site, "[-]connected failed");
        node.thaw();
        site.wait_until_ready();
        running.signal("TERM");
        running.wait().exits(0);
    });
}

#[test]
fn a_node_that_takes_no_messages_makes_the_worker_unready_with_the_reason() {
    runtime().block_on(async {
        let node = Node::start().await;
        let program = program(&node);
        program.run(&["enqueue", "ping"]).exits(0);
        let (running, site) = started(&program, &[]);
        site.wait_until_ready();
        node.set_alarm(Alarm::Memory).await;
        // The server tells whoever publishes: here, a job that becomes a dead letter.
        node.publish("/", "trouble", json!({"type": "reject"}), r#"{"message":"no stock"}"#).await;
        wait_until_unready(site, "[-]unblocked failed: low on memory");
        let why = site.get("/readyz?verbose").body;
        assert!(why.contains("[+]connected ok") && why.contains("[+]consuming:trouble ok"), "{why}");
        node.clear_alarm(Alarm::Memory).await;
        site.wait_until_ready();
        running.signal("TERM");
        running.wait().exits(0);
    });
}

#[test]
fn a_worker_that_drains_while_its_node_is_away_says_that_it_drains_and_ends_in_time() {
    runtime().block_on(async {
        let node = Node::start().await;
        let program = program(&node).with("WORKER_SHUTDOWN_GRACE", "3s");
        program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
        let (running, site) = started(&program, &[]);
        running.stdout.wait_for("the job runs");
        site.wait_until_ready();
        node.kill();
        wait_until_unready(site, "[-]connected failed");
        running.signal("TERM");
        let asked = Instant::now();
        wait_until_unready(site, "[-]serving failed: draining");
        let printed = running.wait();
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}: {printed}", asked.elapsed());
    });
}
