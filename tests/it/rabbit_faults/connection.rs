//! Connections that end, in the ways in which they can.

use std::time::{Duration, Instant};

use worker_tests::{
    eventually::{eventually, eventually_within},
    rabbit::{Direction, Proxy, shared_node},
};

use super::scene::{LONG, Scene, produce};
use crate::system::crew::Mark;

#[tokio::test]
async fn connections_that_the_server_closes_are_made_again_and_nothing_is_lost() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let worker = scene.worker(&[]).await;
    let producing = produce(&crew.client, (0..1_000).map(|n| Mark { n, millis: 5 }));
    let closing = async {
        for round in 1..=2 {
            scene.wait_for(round * 200, "end").await;
            let closed = shared_node().close_connections_of(scene.vhost.name()).await;
            assert!(closed >= 2, "{closed} connections were closed");
            let (closed, before) = (Instant::now(), crew.count("end"));
            eventually_within(LONG, "the worker went on", || async { (crew.count("end") > before + 40).then_some(()) })
                .await;
            assert!(closed.elapsed() < Duration::from_secs(3), "{:?}\n{}", closed.elapsed(), worker.log());
        }
    };
    let (produced, ()) = tokio::join!(producing, closing);
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 1_000);
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - crew.ended().len();
    assert!(repeated <= 2 * 32 + produced.indeterminate, "{repeated} ran twice: {produced:?}");
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_of_a_frame_loses_nothing() {
    let proxy = Proxy::start(shared_node().amqp_port()).await;
    let scene = Scene::through(shared_node(), proxy.port(), |_| {}).await;
    let crew = &scene.crew;
    let _worker = scene.worker(&[]).await;
    let producing = produce(&crew.client, (0..1_000).map(|n| Mark { n, millis: 5 }));
    let cutting = async {
        for round in 1..=3 {
            scene.wait_for(round * 150, "end").await;
            // Frames under load are larger than what the proxy holds: one is torn.
            proxy.cut().await;
        }
    };
    let (produced, ()) = tokio::join!(producing, cutting);
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 1_000);
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - crew.ended().len();
    assert!(repeated <= 3 * 32 + produced.indeterminate, "{repeated} ran twice: {produced:?}");
}

#[tokio::test]
async fn a_way_that_falls_silent_is_noticed_within_two_heartbeats_and_taken_anew() {
    let proxy = Proxy::start(shared_node().amqp_port()).await;
    let scene = Scene::through(shared_node(), proxy.port(), |_| {}).await;
    let crew = &scene.crew;
    let worker = scene.worker(&[("WORKER_RABBITMQ_HEARTBEAT", "1s")]).await;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    scene.wait_for(1, "end").await;
    for direction in [Direction::ToClient, Direction::ToNode] {
        proxy.stall(direction);
    }
    let stalled = Instant::now();
    worker.said("no connection to RabbitMQ").await;
    let noticed = stalled.elapsed();
    // A sign of life may have been under way, and a busy machine takes its time.
    assert!(noticed < Duration::from_secs(4), "noticed after {noticed:?}");
    for direction in [Direction::ToClient, Direction::ToNode] {
        proxy.resume(direction);
    }
    crew.enqueue((1..20).map(|n| Mark { n, millis: 0 })).await;
    scene.wait_until_done().await;
    eventually("all ran", async || (crew.ended().len() == 20).then_some(())).await;
}
