//! Whether a broker can be worked with: it is asked, within a bound, and nothing is made.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::Serialize;
use tokio::time::timeout;

use crate::{
    broker::{Capabilities, QueueStats, Reach},
    client::Client,
    name::QueueName,
    time::monotonic_now,
};

/// How long a broker may take to tell how it is.
///
/// 5 s: longer than a busy server takes, shorter than the patience of who asks.
pub const HEALTH_WAIT_DEFAULT: Duration = Duration::from_secs(5);

impl Client {
    /// Asks how the broker and its queues are. Nothing is created, and the answer comes in time: within
    /// [`HEALTH_WAIT_DEFAULT`], or what [`HealthCheck::within`] says, whatever the broker does.
    ///
    /// Without queues it is about those that the broker lists: all of them, or, where
    /// [`Capabilities::counts_all`] is not set, those that this client has met.
    ///
    /// # Examples
    ///
    /// ```
    /// # use worker_core::{Client, prelude::*};
    /// # #[job(queue = "emails")] async fn greet(name: String) {}
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("memory:").await?;
    /// let health = client.health().queues(["emails".parse()?]).within(seconds(1)).await;
    /// assert_eq!(health.reasons, ["queue `emails` does not exist"]);
    ///
    /// client.enqueue(greet::new("Ada")).await?;
    /// let health = client.health().await;
    /// assert!(health.healthy && health.reasons.is_empty());
    /// assert_eq!(health.queues[0].stats.as_ref().unwrap().ready, 1);
    /// # Ok(()) }
    /// ```
    pub fn health(&self) -> HealthCheck {
        HealthCheck { client: self.clone(), queues: Vec::new(), within: HEALTH_WAIT_DEFAULT }
    }
}

/// A question that is asked when it is awaited; from [`Client::health`].
///
/// # Cancel safety
///
/// Cancel safe: it changes nothing.
#[derive(Clone)]
#[must_use = "nothing is asked until it is awaited"]
pub struct HealthCheck {
    client: Client,
    queues: Vec<QueueName>,
    within: Duration,
}

impl HealthCheck {
    /// About these queues, which must exist.
    pub fn queues(mut self, queues: impl IntoIterator<Item = QueueName>) -> Self {
        self.queues.extend(queues);
        self
    }

    /// The longest time that it may take.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    async fn ask(self) -> Health {
        let Self { client, queues, within } = self;
        let deadline = monotonic_now() + within;
        let broker = client.broker();
        let (reach, mut reasons) = (broker.reach(), Vec::new());
        let asked = match &reach {
            // It would wait for a connection that is known to be away.
            Reach::Down { error } => Err(format!("there is no connection to the broker: {error}")),
            Reach::Blocked { reason } => {
                reasons.push(format!("the broker takes no new jobs: {reason}"));
                stats(&client, &queues, within).await
            }
            Reach::Up => stats(&client, &queues, within).await,
        };
        let answers = asked.is_ok();
        let mut remarks = Vec::new();
        let (stats, presence) = match asked {
            Ok(mut stats) => {
                // Half of what is left: whoever bounds all of this by the same time shall have the answer.
                let patience = deadline.saturating_duration_since(monotonic_now()) / 2;
                remarks.extend(fill_running(&client, &mut stats, patience).await);
                (stats, Presence::Missing)
            }
            Err(reason) => {
                reasons.push(reason);
                (Vec::new(), Presence::Unknown)
            }
        };
        let found = |queue: QueueName| {
            let stats = stats.iter().find(|stats| stats.queue == queue).cloned();
            QueueHealth { presence: if stats.is_some() { Presence::Exists } else { presence }, queue, stats }
        };
        let wanted = if queues.is_empty() { stats.iter().map(|stats| stats.queue.clone()).collect() } else { queues };
        let queues: Vec<_> = wanted.into_iter().map(found).collect();
        let missing = queues.iter().filter(|queue| queue.presence == Presence::Missing);
        reasons.extend(missing.map(|QueueHealth { queue, .. }| format!("queue `{queue}` does not exist")));
        let (healthy, capabilities) = (reasons.is_empty(), broker.capabilities());
        Health { healthy, reasons, remarks, answers, reach, capabilities, queues }
    }
}

/// What the broker says of these queues, or why it says nothing.
async fn stats(client: &Client, queues: &[QueueName], within: Duration) -> Result<Vec<QueueStats>, String> {
    let broker = client.broker();
    let Some(inspector) = broker.inspector() else {
        return Err(format!("the {} broker cannot be looked into", broker.capabilities().broker));
    };
    match timeout(within, inspector.queues(queues)).await {
        Ok(Ok(stats)) => Ok(stats),
        Ok(Err(error)) => Err(error.detail()),
        Err(_) => Err(format!("no answer from the broker within {}", humantime::format_duration(within))),
    }
}

/// Adds to `stats` how many jobs run, where the broker has to ask somebody else for that; or says why it is not known.
///
/// It is one number for people: whoever cannot be asked for it makes nothing unhealthy.
pub(crate) async fn fill_running(client: &Client, stats: &mut [QueueStats], within: Duration) -> Option<String> {
    let unknown: Vec<_> =
        stats.iter().filter(|stats| stats.running.is_none()).map(|stats| stats.queue.clone()).collect();
    let inspector = client.broker().inspector().filter(|_| !unknown.is_empty())?;
    match timeout(within, inspector.running(&unknown)).await {
        Ok(Ok(running)) => {
            for stats in stats.iter_mut().filter(|stats| stats.running.is_none()) {
                stats.running = running.get(&stats.queue).copied();
            }
            None
        }
        Ok(Err(error)) => Some(format!("how many jobs run is not known: {}", error.detail())),
        Err(_) => Some(format!("how many jobs run is not known: no answer within {within:.0?}")),
    }
}

impl IntoFuture for HealthCheck {
    type Output = Health;
    type IntoFuture = Pin<Box<dyn Future<Output = Health> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.ask())
    }
}

impl std::fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealthCheck")
            .field("queues", &self.queues)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

/// How a broker and its queues are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether jobs can come and go, in all of the queues.
    pub healthy: bool,
    /// Why not; empty when they can.
    pub reasons: Vec<String>,
    /// What is not known, and why, that makes nothing unhealthy: the management API of RabbitMQ cannot be asked.
    pub remarks: Vec<String>,
    /// Whether the broker answered.
    pub answers: bool,
    /// How the way to it is.
    pub reach: Reach,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The queues that were asked about.
    pub queues: Vec<QueueHealth>,
}

/// How one queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueHealth {
    /// The queue.
    pub queue: QueueName,
    /// Whether it is there.
    pub presence: Presence,
    /// What is in it, and who consumes it; `None` unless it is there.
    pub stats: Option<QueueStats>,
}

/// Whether a queue is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Presence {
    /// It is.
    Exists,
    /// It is not.
    Missing,
    /// The broker did not say.
    Unknown,
}
