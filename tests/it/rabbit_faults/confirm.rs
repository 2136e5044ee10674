//! A confirm that never comes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use worker_core::{
    Enqueue, EnqueueErrorKind, Registry, TokioClock,
    broker::Topology,
    brokers::rabbitmq::{RabbitOptions, SimulatedServer},
    exchange::{Binding, ExchangeKind},
    prelude::*,
};
use worker_tests::rabbit::{Direction, Proxy, shared_node};

use super::scene::Scene;
use crate::{bench::Running, system::crew::Mark};

#[tokio::test]
async fn without_its_confirm_a_job_may_or_may_not_be_enqueued_and_is_tried_again_as_the_same() {
    let proxy = Proxy::start(shared_node().amqp_port()).await;
    let choose = |options: &mut RabbitOptions| {
        options.confirm_timeout = Duration::from_secs(1);
    };
    let scene = Scene::through(shared_node(), proxy.port(), choose).await;
    let crew = &scene.crew;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;

    proxy.stall(Direction::ToClient);
    let asked = Instant::now();
    let error = crew.client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err();
    let elapsed = asked.elapsed();
    assert_eq!(error.kind(), EnqueueErrorKind::Indeterminate, "{error}");
    assert!((900..2_500).contains(&elapsed.as_millis()), "after {elapsed:?}");
    proxy.resume(Direction::ToClient);
    let same = error.into_job().unwrap();
    let id = same.id().cloned().unwrap();
    assert_eq!(crew.client.enqueue(same).await.unwrap().id, id, "the same job");
    // And all is as before.
    crew.enqueue((2..200).map(|n| Mark { n, millis: 0 })).await;
    let _worker = scene.worker(&[]).await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 200);
    let starts = crew.starts();
    assert!(starts.iter().all(|(n, starts)| *starts == 1 || *n == 1), "only what was unknown ran twice");
    assert_eq!(starts[&1], 2, "the node had taken it");
}

