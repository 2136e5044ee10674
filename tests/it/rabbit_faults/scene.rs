//! A virtual host on a node, with a crew at work on it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard, OnceCell},
    time::sleep,
};
use worker_core::{
    Client, EnqueueError, EnqueueErrorKind, Enqueueable, Job,
    brokers::rabbitmq::{Credentials, RabbitBroker, RabbitOptions},
};
use worker_tests::{
    eventually::eventually_within,
    rabbit::{Alarm, Node, Vhost, shared_node},
};

use crate::system::crew::{Crew, Process};

/// How long a test waits for the end of many jobs; a machine can be busy.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// The pause before a node is asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The queue of the crew's jobs.
pub(super) const QUEUE: &str = "crew";

/// A place for one test. Its queues are looked at from outside, through the node.
pub(super) struct Scene<'n> {
    pub(super) crew: Crew,
    pub(super) vhost: Vhost,
    node: &'n Node,
}

impl Scene<'static> {
    /// On the node that others use too.
    pub(super) async fn new() -> Self {
        Scene::on(shared_node()).await
    }
}

impl<'n> Scene<'n> {
    pub(super) async fn on(node: &'n Node) -> Self {
        let vhost = node.fresh_vhost().await;
        let client = client(node.amqp_port(), vhost.name(), |_| {}).await;
        Self { crew: Crew::on(client, vhost.url().to_owned()), vhost, node }
    }

    /// With a client of these options and processes, both by way of `port`.
    pub(super) async fn through(node: &'n Node, port: u16, choose: impl FnOnce(&mut RabbitOptions)) -> Self {
        let vhost = node.fresh_vhost().await;
        let client = client(port, vhost.name(), choose).await;
        let url = format!("amqp://guest:guest@127.0.0.1:{port}/{}", vhost.name());
        Self { crew: Crew::on(client, url), vhost, node }
    }

    /// With a client and processes that know all these hosts, of a cluster with `node`.
    pub(super) async fn through_all(node: &'n Node, hosts: &[(String, u16)]) -> Self {
        let vhost = node.fresh_vhost().await;
        let client = client(node.amqp_port(), vhost.name(), |options| options.hosts = hosts.to_vec()).await;
        let hosts = hosts.iter().map(|(name, port)| format!("{name}:{port}")).collect::<Vec<_>>().join(",");
        Self { crew: Crew::on(client, format!("amqp://guest:guest@{hosts}/{}", vhost.name())), vhost, node }
    }

    /// A worker process that consumes.
    pub(super) async fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let before = self.consumers().await;
        let worker = self.crew.worker(settings);
        eventually_within(LONG, "a worker consumed", || async { (self.consumers().await > before).then_some(()) })
            .await;
        worker
    }

    /// Who consumes the crew's queue. To ask costs a process.
    pub(super) async fn consumers(&self) -> usize {
        sleep(ASK_EVERY).await;
        self.node.list_consumers(self.vhost.name()).await.iter().filter(|consumer| consumer.queue == QUEUE).count()
    }

    /// Waits until there are this many events of a kind.
    pub(super) async fn wait_for(&self, count: usize, event: &str) {
        let look = || async { (self.crew.count(event) >= count).then_some(()) };
        eventually_within(LONG, format!("{count} jobs {event}"), look).await;
    }

    /// Messages of this queue, delivered or not.
    pub(super) async fn depth(&self, queue: &str) -> u64 {
        let queues = self.node.list_queues(self.vhost.name()).await;
        let found = queues.iter().filter(|info| info.name == queue);
        found.map(|info| info.ready + info.unacked + info.dead_lettering).sum()
    }

    pub(super) async fn dead(&self) -> u64 {
        self.depth("crew_dlq").await
    }

    /// Waits until no queue but those of the dead has a message.
    pub(super) async fn wait_until_done(&self) {
        eventually_within(LONG, "all queues were empty", || async {
            sleep(ASK_EVERY).await;
            let queues = self.node.list_queues(self.vhost.name()).await;
            let left = queues.iter().filter(|info| !info.name.ends_with("_dlq"));
            let left: u64 = left.map(|info| info.ready + info.unacked + info.dead_lettering).sum();
            (left == 0).then_some(())
        })
        .await;
    }
}

/// A client of `guest`'s.
pub(super) async fn client(port: u16, vhost: &str, choose: impl FnOnce(&mut RabbitOptions)) -> Client {
    let mut options = RabbitOptions::default();
    options.hosts = vec![("127.0.0.1".into(), port)];
    options.vhost = vhost.into();
    options.credentials = Credentials::new("guest", "guest");
    choose(&mut options);
    Client::new(Arc::new(RabbitBroker::connect(options).await.unwrap()))
}

/// The node that tests of this module harm, one after the other.
pub(super) struct Victim {
    pub(super) node: &'static Node,
    _turn: MutexGuard<'static, ()>,
}

/// Waits for our turn with the victim, and sees that it is well.
pub(super) async fn victim() -> Victim {
    static TURN: Mutex<()> = Mutex::const_new(());
    static NODE: OnceCell<Node> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let node = NODE.get_or_init(Node::start).await;
    // What a test that failed may have left.
    node.clear_alarm(Alarm::Memory).await;
    Victim { node, _turn: turn }
}

impl Drop for Victim {
    /// What a test that failed half-way has left behind. Frozen, it would answer to nobody.
    fn drop(&mut self) {
        self.node.thaw();
    }
}

/// What a producer went through until all of its jobs were taken.
#[derive(Debug, Default)]
pub(super) struct Produced {
    /// Answers that left open whether a job was taken: each may be in its queue twice.
    pub(super) indeterminate: usize,
    pub(super) unavailable: usize,
}

/// Enqueues until each job is taken, a batch after the other, trying again with the same ids.
pub(super) async fn produce<J: Job>(client: &Client, jobs: impl IntoIterator<Item = J>) -> Produced {
    let mut produced = Produced::default();
    let mut jobs = jobs.into_iter();
    loop {
        let batch: Vec<J> = jobs.by_ref().take(50).collect();
        if batch.is_empty() {
            return produced;
        }
        let mut refused = refused(&mut produced, client.enqueue_all(batch).await);
        while !refused.is_empty() {
            let again = refused.into_iter().map(|error| error.into_job().unwrap());
            refused = self::refused(&mut produced, client.enqueue_all(again).await);
        }
    }
}

fn refused<T>(produced: &mut Produced, answers: Vec<Result<T, EnqueueError>>) -> Vec<EnqueueError> {
    let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    for error in &errors {
        match error.kind() {
            EnqueueErrorKind::Indeterminate => produced.indeterminate += 1,
            EnqueueErrorKind::Unavailable => produced.unavailable += 1,
            _ => panic!("{error}"),
        }
    }
    errors
}

/// The same job once more, as it was.
pub(super) fn again(error: EnqueueError) -> impl Enqueueable {
    error.into_job().unwrap()
}
