//! A server that does not let us in, at the start or later.

use std::time::Instant;

use worker_core::broker::Reach;
use worker_tests::{
    eventually::{eventually, eventually_within},
    rabbit::shared_node,
};

use super::scene::{LONG, Scene, client};
use crate::system::crew::Mark;

const PASSWORD: &str = "hunter2-%E2%82%AC";

/// What a worker with this broker says before it gives up, and its exit code.
async fn refused(scene: &Scene<'_>, url: &str) -> (String, Option<i32>) {
    let mut worker = scene.crew.worker(&[("WORKER_BROKER_URL", url), ("WORKER_CONNECT_TIMEOUT", "2s")]);
    let asked = Instant::now();
    let status = worker.ended().await;
    assert!(asked.elapsed().as_secs() < 10, "after {:?}", asked.elapsed());
    let log = worker.log();
    assert!(!log.contains("hunter2"), "{log}");
    (log, status.code())
}

#[tokio::test]
async fn a_wrong_password_a_missing_vhost_and_a_dead_port_are_three_clear_errors() {
    let scene = Scene::new().await;
    let (port, vhost) = (shared_node().amqp_port(), scene.vhost.name());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    let (log, code) = refused(&scene, &format!("amqp://guest:{PASSWORD}@127.0.0.1:{port}/{vhost}")).await;
    assert!(log.contains("ACCESS_REFUSED") && log.contains(&port.to_string()), "{log}");
    assert_eq!(code, Some(69), "{log}");

    let (log, code) = refused(&scene, &format!("amqp://guest:guest@127.0.0.1:{port}/no-such-vhost")).await;
    assert!(log.contains("no-such-vhost"), "{log}");
    assert_eq!(code, Some(69), "{log}");

    let (log, code) = refused(&scene, &format!("amqp://guest:{PASSWORD}@127.0.0.1:{closed}/{vhost}")).await;
    assert!(log.contains("cannot be reached") && log.contains("refused"), "{log}");
    assert_eq!(code, Some(69), "{log}");
}

#[tokio::test]
async fn a_worker_whose_rights_are_revoked_says_so_and_goes_on_when_they_are_back() {
    let node = shared_node();
    let scene = Scene::new().await;
    let (crew, vhost) = (&scene.crew, scene.vhost.name());
    let user = format!("{vhost}-user");
    node.create_user(&user, "secret-of-theirs").await;
    node.set_permissions(&user, vhost, ".*", ".*", ".*").await;
    let url = format!("amqp://{user}:secret-of-theirs@127.0.0.1:{}/{vhost}", node.amqp_port());
    let worker = std::sync::Mutex::new(scene.worker(&[("WORKER_BROKER_URL", &url)]).await);
    let watching = client(node.amqp_port(), vhost, |options| {
        options.credentials = worker_core::brokers::rabbitmq::Credentials::new(user.clone(), "secret-of-theirs");
    })
    .await;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    scene.wait_for(1, "end").await;

    node.clear_permissions(&user, vhost).await;
    node.close_connections_of(vhost).await;
    let reach = || watching.broker().reach();
    let says_why = |reach| matches!(reach, Reach::Down { error } if error.contains("access") && error.contains(vhost));
    eventually("it is known to be down, and why", async || says_why(reach()).then_some(())).await;
    eventually_within(LONG, "the worker said so", || async {
        let log = worker.lock().unwrap().log();
        (log.matches("no connection to RabbitMQ").count() >= 3).then_some(())
    })
    .await;
    assert!(worker.lock().unwrap().is_running(), "no crash loop");
    crew.enqueue((1..20).map(|n| Mark { n, millis: 0 })).await;
    node.set_permissions(&user, vhost, ".*", ".*", ".*").await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 20);
    let log = worker.lock().unwrap().log();
    assert!(!log.contains("secret-of-theirs"), "{log}");
    // A pause of at least half a second between two tries.
    assert!(log.matches("no connection to RabbitMQ").count() < 30, "{log}");
}
