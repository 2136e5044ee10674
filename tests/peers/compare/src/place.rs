//! A place of its own for each measurement, and how many jobs are there.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;
use worker_tests::rabbit::{Node, Vhost};

use crate::{
    peer::{Peer, Store},
    program::Programs,
};

/// Without confirms the server may still read what was written when its producer has ended: a number stands when it has
/// not changed for so long.
const STILL: Duration = Duration::from_secs(2);

/// A place for jobs, which nobody has used.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) queue: String,
    pub(crate) store: Store,
    pub(crate) holder: Holder,
}

/// What is removed with a place.
pub(crate) enum Holder {
    Vhost(Vhost),
    Folder(#[expect(dead_code, reason = "it is removed when it is dropped")] TempDir),
    Nothing,
}

impl Place {
    /// The type of queue, for a peer's command line.
    pub(crate) const fn kind(&self) -> &'static str {
        if let Store::RabbitMq(kind) = self.store { kind } else { "classic" }
    }

    /// How many jobs are there that are not done: `wanted`, as soon as that is so, or what it is when nothing moves any
    /// more.
    pub(crate) async fn settle(
        &self,
        node: Option<&Node>,
        programs: &Programs,
        peer: &Peer,
        wanted: u64,
    ) -> Result<u64, String> {
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let count = self.count(node, programs, peer).await?;
            if last != Some(count) {
                (last, since) = (Some(count), Instant::now());
            }
            if count == wanted || since.elapsed() > STILL {
                return Ok(count);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn count(&self, node: Option<&Node>, programs: &Programs, peer: &Peer) -> Result<u64, String> {
        match (&self.holder, node) {
            (Holder::Vhost(vhost), Some(node)) => {
                let queues = node.list_queues(vhost.name()).await;
                Ok(queues.iter().map(|queue| queue.ready + queue.unacked).sum())
            }
            _ => programs.count(peer, self).await,
        }
    }
}