#[tokio::test(start_paused = true)]
async fn a_return_that_comes_too_late_says_nothing_of_the_next_try_under_the_same_id() {
    let server = SimulatedServer::new("3.10.8", 0);
    let (client, other) = (process_of(&server), process_of(&server));
    client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
    server.slow(0..=0, 1_000..=1_000);
    // Confirmed meanwhile, so that the connection is not left.
    let confirmed = client.enqueue(Mark { n: 3, millis: 0 });
    let returned = async {
        sleep(Duration::from_millis(10)).await;
        server.delete_queue("crew");
        server.slow(3_000..=3_000, 0..=0);
        client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err()
    };
    let (confirmed, error) = tokio::join!(confirmed, returned);
    confirmed.unwrap();
    assert_eq!(error.kind(), EnqueueErrorKind::Indeterminate, "{error}");
    sleep(Duration::from_secs(10)).await;
    server.slow(0..=0, 0..=0);
    other.enqueue(Mark { n: 2, millis: 0 }).await.unwrap();
    client.enqueue(error.into_job().unwrap()).await.unwrap();
    assert_eq!(server.depths()["crew"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_no_confirm_comes_any_more_is_left_for_a_new_one() {
    let server = SimulatedServer::new("3.10.8", 0);
    let (broker, _) = server.process(&RabbitOptions::default(), Arc::new(TokioClock::starting_now()));
    let client = Client::new(Arc::new(broker));
    client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
    let connections = server.connections();
    server.silence(true);
    let asked = tokio::time::Instant::now();
    let error = client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Indeterminate, "{error}");
    // From now on the server is well, and the old connection is not.
    server.silence(false);
    client.enqueue(error.into_job().unwrap()).await.unwrap();
    let elapsed = asked.elapsed();
    assert!((10_000..10_200).contains(&elapsed.as_millis()), "after {elapsed:?}");
    assert_eq!(server.connections(), connections + 1);
}

#[tokio::test(start_paused = true)]
async fn who_publishes_with_little_patience_does_not_leave_a_server_that_is_slow_for_some_seconds() {
    let server = SimulatedServer::new("3.10.8", 0);
    let client = process_of(&server);
    client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
    let connections = server.connections();
    server.slow(0..=0, 7_000..=7_000);
    let error = client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Indeterminate, "{error}");
    sleep(Duration::from_secs(6)).await;
    server.slow(0..=0, 0..=0);
    client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap();
    assert_eq!(server.connections(), connections);
}

#[tokio::test(start_paused = true)]
async fn one_confirm_that_does_not_come_costs_its_neighbours_no_connection() {
    let server = SimulatedServer::new("3.10.8", 0);
    let client = process_of(&server);
    client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
    let connections = server.connections();
    server.slow(0..=0, 60_000..=60_000);
    let unconfirmed = client.enqueue(Mark { n: 1, millis: 0 });
    let confirmed = async {
        sleep(Duration::from_secs(1)).await;
        server.slow(0..=0, 0..=0);
        client.enqueue(Mark { n: 2, millis: 0 }).await
    };
    let (unconfirmed, confirmed) = tokio::join!(unconfirmed, confirmed);
    confirmed.unwrap();
    assert_eq!(unconfirmed.unwrap_err().kind(), EnqueueErrorKind::Indeterminate);
    client.enqueue(Mark { n: 3, millis: 0 }).await.unwrap();
    assert_eq!(server.connections(), connections);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_answer_when_a_channel_is_to_be_opened_is_left_for_a_new_one() {
    let server = SimulatedServer::new("3.10.8", 0);
    let client = process_of(&server);
    let binding = Binding::by_key("marks".parse().unwrap(), "crew".parse().unwrap(), "");
    let topology = Topology::queues(["crew".parse().unwrap()]);
    let topology = topology.exchange("marks".parse().unwrap(), ExchangeKind::Fanout).bind(binding);
    client.declare(&topology).await.unwrap();
    client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
    let connections = server.connections();
    // What goes to exchanges has a channel of its own, which is opened now, on the same connection.
    server.slow(11_000..=11_000, 0..=0);
    let through = |n| Enqueue::new(Mark { n, millis: 0 }).via("marks", "");
    let error = client.enqueue(through(1)).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unavailable, "nothing was sent: {error}");
    sleep(Duration::from_millis(8_500)).await;
    // The 10 s that an answer has are over. From now on the server is well.
    server.slow(0..=0, 0..=0);
    sleep(Duration::from_secs(3)).await;
    client.enqueue(through(2)).await.unwrap();
    assert_eq!(server.connections(), connections + 1);
    assert_eq!(server.depths()["crew"], 2);
}

#[job(queue = "slow_calls")]
async fn think() -> JobResult<u64> {
    sleep(Duration::from_secs(30)).await;
    Ok(42)
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_reply_does_not_lose_it_with_a_connection_that_is_left() {
    let server = SimulatedServer::new("3.10.8", 0);
    let (client, other) = (process_of(&server), process_of(&server));
    let running = Running::start(Worker::builder(&other).registry(Registry::new().with::<think>()));
    let call = async { client.call(think::new()).timeout("60s").await };
    let others = async {
        sleep(Duration::from_secs(5)).await;
        client.enqueue(Mark { n: 0, millis: 0 }).await.unwrap();
        let connections = server.connections();
        server.silence(true);
        drop(client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err());
        sleep(Duration::from_secs(12)).await;
        server.silence(false);
        client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap();
        assert!(server.connections() > connections, "the one that confirmed nothing was left");
    };
    let (reply, ()) = tokio::join!(call, others);
    assert_eq!(reply.unwrap(), 42);
    running.stop().await;
}

/// One that waits for a confirm for 2 s.
fn process_of(server: &SimulatedServer) -> Client {
    let mut options = RabbitOptions::default();
    options.confirm_timeout = Duration::from_secs(2);
    let (broker, _) = server.process(&options, Arc::new(TokioClock::starting_now()));
    Client::new(Arc::new(broker))
}
