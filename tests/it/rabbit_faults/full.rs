//! A queue that takes no more.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use worker_core::{
    Client, EnqueueErrorKind, Job, JobId,
    brokers::rabbitmq::{RabbitBroker, RabbitOptions},
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_node, shared_vhost},
};

/// A job of a queue that nobody serves.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Parcel {
    pub(super) id: u32,
}

impl Job for Parcel {
    const NAME: &'static str = "parcel";
    const QUEUE: &'static str = "parcels";
    type Return = ();
}

/// A client on a queue that holds one job.
async fn client_of_a_small_queue(confirm_timeout: Duration) -> (Vhost, Client) {
    let vhost = shared_vhost();
    let arguments = json!({"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"});
    shared_node().declare_queue(vhost.name(), Parcel::QUEUE, arguments).await;
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), shared_node().amqp_port())];
    options.vhost = vhost.name().into();
    options.confirm_timeout = confirm_timeout;
    let client = Client::new(Arc::new(RabbitBroker::connect(options).await.unwrap()));
    client.enqueue(Parcel { id: 1 }).await.unwrap();
    (vhost, client)
}

#[tokio::test]
async fn a_job_that_a_full_queue_refuses_is_sent_again_until_there_is_room() {
    let (vhost, client) = client_of_a_small_queue(Duration::from_secs(15)).await;
    let empty = async {
        // Not before it was refused once; the server takes its time to be full.
        eventually("the queue is full", async || {
            (shared_node().queue_info(vhost.name(), Parcel::QUEUE).await.ready >= 1).then_some(())
        })
        .await;
        shared_node().get(vhost.name(), Parcel::QUEUE, 10).await
    };
    let (enqueued, taken) = tokio::join!(client.enqueue(Parcel { id: 2 }), empty);
    enqueued.unwrap();
    assert!(!taken.is_empty());
}

#[tokio::test]
async fn a_job_that_stays_refused_is_indeterminate_and_says_why() {
    let (_vhost, client) = client_of_a_small_queue(Duration::from_secs(2)).await;
    let id: JobId = "parcel-3".parse().unwrap();
    // A classic queue notices with a delay that it is full, so one more may be taken.
    let refused = soon("a job is refused", async {
        loop {
            if let Err(error) = client.enqueue(worker_core::Enqueue::new(Parcel { id: 3 }).id(id.clone())).await {
                return error;
            }
        }
    });
    let error = refused.await;
    assert_eq!((error.kind(), error.id()), (EnqueueErrorKind::Indeterminate, Some(&id)), "{error}");
    assert!(error.to_string().contains("the server refused it"), "{error}");
}
