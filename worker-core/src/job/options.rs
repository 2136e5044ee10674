//! How a job is run and retried, and what it asks of its queue.

use std::{
    num::{NonZeroU8, NonZeroU16, NonZeroUsize},
    time::Duration,
};

use crate::{
    envelope::Priority,
    exchange::ExchangeKind,
    job::DEFAULT_TIMEOUT,
    name::InvalidName,
    queue::{QueueOptions, QueueType},
    retry::RetryPolicy,
};

/// How a job is run and retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobOptions {
    /// How often and after how long it is tried again.
    pub retry: RetryPolicy,
    /// How long one attempt may run.
    pub timeout: Duration,
    /// How soon it is delivered among those that wait.
    pub priority: Priority,
    /// See [`QueueOptions::queue_type`]; the same for all jobs of one queue.
    pub queue_type: Option<QueueType>,
    /// See [`QueueOptions::max_priority`]; the same for all jobs of one queue.
    pub max_priority: Option<Priority>,
    /// See [`QueueOptions::dead_letter_queue`]; the same for all jobs of one queue.
    pub dead_letter_queue: Option<&'static str>,
    /// See [`QueueOptions::dead_letter_ttl`]; the same for all jobs of one queue.
    pub dead_letter_ttl: Option<Duration>,
    /// See [`QueueOptions::shards`]; the same for all jobs of one queue.
    pub shards: Option<NonZeroU8>,
    /// How many jobs may share a message where many are enqueued at once; see [`Enqueue::bundle`](crate::Enqueue::bundle).
    pub bundle: Option<NonZeroU16>,
    /// How many of this type run at once in one worker; `None` for as many as there are slots.
    pub concurrency: Option<NonZeroUsize>,
    /// Other names under which it may arrive: what it was called before.
    pub aliases: &'static [&'static str],
    /// What its queue gets copies of, beside the jobs that are enqueued into it.
    pub on: Option<On>,
}

/// That a job runs for what is published to an exchange: its queue is bound there when a worker starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct On {
    /// The exchange's name.
    pub exchange: &'static str,
    /// Its kind, where it has to be made; it must be this where it exists.
    pub kind: ExchangeKind,
    /// Keys (direct) or patterns (topic) of what to take; none for all (fanout, topic).
    pub keys: &'static [&'static str],
}

impl On {
    /// What is published to this exchange with one of these keys.
    #[must_use]
    pub const fn new(exchange: &'static str, kind: ExchangeKind, keys: &'static [&'static str]) -> Self {
        Self { exchange, kind, keys }
    }
}

impl JobOptions {
    /// [`RetryPolicy::DEFAULT`], [`DEFAULT_TIMEOUT`], [`Priority::DEFAULT`], no limit of its own, no aliases, no exchange,
    /// nothing asked of its queue.
    pub const DEFAULT: Self = Self {
        retry: RetryPolicy::DEFAULT,
        timeout: DEFAULT_TIMEOUT,
        priority: Priority::DEFAULT,
        queue_type: None,
        max_priority: None,
        dead_letter_queue: None,
        dead_letter_ttl: None,
        shards: None,
        bundle: None,
        concurrency: None,
        aliases: &[],
        on: None,
    };

    /// With this retry policy.
    #[must_use]
    pub const fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// With this time for one attempt.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With this priority.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// In a queue of this type.
    #[must_use]
    pub const fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = Some(queue_type);
        self
    }

    /// In a queue that tells priorities from 0 to this apart.
    #[must_use]
    pub const fn max_priority(mut self, max_priority: Priority) -> Self {
        self.max_priority = Some(max_priority);
        self
    }

    /// In a queue whose dead letters are in this one.
    #[must_use]
    pub const fn dead_letter_queue(mut self, name: &'static str) -> Self {
        self.dead_letter_queue = Some(name);
        self
    }

    /// In a queue whose dead letters are deleted after `ttl`.
    #[must_use]
    pub const fn dead_letter_ttl(mut self, ttl: Duration) -> Self {
        self.dead_letter_ttl = Some(ttl);
        self
    }

    /// In a queue that is `shards` queues in the broker, 1 to 64. See [`shard`](crate::shard).
    #[must_use]
    pub const fn shards(mut self, shards: NonZeroU8) -> Self {
        self.shards = Some(shards);
        self
    }

    /// In one message with up to so many others, where many are enqueued at once: 1 to 1,000. See
    /// [`Enqueue::bundle`](crate::Enqueue::bundle).
    #[must_use]
    pub const fn bundle(mut self, most: NonZeroU16) -> Self {
        self.bundle = Some(most);
        self
    }

    /// What the job asks of its queue.
    ///
    /// # Errors
    ///
    /// Its `dead_letter_queue` is no queue's name.
    pub fn queue_options(&self) -> Result<QueueOptions, InvalidName> {
        let Self { queue_type, max_priority, dead_letter_ttl, shards, .. } = *self;
        let dead_letter_queue = self.dead_letter_queue.map(str::parse).transpose()?;
        // To ask for one is to ask for nothing.
        let shards = shards.filter(|shards| shards.get() > 1);
        Ok(QueueOptions { queue_type, max_priority, dead_letter_queue, dead_letter_ttl, shards })
    }

    /// With at most this many running at once in one worker.
    #[must_use]
    pub const fn concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = Some(concurrency);
        self
    }

    /// Also for what is published to an exchange.
    #[must_use]
    pub const fn on(mut self, on: On) -> Self {
        self.on = Some(on);
        self
    }

    /// With these other names.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

impl Default for JobOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}
