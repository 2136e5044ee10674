//! One environment that makes both sides connect.

use worker_tests::{
    eventually::eventually,
    rabbit::{Vhost, shared_node, shared_vhost},
};

use super::{empty, finish, tutorial};
use crate::cli::program::Program;

/// A user with a password that a URL would have to escape, and the variables that name it.
async fn environment(vhost: &Vhost) -> Vec<(&'static str, String)> {
    let (node, user, password) = (shared_node(), format!("shop-{}", vhost.name()), "p@ss/w:rd%");
    node.create_user(&user, password).await;
    node.set_permissions(&user, vhost.name(), ".*", ".*", ".*").await;
    vec![
        ("RABBITMQ_HOST", "127.0.0.1".into()),
        ("RABBITMQ_PORT", node.amqp_port().to_string()),
        ("RABBITMQ_USER", user),
        ("RABBITMQ_PASSWORD", password.into()),
        ("RABBITMQ_VHOST", vhost.name().into()),
        ("RABBITMQ_HEARTBEAT", "30".into()),
    ]
}

fn program(environment: &[(&str, String)]) -> Program {
    environment.iter().fold(Program::new(), |program, (name, value)| program.with(name, value))
}

async fn python(environment: &[(&'static str, String)], what: &str) -> Vec<String> {
    let mut python = tutorial("config.py", &[what]);
    python.envs(environment.iter().map(|(name, value)| (name, value)));
    finish(python).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_variables_bring_an_order_from_python_to_a_worker_here() {
    let vhost = shared_vhost();
    let environment = environment(&vhost).await;
    let program = program(&environment).with("RUST_LOG", "worker=debug");
    let running = program.start(&["run", "--queues", "orders"]);
    eventually("the worker consumes", async || {
        let queues = shared_node().list_queues(vhost.name()).await;
        queues.iter().any(|queue| queue.name == "orders" && queue.consumers > 0).then_some(())
    })
    .await;
    python(&environment, "publish").await;
    running.stderr.wait_for("job succeeded");
    running.signal("TERM");
    running.end().exits(0);
    empty(&vhost, "orders").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_variables_bring_a_job_from_here_to_python() {
    let vhost = shared_vhost();
    let environment = environment(&vhost).await;
    program(&environment).run(&["enqueue", "whole", "id=A-7", "amount=49.9"]).exits(0);
    let got = python(&environment, "consume").await;
    assert_eq!(got, [r#"{"id":"A-7","amount":49.9}"#]);
    empty(&vhost, "orders").await;
}
