//! What makes a node refuse work: alarms and its patience with consumers.

use std::time::Duration;

use super::Node;

/// A resource that a node can be short of. It then blocks every connection that publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Memory above the watermark.
    Memory,
    /// Free disk space below the limit.
    Disk,
}

impl Alarm {
    const fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl Node {
    /// Raises an alarm, until it is [cleared](Self::clear_alarm).
    ///
    /// It is the alarm itself that is raised, not the watermark lowered: it
    /// holds at once and whatever the machine has. A connection is told that it
    /// is blocked when it publishes.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn set_alarm(&self, alarm: Alarm) {
        self.eval(&format!("rabbit_alarm:set_alarm({{{{resource_limit, {}, node()}}, []}})", alarm.resource())).await;
    }

    /// Ends an alarm.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn clear_alarm(&self, alarm: Alarm) {
        self.eval(&format!("rabbit_alarm:clear_alarm({{resource_limit, {}, node()}})", alarm.resource())).await;
    }

    /// Sets how long a consumer may take to settle a delivery, for channels opened from now on, until a restart.
    ///
    /// It is looked at every second instead of every minute.
    ///
    /// # Panics
    ///
    /// When `limit` is longer than RabbitMQ can count, 49 days.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn set_consumer_timeout(&self, limit: Duration) {
        let limit_ms = u32::try_from(limit.as_millis()).expect("it is shorter than 49 days");
        self.eval(&format!(
            "application:set_env(rabbit, channel_tick_interval, 1000),
             application:set_env(rabbit, consumer_timeout, {limit_ms})"
        ))
        .await;
    }
}
