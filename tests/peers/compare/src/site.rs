//! The servers, each started when the first peer needs it, and fresh places on them.

use std::{process::Command, time::Duration};

use tokio::task::JoinSet;
use worker_tests::rabbit::Node;

use crate::{
    peer::{Peer, Store},
    place::{Holder, Place},
    processor,
    redis::Redis,
};

/// With `--quick` this many jobs.
const QUICK: u64 = 600;

/// The servers.
pub(crate) struct Site {
    /// Few jobs: whether everything runs.
    pub(crate) quick: bool,
    node: Option<(Node, u32)>,
    redis: Option<Redis>,
    places: u32,
}

impl Site {
    pub(crate) const fn new(quick: bool) -> Self {
        Self { quick, node: None, redis: None, places: 0 }
    }

    /// How many jobs a peer is given.
    pub(crate) const fn jobs(&self, peer: &Peer) -> u64 {
        if self.quick { QUICK } else { peer.jobs }
    }

    /// Starts what this peer and ours beside it need.
    pub(crate) async fn prepare(&mut self, peer: &Peer) -> Result<(), String> {
        let stores: Vec<_> = peer.beside.iter().map(|beside| beside.store).chain([peer.store]).collect();
        if self.node.is_none() && stores.iter().any(|store| matches!(store, Store::RabbitMq(_))) {
            eprintln!("starting a RabbitMQ node");
            // It panics where there is no RabbitMQ.
            let mut starting = JoinSet::new();
            starting.spawn(Node::start());
            let node = starting.join_next().await.and_then(Result::ok);
            let node = node.ok_or("no RabbitMQ node starts: tests/run.sh installs what it needs")?;
            let pid = node.eval("list_to_binary(os:getpid())").await;
            let pid = pid.as_str().and_then(|pid| pid.parse().ok()).ok_or("the node has no process number")?;
            self.node = Some((node, pid));
        }
        if self.redis.is_none() && stores.contains(&Store::Redis) {
            eprintln!("starting a Redis");
            self.redis = Some(Redis::start().await?);
        }
        Ok(())
    }

    /// A place that nobody has used.
    pub(crate) async fn place(&mut self, store: Store) -> Result<Place, String> {
        self.places += 1;
        // Queues of their own on one Redis; elsewhere the place is new altogether.
        let queue = format!("jobs{}", self.places);
        match store {
            Store::RabbitMq(_) => {
                let (node, _) = self.node.as_ref().ok_or("there is no node")?;
                let vhost = node.fresh_vhost().await;
                Ok(Place { url: vhost.url().to_owned(), queue, store, holder: Holder::Vhost(vhost) })
            }
            Store::Sqlite => {
                let folder = tempfile::tempdir().map_err(|error| format!("no folder for a database: {error}"))?;
                let url = folder.path().join("jobs.db").display().to_string();
                Ok(Place { url, queue, store, holder: Holder::Folder(folder) })
            }
            Store::Redis => {
                let url = self.redis.as_ref().ok_or("there is no Redis")?.url();
                Ok(Place { url, queue, store, holder: Holder::Nothing })
            }
        }
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.as_ref().map(|(node, _)| node)
    }

    /// The processor time of the server behind a store so far.
    pub(crate) fn server_time(&self, store: Store) -> Option<Duration> {
        let pid = match store {
            Store::RabbitMq(_) => self.node.as_ref().map(|(_, pid)| *pid),
            Store::Sqlite => None,
            Store::Redis => self.redis.as_ref().map(Redis::pid),
        };
        pid.map(processor::time)
    }

    /// The node's version, where one was started.
    pub(crate) async fn rabbitmq_version(&self) -> Option<String> {
        let version = self.node()?.eval("list_to_binary(rabbit_misc:version())").await;
        version.as_str().map(str::to_owned)
    }

    /// Redis', where one was started.
    pub(crate) fn redis_version(&self) -> Option<String> {
        self.redis.as_ref()?;
        let output = Command::new("redis-server").arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
    }
}
