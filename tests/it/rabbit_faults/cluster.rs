//! Several hosts in one URL: a cluster whose nodes die one after the other.

use std::{collections::BTreeSet, num::NonZeroU8, sync::Arc};

use serde::{Deserialize, Serialize};
use worker_core::{Context, Handler, Job, JobOptions, JobResult, Registry, Worker};
use worker_tests::{
    noop::{Noop, Ran},
    rabbit::{Node, QueueInfo},
};

use super::scene::{Scene, produce};
use crate::{bench::Running, system::crew::Mark};

const JOBS: u64 = 3_000;

/// A job that does nothing, in a queue with as many shards as the cluster has nodes.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Spread(Noop);

impl Job for Spread {
    const NAME: &'static str = "spread";
    const QUEUE: &'static str = "spread";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.shards(NonZeroU8::new(3).unwrap());
    type Return = ();
}

impl Handler for Spread {
    async fn run(self, cx: Context) -> JobResult<()> {
        self.0.run(cx).await
    }
}

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

/// The three shards of `spread`, in numbers.
async fn shards(scene: &Scene<'_>, node: &Node) -> Vec<QueueInfo> {
    let mut queues = node.list_queues(scene.vhost.name()).await;
    queues.retain(|queue| ["spread", "spread.shard-1", "spread.shard-2"].contains(&queue.name.as_str()));
    assert_eq!(queues.len(), 3, "{queues:?}");
    queues
}

#[tokio::test]
async fn the_shards_of_a_queue_have_their_leaders_on_all_nodes_and_outlive_any_of_them() {
    let nodes = Node::start_cluster(3).await;
    let hosts: Vec<_> = nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.amqp_port())).collect();
    let scene = Scene::through_all(&nodes[2], &hosts).await;
    let client = &scene.crew.client;
    client.enqueue(Spread(Noop::new(0))).await.unwrap();
    let leaders: BTreeSet<_> = shards(&scene, &nodes[2]).await.into_iter().map(|shard| shard.leader).collect();
    assert_eq!(leaders.len(), 3, "each node leads one: {leaders:?}");

    let ran = Arc::new(Ran::none_of(JOBS));
    // While nobody runs them: what the node that dies has led is there all the same.
    let produced = produce(client, (1..JOBS / 2).map(|n| Spread(Noop::new(n)))).await;
    assert_eq!((produced.indeterminate, produced.unavailable), (0, 0));
    for shard in shards(&scene, &nodes[2]).await {
        assert_eq!(shard.ready, JOBS / 2 / 3, "an equal share is in each: {shard:?}");
    }
    nodes[0].kill();
    let registry = Registry::new().with::<Spread>();
    let running = Running::start(Worker::builder(client).registry(registry).state_arc(Arc::clone(&ran)));
    produce(client, (JOBS / 2..JOBS).map(|n| Spread(Noop::new(n)))).await;
    scene.wait_until_done().await;
    assert!(ran.count() >= JOBS, "{} of {JOBS} ran", ran.count());
    running.stop().await;
}
