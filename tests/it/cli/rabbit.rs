//! The same commands on RabbitMQ, with nothing changed but the URL.

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use worker_tests::{
    eventually::{eventually, eventually_blocking},
    rabbit::{Vhost, shared_node, shared_vhost},
};

use crate::cli::program::Program;

/// Innocents in each queue.
const COPIES: usize = 4;

/// Not a word that occurs elsewhere.
const PASSWORD: &str = "Zq7-secret-xK9";

fn on_rabbitmq() -> (Program, Vhost) {
    let vhost = shared_vhost();
    (Program::new().with("WORKER_BROKER_URL", vhost.url()), vhost)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn dead_letters_are_found_where_a_job_says_they_are() {
    let (program, vhost) = on_rabbitmq();
    let worker = program.start(&["run", "--queues", "calculator"]);
    program.run(&["enqueue", "add", "a=1", "b=2"]).exits(0);
    let undecodable = shared_node().publish(vhost.name(), "calculator", json!({"type": "add"}), "{}");
    runtime().block_on(undecodable);
    let dead = || program.run(&["queues"]).exits(0).row("calculator")[5].clone();
    runtime().block_on(eventually("the job is dead", async || (dead() == "1").then_some(())));
    worker.signal("TERM");
    worker.wait().exits(0);
    program.run(&["dlq", "list"]).exits(0).prints(&["add", "calculator", "undecodable"]);
    program.run(&["dlq", "drop", "--all", "--yes"]).exits(0).says(&["1"]);
    assert_eq!(dead(), "0");
    let queues = runtime().block_on(shared_node().list_queues(vhost.name()));
    let names: Vec<_> = queues.iter().map(|queue| queue.name.as_str()).collect();
    assert!(names.contains(&"calculator_dead") && !names.contains(&"calculator_dlq"), "{names:?}");
}

#[test]
fn the_commands_do_the_same_as_on_a_file() {
    let (program, _vhost) = on_rabbitmq();
    program.run(&["enqueue", "greet", "name=Ada"]).exits(0);
    program.run(&["enqueue", "reject", "message=no stock"]).exits(0);
    program.run(&["enqueue", "ping", "--in", "1h"]).exits(0);
    let queues = program.run(&["queues"]).exits(0);
    assert_eq!(queues.row("emails")[1..], ["1", "-", "-", "0", "0", "0"], "{queues}");

    let worker = program.start(&["run"]);
    let buried = || program.run(&["dlq", "list", "--json"]).exits(0).json();
    let is_dead = async || buried()["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty()).then_some(());
    runtime().block_on(eventually("the job is dead", is_dead));
    worker.signal("TERM");
    worker.wait().exits(0);

    let listed = program.run(&["dlq", "list"]).exits(0);
    listed.prints(&["reject", "discarded", "no stock"]);
    program.run(&["dlq", "replay", "--all", "--dry-run"]).exits(0).says(&["1 job"]);
    program.run(&["dlq", "replay", "--all", "--yes"]).exits(0).says(&["1"]);
    assert_eq!(buried()["jobs"].as_array().map(Vec::len), Some(0));
    assert_eq!(program.run(&["queues"]).exits(0).row("trouble")[1..6], ["1", "-", "-", "0", "0"]);
    let health = program.run(&["health", "--json"]);
    let server = health.json()["broker"]["capabilities"]["server"].to_string();
    assert!(server.contains("RabbitMQ"), "{server}");
}

#[test]
fn no_password_is_logged_however_much_is_asked_for() {
    let vhost = shared_vhost();
    let (node, user) = (shared_node(), format!("logged-{}", vhost.name()));
    runtime().block_on(async {
        node.create_user(&user, PASSWORD).await;
        node.set_permissions(&user, vhost.name(), ".*", ".*", ".*").await;
    });
    let url = format!("amqp://{user}:{PASSWORD}@127.0.0.1:{}/{}", node.amqp_port(), vhost.name());
    let program = Program::new().with("WORKER_BROKER_URL", &url).with("RUST_LOG", "trace,lapin::io_loop=trace");
    let printed = program.run(&["enqueue", "echo", "text=payload-8d1f"]).exits(0);
    let all = printed.to_string();
    assert!(!all.contains(PASSWORD), "{all}");
    assert!(!all.contains("payload-8d1f"), "{all}");

    let program = Program::new().with("WORKER_BROKER_URL", &url.replace(PASSWORD, "Wrong-Zq7-secret"));
    let refused = program.run(&["queues"]).exits(69).says(&["RabbitMQ", "ACCESS_REFUSED"]);
    assert!(!refused.to_string().contains("Zq7-secret"), "{refused}");
}

#[test]
fn a_queue_that_is_named_is_shown_and_its_dead_letters_are_found() {
    let (program, vhost) = on_rabbitmq();
    let quorum = serde_json::json!({"x-queue-type": "quorum"});
    runtime().block_on(async {
        for queue in ["audit", "audit_dlq"] {
            shared_node().declare_queue(vhost.name(), queue, quorum.clone()).await;
        }
        shared_node().publish(vhost.name(), "audit_dlq", serde_json::json!({"message_id": "lost"}), "{}").await;
    });
    let unseen = program.run(&["queues", "--json"]).exits(0).json();
    assert!(!unseen.to_string().contains("audit"), "AMQP lists no queues: {unseen}");
    let program = program.with("WORKER_QUEUES", "emails,audit");
    assert_eq!(program.run(&["queues"]).exits(0).row("audit")[1..], ["0", "-", "-", "0", "1", "0"]);
    program.run(&["dlq", "list"]).exits(0).prints(&["lost"]);
}

#[test]
fn a_job_that_no_worker_knows_is_warned_of() {
    let (program, vhost) = on_rabbitmq();
    let worker = program.start(&["run", "--queues", "emails"]);
    let node = shared_node();
    runtime().block_on(async {
        eventually("the queue is consumed", async || {
            let found = node.list_queues(vhost.name()).await;
            found.iter().any(|info| info.name == "emails" && info.consumers > 0).then_some(())
        })
        .await;
        node.publish(vhost.name(), "emails", serde_json::json!({"type": "gret"}), "{}").await;
    });
    worker.stderr.wait_for("a job is not known here");
    worker.signal("TERM");
    worker.wait().exits(0).says(&["no worker knows a job called `gret`"]);
}

/// One killer, and innocents in four other queues whose worker had fetched them: while the killer runs no
/// other suspect is in the hands of its process, where it would be blamed, too.
#[test]
fn a_killer_takes_no_innocent_of_another_queue_with_it() {
    let (program, vhost) = on_rabbitmq();
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let worker = program.start(&["run", "--concurrency", "1", "--prefetch", "20"]);
    worker.stdout.wait_for("the job runs");
    let innocents: [&[&str]; 4] =
        [&["ping"], &["add", "a=1", "b=2"], &["greet", "name=Ada"], &["whole", "id=1", "amount=2.5"]];
    for innocent in innocents.repeat(COPIES) {
        program.run(&[&["enqueue"], innocent].concat()).exits(0);
    }
    let queues = ["default", "calculator", "emails", "orders"];
    runtime().block_on(eventually("the innocents are fetched", async || {
        let found = shared_node().list_queues(vhost.name()).await;
        let fetched = |queue: &str| found.iter().any(|info| info.name == queue && info.unacked == COPIES as u64);
        queues.iter().all(|queue| fetched(queue)).then_some(())
    }));
    worker.signal("KILL");
    drop(worker.wait());
    let dead = || program.run(&["dlq", "list", "--json"]).exits(0).json()["jobs"].as_array().unwrap().clone();
    for _ in 0..10 {
        let worker = program.start(&["run", "--concurrency", "16"]);
        eventually_blocking("the killer runs or is dead", || {
            worker.stdout.so_far().contains("the job runs") || !dead().is_empty()
        });
        let convicted = !dead().is_empty();
        for _ in 0..10 {
            let found = runtime().block_on(shared_node().list_queues(vhost.name()));
            let taken = found.iter().filter(|info| info.name.ends_with("_suspects") && info.unacked > 0);
            let taken: Vec<_> = taken.map(|info| &*info.name).collect();
            assert!(convicted || taken.is_empty() || taken == ["slow_suspects"], "{taken:?} while the killer runs");
        }
        if convicted {
            eventually_blocking("the innocents are done", || {
                let stats = program.run(&["queues", "--json"]).exits(0).json();
                stats["queues"].as_array().unwrap().iter().all(|queue| queue["ready"] == 0)
            });
        }
        worker.signal(if convicted { "TERM" } else { "KILL" });
        drop(worker.wait());
        if convicted {
            let names: Vec<_> = dead().iter().map(|dead| dead["job"].as_str().unwrap().to_owned()).collect();
            assert_eq!(names, ["wait"]);
            return;
        }
    }
    panic!("the killer was never convicted");
}
