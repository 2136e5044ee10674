//! Where the jobs are: the servers of a run, or its file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep};
use worker_core::{
    Client, FailureKind,
    broker::{Page, Selection},
    brokers::{
        rabbitmq::{Credentials, RabbitBroker, RabbitOptions},
        sqlite::{SqliteBroker, SqliteOptions},
    },
};

use super::{check::Dead, plan::Place};
use crate::rabbit::{Node, Proxy};

/// The queue of all jobs.
pub const QUEUE: &str = "toil";

/// As whom all processes connect.
const USER: &str = "torture";

/// Its password, which is looked for in all they say.
pub const PASSWORD: &str = "canary-of-a-password";

/// The vhost of all.
pub(super) const VHOST: &str = "torture";

/// The pause before it is asked again whether anything is left.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// The servers of a run, or its file.
#[derive(Debug)]
pub enum Stage {
    /// Servers, each behind a proxy.
    Nodes(Vec<(Node, Proxy)>),
    /// A file.
    File(PathBuf),
}

impl Stage {
    /// Starts what is needed.
    ///
    /// # Panics
    ///
    /// When it does not start.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what has started is killed.
    pub async fn set(place: Place, folder: &Path) -> Self {
        let Place::Nodes(count) = place else { return Self::File(folder.join("jobs.db")) };
        let nodes = if count == 1 { vec![Node::start().await] } else { Node::start_cluster(count).await };
        nodes[0].create_vhost(VHOST).await;
        nodes[0].create_user(USER, PASSWORD).await;
        nodes[0].set_permissions(USER, VHOST, ".*", ".*", ".*").await;
        let mut stage = Vec::new();
        for node in nodes {
            let proxy = Proxy::start(node.amqp_port()).await;
            stage.push((node, proxy));
        }
        Self::Nodes(stage)
    }

    /// Where processes reach it.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Nodes(nodes) => {
                let hosts: Vec<_> = nodes.iter().map(|(_, proxy)| format!("127.0.0.1:{}", proxy.port())).collect();
                format!("amqp://{USER}:{PASSWORD}@{}/{VHOST}", hosts.join(","))
            }
            Self::File(path) => format!("sqlite:{}", path.display()),
        }
    }

    /// Its version, for the report.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn version(&self) -> String {
        match self {
            Self::Nodes(nodes) => {
                let version = nodes[0].0.eval("list_to_binary(rabbit_misc:version())").await;
                format!("RabbitMQ {}, nodes: {}", version.as_str().unwrap_or_default(), nodes.len())
            }
            Self::File(_) => format!("SQLite {}", rusqlite::version()),
        }
    }

    /// The node that leads the queue.
    ///
    /// # Panics
    ///
    /// When there is none yet.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn leader(&self) -> usize {
        let Self::Nodes(nodes) = self else { return 0 };
        let leader = nodes[0].0.queue_info(VHOST, QUEUE).await.leader;
        nodes.iter().position(|(node, _)| node.name() == leader).expect("one of the nodes leads")
    }

    /// Waits until no job waits or runs any more; the dead stay. Says whether that came within `patience`.
    ///
    /// # Panics
    ///
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn drains(&self, patience: Duration) -> bool {
        let asked = Instant::now();
        let mut empty = 0;
        // Twice, since a job that is handed over is nowhere for a moment where counts are taken one after the other.
        while empty < 2 {
            if asked.elapsed() > patience {
                return false;
            }
            empty = if self.left().await == 0 { empty + 1 } else { 0 };
            sleep(ASK_EVERY).await;
        }
        true
    }

    /// How many jobs wait or run.
    ///
    /// # Panics
    ///
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn left(&self) -> u64 {
        match self {
            Self::Nodes(nodes) => {
                let queues = nodes[0].0.list_queues(VHOST).await;
                let left = queues.iter().filter(|info| !info.name.ends_with("_dlq"));
                left.map(|info| info.ready + info.unacked + info.dead_lettering).sum()
            }
            Self::File(_) => {
                let client = self.client().await;
                let inspector = client.broker().inspector().expect("it has one");
                let queues = inspector.queues(&[]).await.expect("the file can be asked");
                queues.iter().map(worker_core::broker::QueueStats::unfinished).sum()
            }
        }
    }

    /// All dead letters.
    ///
    /// # Panics
    ///
    /// When they cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn dead(&self) -> Vec<Dead> {
        const PAGE: usize = 1_000;
        let client = self.client().await;
        let inspector = client.broker().inspector().expect("it has one");
        let mut selection = Selection::default();
        selection.known.push(QUEUE.parse().expect("it is a name"));
        let (mut dead, mut page) = (Vec::new(), Page::first(PAGE));
        loop {
            let found = inspector.dead(&selection, page).await.expect("the dead can be listed");
            dead.extend(found.jobs.iter().map(|job| {
                let payload: Option<Value> = serde_json::from_slice(&job.body.0).ok();
                let n = payload.and_then(|payload| payload["n"].as_u64());
                Dead { n, crashed: job.failure.kind == FailureKind::Crashed }
            }));
            let Some(next) = found.next else { return dead };
            page = Page::after(next, PAGE);
        }
    }

    /// A client past the proxies.
    async fn client(&self) -> Client {
        match self {
            Self::Nodes(nodes) => {
                let mut options = RabbitOptions::default();
                options.hosts = nodes.iter().map(|(node, _)| ("127.0.0.1".into(), node.amqp_port())).collect();
                options.vhost = VHOST.into();
                options.credentials = Credentials::new(USER, PASSWORD);
                Client::new(Arc::new(RabbitBroker::connect(options).await.expect("it can be connected to")))
            }
            Self::File(path) => {
                let broker = SqliteBroker::open(path, SqliteOptions::default()).await;
                Client::new(Arc::new(broker.expect("the file can be opened")))
            }
        }
    }
}
