//! The same commands on RabbitMQ, with nothing changed but the URL.

use tokio::runtime::{Builder, Runtime};
use worker_tests::{
    eventually::eventually,
    rabbit::{Vhost, shared_node, shared_vhost},
};

use crate::cli::program::Program;

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
fn the_commands_do_the_same_as_on_a_file() {
    let (program, _vhost) = on_rabbitmq();
    program.run(&["enqueue", "greet", "name=Ada"]).exits(0);
    program.run(&["enqueue", "reject", "message=no stock"]).exits(0);
    program.run(&["enqueue", "ping", "--in", "1h"]).exits(0);
    let queues = program.run(&["queues"]).exits(0);
    assert_eq!(queues.row("emails")[1..], ["1", "-", "-", "0", "0"], "{queues}");

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
    assert_eq!(program.run(&["queues"]).exits(0).row("trouble")[1..5], ["1", "-", "-", "0"]);
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
