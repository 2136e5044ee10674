//! Probes of a worker whose RabbitMQ is away, frozen, full or back: a node of the test's own.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use worker_core::{Client, Presence, QueueName, broker::Topology};
use worker_tests::{
    eventually::{eventually, eventually_blocking},
    rabbit::{Alarm, Node, shared_node, shared_vhost},
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

#[test]
fn a_frozen_node_is_told_within_the_bound_by_the_library_the_page_and_the_command() {
    runtime().block_on(async {
        let node = Node::start().await;
        // So long that nobody has noticed yet.
        let program = program(&node).with("WORKER_RABBITMQ_HEARTBEAT", "60s");
        let (running, site) = started(&program, &["--queues", "default"]);
        site.wait_until_ready();
        let client = Client::connect(&format!("{}?heartbeat=60", node.amqp_url())).await.unwrap();
        node.freeze();
        let asked = Instant::now();
        let health = client.health().queues(["default".parse().unwrap()]).within(Duration::from_secs(1)).await;
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
        assert!(!health.healthy && !health.answers, "{health:?}");
        assert_eq!(health.reasons, ["no answer from the broker within 1s"]);
        assert_eq!(health.queues[0].presence, Presence::Unknown);
        let asked = Instant::now();
        let page = site.get("/readyz?verbose");
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        assert_eq!(page.status, 503, "{page:?}");
        assert!(page.body.contains("[-]answering failed: no answer from the broker within 3s"), "{page:?}");
        let printed = program.run(&["health", "--timeout", "1s", "--json"]).exits(69);
        assert_eq!(printed.json()["broker"]["reachable"], false, "{printed}");
        node.thaw();
        eventually("it answers again", async || client.health().await.healthy.then_some(())).await;
        // Its connections are others.
        eventually_blocking("the page says so too", || site.status("/readyz?verbose") == 200);
        running.signal("TERM");
        running.wait().exits(0);
        client.close().await.unwrap();
    });
}

#[test]
fn a_queue_that_is_gone_is_told_and_not_made_by_telling() {
    let vhost = shared_vhost();
    let program = Program::new().with("WORKER_BROKER_URL", vhost.url()).with("WORKER_QUEUES", "slow,default");
    program.run(&["topology", "apply"]).exits(0);
    let (running, site) = started(&program, &["--topology", "check"]);
    site.wait_until_ready();
    program.run(&["health"]).exits(0).prints(&["queue slow\tok\t0 ready, 0 dead, 1 consumer"]);
    runtime().block_on(async {
        let node = shared_node();
        let client = Client::connect(vhost.url()).await.unwrap();
        client.declare(&Topology::queues(["waiting".parse().unwrap()])).await.unwrap();
        node.publish(vhost.name(), "waiting", json!({}), "{}").await;
        node.delete_queue(vhost.name(), "slow").await;
        let queues = ["slow", "waiting"].map(|name| name.parse::<QueueName>().unwrap());
        let health = client.health().queues(queues).await;
        assert_eq!((health.healthy, health.answers), (false, true));
        assert_eq!(health.reasons, ["queue `slow` does not exist"]);
        assert_eq!((health.queues[0].presence, &health.queues[0].stats), (Presence::Missing, &None));
        let stats = health.queues[1].stats.as_ref().unwrap();
        assert_eq!((stats.ready, stats.running, stats.consumers), (1, None, 0));
        let page = site.get("/readyz?verbose");
        assert_eq!(page.status, 503, "{page:?}");
        assert!(page.body.contains("[-]queue:slow failed: it does not exist"), "{page:?}");
        assert!(page.body.contains("[+]queue:default ok: 0 ready"), "{page:?}");
        let names = node.list_queues(vhost.name()).await.into_iter().map(|queue| queue.name);
        assert!(!names.into_iter().any(|name| name == "slow"), "nobody made it");
        client.close().await.unwrap();
    });
    program.run(&["health"]).exits(69).says(&["unhealthy: queue `slow` does not exist"]);
    // Somebody makes it, and the worker goes on.
    program.run(&["topology", "apply"]).exits(0).prints(&["queue\tslow\n"]);
    site.wait_until_ready();
    running.signal("TERM");
    running.wait().exits(0);
}
