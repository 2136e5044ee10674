//! Exchanges that are gone or forbidden, and many who need the same thing at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use worker_core::{
    Enqueue, EnqueueErrorKind, Registry, TokioClock,
    broker::Topology,
    brokers::rabbitmq::{RabbitOptions, SimulatedServer},
    prelude::*,
};
use worker_tests::{
    eventually::{eventually, eventually_within},
    rabbit::shared_node,
};

use super::scene::{LONG, QUEUE, Scene};
use crate::{bench::Running, system::crew::Mark};

const fn mark(n: u64) -> Mark {
    Mark { n, millis: 0 }
}

#[tokio::test]
async fn an_exchange_that_may_not_be_published_to_costs_other_enqueues_nothing_and_is_refused_from_then_on() {
    let scene = Scene::new().await;
    let client = &scene.crew.client;
    shared_node().declare_internal_exchange(scene.vhost.name(), "forbidden").await;
    client.enqueue(mark(0)).await.unwrap();
    let publish = async || client.enqueue(Enqueue::new(mark(999)).via("forbidden", "key")).await.unwrap_err();
    let forbidden = async {
        let first = publish().await;
        assert_eq!(first.kind(), EnqueueErrorKind::Indeterminate, "{first}");
        for _ in 0..20 {
            let error = publish().await;
            assert_eq!(error.kind(), EnqueueErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("exchange `forbidden` may not be published to"), "{error}");
        }
    };
    let enqueues = join_all((1..500).map(|n| async move {
        sleep(Duration::from_millis(n / 5)).await;
        client.enqueue(mark(n)).await.unwrap();
    }));
    tokio::join!(forbidden, enqueues);
    assert_eq!(scene.depth(QUEUE).await, 500, "none was lost, and none is there twice");
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "parcels", key = "parcel.{state}")]
struct Parcel {
    state: String,
}

#[job(queue = "parcels_seen", on = "parcels", bind = ["parcel.*"])]
async fn see(Payload(_parcel): Payload<Parcel>, seen: State<AtomicU64>) {
    seen.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn a_queue_of_events_that_is_deleted_is_bound_again_when_it_is_made_again() {
    let scene = Scene::new().await;
    let (client, seen) = (&scene.crew.client, Arc::new(AtomicU64::new(0)));
    let worker = Worker::builder(client).registry(Registry::new().with::<see>()).state_arc(Arc::clone(&seen));
    let running = Running::start(worker);
    let parcel = || Publish::new(Parcel { state: "sent".into() }).mandatory();
    eventually("the worker is bound", async || client.publish(parcel()).await.ok().map(drop)).await;
    eventually("it is seen", async || (seen.load(Ordering::SeqCst) == 1).then_some(())).await;
    shared_node().delete_queue(scene.vhost.name(), "parcels_seen").await;
    eventually_within(LONG, "it is bound again", async || client.publish(parcel()).await.ok().map(drop)).await;
    eventually("it is seen, too", async || (seen.load(Ordering::SeqCst) == 2).then_some(())).await;
    running.stop().await;
}

/// Another process that uses a simulated server.
fn process_of(server: &SimulatedServer) -> Client {
    let (broker, _) = server.process(&RabbitOptions::default(), Arc::new(TokioClock::starting_now()));
    Client::new(Arc::new(broker))
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_events_that_another_has_made_again_while_we_were_away_is_bound_again() {
    let server = SimulatedServer::new("3.10.8", 0);
    let (client, other, seen) = (process_of(&server), process_of(&server), Arc::new(AtomicU64::new(0)));
    let worker = Worker::builder(&client).registry(Registry::new().with::<see>()).state_arc(Arc::clone(&seen));
    let running = Running::start(worker);
    let parcel = || Publish::new(Parcel { state: "sent".into() }).mandatory();
    eventually("the worker is bound", async || other.publish(parcel()).await.ok().map(drop)).await;
    server.kill();
    server.delete_queue("parcels_seen");
    server.start();
    // It takes no time here, and the worker pauses before it connects again.
    process_of(&server).declare(&Topology::queues(["parcels_seen".parse().unwrap()])).await.unwrap();
    eventually("it is bound again", async || other.publish(parcel()).await.ok().map(drop)).await;
    eventually("both are seen", async || (seen.load(Ordering::SeqCst) == 2).then_some(())).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_events_that_is_deleted_at_any_moment_of_its_being_mended_ends_no_worker() {
    let server = SimulatedServer::new("4.3.6", 1);
    let (client, other, seen) = (process_of(&server), process_of(&server), Arc::new(AtomicU64::new(0)));
    let worker = Worker::builder(&client).registry(Registry::new().with::<see>()).state_arc(Arc::clone(&seen));
    let running = Running::start(worker);
    let parcel = || Publish::new(Parcel { state: "sent".into() }).mandatory();
    eventually("the worker is bound", async || other.publish(parcel()).await.ok().map(drop)).await;
    // More often than an answer takes, so that it is gone after each step of whoever mends it.
    server.slow(1..=3, 0..=1);
    for _ in 0..20_000 {
        server.delete_queue("parcels_seen");
        sleep(Duration::from_millis(1)).await;
    }
    let before = seen.load(Ordering::SeqCst);
    eventually("it is bound again", async || other.publish(parcel()).await.ok().map(drop)).await;
    eventually("it is seen", async || (seen.load(Ordering::SeqCst) > before).then_some(())).await;
    running.stop().await;
}

#[tokio::test]
async fn thousands_who_are_the_first_to_need_an_exchange_or_a_delay_all_get_it() {
    let scene = Scene::new().await;
    let client = &scene.crew.client;
    shared_node().declare_exchange(scene.vhost.name(), "events", "fanout").await;
    client.enqueue(mark(0)).await.unwrap();
    let via = (0..3_000).map(|n| client.enqueue(Enqueue::new(mark(n)).via("events", "key")));
    // Nobody is bound to it, and a job has to go somewhere.
    for answer in join_all(via).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), EnqueueErrorKind::Unroutable, "{error}");
    }
    let delayed = (1..3_000).map(|n| client.enqueue(Enqueue::new(mark(n)).delay(Duration::from_secs(3_600))));
    for answer in join_all(delayed).await {
        answer.unwrap();
    }
    let published = join_all((0..3_000).map(|_| client.publish(Parcel { state: "lost".into() }))).await;
    assert!(published.iter().all(Result::is_ok), "{:?}", published.iter().find(|answer| answer.is_err()));
}
