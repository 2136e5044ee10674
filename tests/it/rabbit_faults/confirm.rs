//! A confirm that never comes.

use std::time::{Duration, Instant};

use worker_core::EnqueueErrorKind;
use worker_tests::rabbit::{Direction, Proxy, shared_node};

use super::scene::Scene;
use crate::system::crew::Mark;

#[tokio::test]
async fn without_its_confirm_a_job_may_or_may_not_be_enqueued_and_is_tried_again_as_the_same() {
    let proxy = Proxy::start(shared_node().amqp_port()).await;
    let choose = |options: &mut worker_core::brokers::rabbitmq::RabbitOptions| {
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
