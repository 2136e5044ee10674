//! What a worker consumes is taken from under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use worker_core::{
    EnqueueErrorKind, FailureKind, Registry, TokioClock,
    broker::{Page, Selection},
    brokers::rabbitmq::{RabbitOptions, SimulatedServer},
    prelude::*,
};
use worker_tests::{eventually::eventually_within, rabbit::shared_node};

use super::scene::{LONG, QUEUE, Scene, again, victim};
use crate::{bench::Running, system::crew::Mark};

#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_and_consumed_again_within_two_seconds() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let worker = scene.worker(&[]).await;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    scene.wait_for(1, "end").await;
    for deleted in [QUEUE, QUEUE] {
        shared_node().delete_queue(scene.vhost.name(), deleted).await;
        let since = Instant::now();
        eventually_within(LONG, format!("{deleted} was consumed again"), || async {
            let consumers = shared_node().list_consumers(scene.vhost.name()).await;
            consumers.iter().any(|consumer| consumer.queue == deleted).then_some(())
        })
        .await;
        assert!(since.elapsed() < Duration::from_secs(2), "after {:?}:\n{}", since.elapsed(), worker.log());
    }
    // The suspects' queue is looked into now and then; what runs meanwhile is not concerned.
    crew.enqueue([Mark { n: 1_000, millis: 8_000 }]).await;
    scene.wait_for(2, "start").await;
    shared_node().delete_queue(scene.vhost.name(), "crew_suspects").await;
    worker.said("it is declared again").await;
    crew.enqueue((1..100).map(|n| Mark { n, millis: 0 })).await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 101);
    assert_eq!(crew.count("start"), 101, "nothing ran twice");
}

#[tokio::test]
async fn a_producer_whose_queue_is_deleted_is_told_and_has_it_back_when_it_tries_again() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    crew.enqueue([Mark { n: 0, millis: 0 }]).await;
    shared_node().delete_queue(scene.vhost.name(), QUEUE).await;
    let error = crew.client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unroutable, "{error}");
    crew.client.enqueue(again(error)).await.unwrap();
    assert_eq!(scene.depth(QUEUE).await, 1);
}

#[tokio::test]
async fn a_job_that_outlasts_the_servers_patience_is_not_lost_and_the_worker_goes_on() {
    let victim = victim().await;
    victim.node.set_consumer_timeout(Duration::from_secs(2)).await;
    let scene = Scene::on(victim.node).await;
    let crew = &scene.crew;
    let worker = scene.worker(&[]).await;
    crew.enqueue([Mark { n: 1, millis: 6_000 }]).await;
    scene.wait_for(1, "start").await;
    crew.enqueue((10..60).map(|n| Mark { n, millis: 50 })).await;
    if victim.node.version().await >= (4, 3) {
        // The worker has told the server how long its jobs may take.
        scene.wait_until_done().await;
        assert_eq!((crew.ended().len(), crew.count("start")), (51, 51), "{}", worker.log());
        return;
    }
    worker.said("deliveries were lost").await;
    // It runs again where it can be seen that it does, and the node has its patience back for it.
    victim.node.set_consumer_timeout(Duration::from_secs(1_800)).await;
    victim.node.close_connections_of(scene.vhost.name()).await;
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len(), 51, "{}", worker.log());
    assert_eq!(scene.dead().await, 0);
}

#[job(queue = "there")]
async fn stay() {}

#[job(queue = "gone")]
async fn go(gone: State<AtomicU64>) {
    gone.fetch_add(1, Ordering::SeqCst);
}

/// A server whose queue `gone` is deleted while a job of it waits for its time, and a worker that carries it there.
async fn deleted_before_it_is_due() -> (SimulatedServer, Client, Running) {
    let server = SimulatedServer::new("3.10.8", 0);
    let client = process_of(&server);
    let running = Running::start(Worker::builder(&client).registry(Registry::new().with::<stay>()));
    client.enqueue(go::new().delay(seconds(20))).await.unwrap();
    server.delete_queue("gone");
    (server, client, running)
}

fn process_of(server: &SimulatedServer) -> Client {
    let (broker, _) = server.process(&RabbitOptions::default(), Arc::new(TokioClock::starting_now()));
    Client::new(Arc::new(broker))
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_whose_queue_is_made_again_soon_after_it_was_due_runs() {
    let (server, client, running) = deleted_before_it_is_due().await;
    sleep(seconds(22)).await;
    let runs = Arc::new(AtomicU64::new(0));
    let other = process_of(&server);
    let worker = Worker::builder(&other).registry(Registry::new().with::<go>()).state_arc(Arc::clone(&runs));
    let there_again = Running::start(worker);
    sleep(seconds(10)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1, "{:?}", server.depths());
    assert_eq!(server.depths().get("gone_dlq").copied().unwrap_or(0), 0);
    there_again.stop().await;
    running.stop().await;
    client.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_whose_queue_stays_gone_is_a_dead_letter_that_says_so() {
    let (server, client, running) = deleted_before_it_is_due().await;
    sleep(seconds(22)).await;
    assert_eq!(server.depths().get("gone_dlq").copied().unwrap_or(0), 0, "it may be made again yet");
    sleep(seconds(20)).await;
    assert_eq!(server.depths()["gone_dlq"], 1);
    let mut selection = Selection::default();
    selection.queues.push("gone".parse().unwrap());
    let dead = client.broker().inspector().unwrap().dead(&selection, Page::first(10)).await.unwrap();
    assert_eq!(dead.jobs[0].failure.kind, FailureKind::Unroutable);
    running.stop().await;
}
