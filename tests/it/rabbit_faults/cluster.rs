//! Several hosts in one URL: a cluster whose nodes die one after the other.

use worker_tests::rabbit::Node;

use super::scene::{Scene, produce};
use crate::system::crew::Mark;

const JOBS: u64 = 3_000;

#[tokio::test]
async fn whoever_knows_all_nodes_of_a_cluster_goes_on_with_another_when_one_dies() {
    let nodes = Node::start_cluster(3).await;
    let hosts: Vec<_> = nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.amqp_port())).collect();
    // The management of the last is asked, which is not killed.
    let scene = Scene::through_all(&nodes[2], &hosts).await;
    let crew = &scene.crew;
    let worker = scene.worker(&[]).await;
    let producing = produce(&crew.client, (0..JOBS).map(|n| Mark { n, millis: 10 }));
    let killing = async {
        for (count, node) in [(500, &nodes[0]), (1_500, &nodes[1])] {
            scene.wait_for(count, "end").await;
            node.kill();
            scene.wait_for(count + 500, "end").await;
            node.restart().await;
        }
    };
    let (produced, ()) = tokio::join!(producing, killing);
    scene.wait_until_done().await;
    assert_eq!(crew.ended().len() as u64, JOBS, "lost nothing:\n{}", worker.log());
    assert_eq!(scene.dead().await, 0);
    let repeated = crew.count("end") - crew.ended().len();
    assert!(repeated <= 2 * 32 + produced.indeterminate, "{repeated} ran twice: {produced:?}");
}
