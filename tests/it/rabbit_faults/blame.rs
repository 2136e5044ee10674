//! Who is blamed for a death, and who is not.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::time::{Instant, sleep};
use worker_core::{
    Clock, FailureKind, Registry, TokioClock,
    broker::Topology,
    brokers::rabbitmq::{RabbitOptions, SimulatedServer},
    envelope::Envelope,
    prelude::*,
};
use worker_tests::{eventually::eventually_within, rabbit::shared_node};

use super::scene::{LONG, QUEUE, Scene};
use crate::{
    bench::Running,
    system::crew::{Die, Mark},
};

/// Runs workers one after the other, each until it dies, as a service manager would; until `done`.
async fn keep_running(scene: &Scene<'_>, settings: &[(&str, &str)], done: impl AsyncFn() -> bool) {
    for _ in 0..20 {
        let worker = Mutex::new(scene.crew.worker(settings));
        let died = eventually_within(LONG, "the worker died or all was done", || async {
            if !worker.lock().unwrap().is_running() {
                return Some(true);
            }
            done().await.then_some(false)
        })
        .await;
        if !died {
            return;
        }
    }
    panic!("still dying after 20 starts");
}

#[tokio::test]
async fn five_killers_in_one_queue_are_all_convicted_and_none_of_their_neighbours() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    for killer in 0..5 {
        crew.enqueue((0..60).map(|n| Mark { n: killer * 60 + n, millis: 20 })).await;
        crew.enqueue([Die { n: 9_000 + killer }]).await;
    }
    let done = async || crew.ended().len() == 300 && scene.dead().await == 5;
    keep_running(&scene, &[("WORKER_PREFETCH", "500")], done).await;
    let dead = crew.dead().await;
    assert_eq!(dead.len(), 5, "no neighbour is blamed: {dead:?}");
    for killer in &dead {
        assert_eq!((killer.failure.kind, killer.starts), (FailureKind::Crashed, 3), "{killer:?}");
    }
    // Of those that a dead worker held, who had not begun is not told apart: at most one start is only counted.
    let starts = crew.starts();
    assert!((9_000..9_005).all(|n| (2..=3).contains(&starts[&n])), "{starts:?}");
}

#[tokio::test]
async fn a_suspect_is_not_blamed_for_the_killers_that_come_after_it() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    // Long enough for a killer to come in the middle of it, at its first start and once more.
    crew.enqueue([Mark { n: 1, millis: 1_500 }]).await;
    for killer in 0..4 {
        crew.enqueue([Die { n: 9_000 + killer }]).await;
        let worker = Mutex::new(crew.worker(&[("WORKER_CONCURRENCY", "2")]));
        eventually_within(LONG, "the worker died", || async {
            let is_gone = !worker.lock().unwrap().is_running() || scene.dead().await > 0;
            is_gone.then_some(())
        })
        .await;
    }
    let done = async || crew.ended().contains(&1) && scene.dead().await == 4;
    keep_running(&scene, &[], done).await;
    let dead = crew.dead().await;
    assert!(dead.iter().all(|dead| dead.job.as_ref().is_some_and(|job| *job == "die")), "{dead:?}");
}

#[tokio::test]
async fn a_job_whose_connection_is_lost_three_times_is_not_called_a_killer_by_the_process_that_lives() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let worker = scene.worker(&[]).await;
    crew.enqueue([Mark { n: 1, millis: 4_000 }]).await;
    for lost in 1..=3 {
        scene.wait_for(lost, "start").await;
        assert!(shared_node().close_connections_of(scene.vhost.name()).await >= 1);
        worker.said("deliveries were lost").await;
    }
    scene.wait_until_done().await;
    assert_eq!(scene.dead().await, 0, "{}", worker.log());
    assert!(!worker.log().contains("came back from a worker that is gone"), "{}", worker.log());
    assert!(crew.ended().contains(&1));
}

#[tokio::test]
async fn a_job_whose_connection_is_lost_four_times_is_not_called_a_killer_by_the_neighbour_that_gets_it_either() {
    let scene = Scene::new().await;
    let crew = &scene.crew;
    let workers = [scene.worker(&[]).await, scene.worker(&[]).await];
    // So many that both workers have some of them.
    let jobs = 40;
    crew.enqueue((0..jobs).map(|n| Mark { n, millis: 4_000 })).await;
    let mut started = 0;
    // Whoever is back first may have taken all.
    let losses = || workers.iter().map(|worker| worker.log().matches("deliveries were lost").count()).sum::<usize>();
    for _ in 0..4 {
        scene.wait_for(started + 4, "start").await;
        let before = losses();
        assert!(shared_node().close_connections_of(scene.vhost.name()).await >= 2);
        eventually_within(LONG, "deliveries were lost", || async { (losses() > before).then_some(()) }).await;
        started = crew.count("start");
    }
    scene.wait_until_done().await;
    assert_eq!(scene.dead().await, 0, "{}\n{}", workers[0].log(), workers[1].log());
    assert_eq!(crew.ended().len() as u64, jobs);
}

/// A classic queue counts no deliveries, on any version.
#[tokio::test]
async fn a_killer_in_a_classic_queue_of_others_is_convicted_too() {
    let scene = Scene::new().await;
    let classic = json!({"x-queue-type": "classic"});
    shared_node().declare_queue(scene.vhost.name(), QUEUE, classic).await;
    let crew = &scene.crew;
    crew.enqueue([Die { n: 9_000 }]).await;
    crew.enqueue((0..20).map(|n| Mark { n, millis: 20 })).await;
    let done = async || crew.ended().len() == 20 && scene.dead().await == 1;
    keep_running(&scene, &[("WORKER_CONCURRENCY", "1")], done).await;
    let dead = crew.dead().await;
    assert_eq!((dead.len(), dead[0].failure.kind, dead[0].starts), (1, FailureKind::Crashed, 3), "{dead:?}");
}

#[job(queue = "wary")]
async fn wake(woken: State<Mutex<Vec<Instant>>>) {
    woken.lock().unwrap().push(Instant::now());
}

/// Another worker may be declaring the suspects' queue at this moment, and to ask one that is only being made ends the
/// whole connection on 3.10.
#[tokio::test(start_paused = true)]
async fn the_first_look_into_a_suspects_queue_waits_a_second_while_the_queue_itself_is_worked_on() {
    let server = SimulatedServer::new("3.10.8", 0);
    let clock = TokioClock::starting_now();
    let (broker, _) = server.process(&RabbitOptions::default(), Arc::new(clock));
    let client = Client::new(Arc::new(broker));
    for queue in ["wary", "wary_suspects"] {
        let queue: worker_core::QueueName = queue.parse().unwrap();
        client.declare(&Topology::queues([queue.clone()])).await.unwrap();
        let id = queue.as_str().parse().unwrap();
        let envelope = Envelope::new(id, queue, Some("wake".parse().unwrap()), "{}", clock.now());
        client.broker().enqueue(vec![envelope]).await.remove(0).unwrap();
    }
    let (began, woken) = (Instant::now(), Arc::<Mutex<Vec<Instant>>>::default());
    let worker = Worker::builder(&client).registry(Registry::new().with::<wake>()).state_arc(Arc::clone(&woken));
    let running = Running::start(worker);
    sleep(seconds(5)).await;
    let after: Vec<_> = woken.lock().unwrap().iter().map(|at| (*at - began).as_millis()).collect();
    assert!(matches!(*after, [0..100, 1_000..1_100]), "after {after:?} ms");
    running.stop().await;
}
