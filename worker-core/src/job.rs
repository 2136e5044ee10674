//! What a job is, and how one is asked for.

mod options;

use std::{
    num::{NonZeroU8, NonZeroU16},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    envelope::{BUNDLE_MAX, Body, Due, Envelope, Headers, PAYLOAD_BYTES_MAX, Priority, Route, delay_problem},
    exchange::key_problem,
    id::JobId,
    name::{InvalidName, JobName, QueueName},
    outcome::JobReturn,
    queue::QueueOptions,
    shard,
    time::Timestamp,
};

pub use options::{JobOptions, On};

/// The queue of a job that names none.
pub const DEFAULT_QUEUE: &str = "default";

/// The time a job may run when it names none: 15 minutes.
///
/// A job without a limit can hold its slot for ever, so there always is one;
/// half of RabbitMQ's delivery timeout (30 minutes) leaves room for pauses.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A type of job: the payload, and what the framework must know about it.
///
/// `#[job]` writes this for the function it stands on; written by hand, it is
/// what a producer needs that does not link the handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    note = "a function marked `#[job]` makes one: pass `my_job::new(…)`, not the function itself"
)]
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The job's name: what travels with it. See [`JobName`] for the alphabet.
    const NAME: &'static str;
    /// The queue it goes to.
    const QUEUE: &'static str = DEFAULT_QUEUE;
    /// How it is run and retried.
    const OPTIONS: JobOptions = JobOptions::DEFAULT;
    /// What its handler returns.
    type Return: JobReturn;
}

/// A job with what was asked of this one enqueue. Made by the `new` of the payload type.
#[derive(Debug, Clone)]
#[must_use = "nothing is enqueued until it is passed to `Client::enqueue`"]
pub struct Enqueue<J> {
    job: J,
    asked: Asked,
}

/// What one enqueue asks for, beside the payload.
#[derive(Debug, Clone, Default)]
struct Asked {
    due: Due,
    priority: Option<u8>,
    id: Option<JobId>,
    headers: Headers,
    expiry: Option<Expiry>,
    /// An exchange and a key, instead of the queue.
    via: Option<(String, String)>,
    /// What decides into which shard of the queue it goes.
    shard_key: Option<String>,
    /// How many jobs may be in its message.
    bundle: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    In(Duration),
    At(Timestamp),
}

impl<J> Enqueue<J> {
    /// `job`, at once, with the options of its type.
    pub fn new(job: J) -> Self {
        Self { job, asked: Asked::default() }
    }

    /// The job alone, without what was asked of this one enqueue.
    pub fn into_job(self) -> J {
        self.job
    }

    /// Not before `delay` has passed; at most 366 days.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.asked.due = Due::In(delay);
        self
    }

    /// Not before `date`, at most 366 days from now; a past date is now.
    pub fn at(mut self, date: impl Into<SystemTime>) -> Self {
        self.asked.due = Due::At(date.into().into());
        self
    }

    /// Before those of a lower priority: 0 to 31, otherwise the enqueue is refused.
    pub fn priority(mut self, level: u8) -> Self {
        self.asked.priority = Some(level);
        self
    }

    /// Under an id of your own: an identity for trying an enqueue again.
    ///
    /// It is not a deduplication key: two jobs enqueued with one id are two jobs.
    pub fn id(mut self, id: JobId) -> Self {
        self.asked.id = Some(id);
        self
    }

    /// With a header, which the handler sees and which stays with the job to its end.
    ///
    /// At most 64 headers of 16 KiB together; names beginning with `x-` that
    /// the framework or a broker uses are refused.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.asked.headers.insert(name, value);
        self
    }

    /// Through `exchange` with the routing key `key`, instead of straight into the job's queue: a copy goes to
    /// every queue with a binding that takes it, and each copy is a job of its own.
    ///
    /// The exchange and its bindings must have been declared ([`Client::declare`](crate::Client::declare), or
    /// another program). When no queue takes it, the enqueue fails as `Unroutable`. It cannot be delayed.
    pub fn via(mut self, exchange: impl Into<String>, key: impl Into<String>) -> Self {
        self.asked.via = Some((exchange.into(), key.into()));
        self
    }

    /// Into the shard of this key: jobs of one key are in one shard, in the order in which they were enqueued.
    ///
    /// Without a key jobs go into the shards in turn. Where the queue has no shards, or the job goes through an
    /// exchange, the key has no effect: a job can have one before its queue gets shards. It does not travel.
    pub fn shard_key(mut self, key: impl Into<String>) -> Self {
        self.asked.shard_key = Some(key.into());
        self
    }

    /// In one message with others, up to `most` in all: 1 to 1,000; 1 is a message of its own, and otherwise the enqueue
    /// is refused.
    ///
    /// For many small jobs: what a broker carries is messages, and of fewer it carries many times as many jobs. Those
    /// that are enqueued by one call ([`Client::enqueue_all`](crate::Client::enqueue_all), or a stream), go to the same
    /// queue and are due at the same time travel together, at most 256 KiB of them. Each stays a job of its own, with an
    /// answer, an id, retries and a dead letter. What changes is what a crash repeats: a message is acknowledged when all
    /// its jobs are settled, so a worker that dies in the middle of one runs those again that it had finished. Where a
    /// job that takes long is among them, its neighbours are acknowledged when it ends.
    ///
    /// A bundle has one place in its queue: a job that asks for a priority too, or goes through an exchange, is
    /// refused. Where the type asks for it ([`JobOptions::bundle`]) such a job travels alone. Brokers without
    /// messages (SQLite, memory) write the jobs of one call together anyway, and make no difference.
    ///
    /// # Examples
    ///
    /// ```
    /// # use worker_core::{Client, prelude::*};
    /// # #[job] async fn resize(image: u64) {}
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for answer in client.enqueue_all((0..10_000).map(resize::new)).bundle(100).await {
    ///     answer?;
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn bundle(mut self, most: u16) -> Self {
        self.asked.bundle = Some(most);
        self
    }

    /// What one is asked for that somebody waits for: it expires `after` it, unless another date was asked for.
    ///
    /// # Errors
    ///
    /// A date to start at, which nobody can wait for, or an exchange to go through.
    pub(crate) fn for_caller(mut self, after: Duration) -> Result<Self, String> {
        if self.asked.due != Due::Now {
            return Err("it is a call and would be delayed: wait, and call then".into());
        }
        if self.asked.bundle.is_some_and(|most| most > 1) {
            return Err("it is a call, whose answer would wait for its neighbours: leave `bundle` out".into());
        }
        if self.asked.via.is_some() {
            return Err(
                "it is a call and would go through an exchange, where several may answer: call its queue".into()
            );
        }
        self.asked.expiry.get_or_insert(Expiry::In(after));
        Ok(self)
    }

    /// Dead-lettered as expired when it has not been started within `time`.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.asked.expiry = Some(Expiry::In(time));
        self
    }

    /// Dead-lettered as expired when it has not been started before `date`.
    pub fn expires_at(mut self, date: impl Into<SystemTime>) -> Self {
        self.asked.expiry = Some(Expiry::At(date.into().into()));
        self
    }
}

impl<J: Job> Enqueue<J> {
    /// Encodes the payload and forgets its type, so that jobs of several types fit into one list.
    ///
    /// # Errors
    ///
    /// The payload cannot be written as JSON, or an option is out of its range.
    pub fn erase(self) -> Result<Prepared, InvalidJob> {
        Prepared::encode(&self.job, self.asked)
    }
}

impl<J: Job> From<J> for Enqueue<J> {
    fn from(job: J) -> Self {
        Self::new(job)
    }
}

/// A job that is encoded and checked: ready to be enqueued, also again.
///
/// An enqueue whose outcome is unknown gives one back
/// ([`EnqueueError::into_job`](crate::EnqueueError::into_job)): it has the same job id.
#[derive(Debug, Clone)]
#[must_use = "nothing is enqueued until it is passed to `Client::enqueue`"]
pub struct Prepared {
    name: JobName,
    queue: QueueName,
    body: Body,
    route: Route,
    priority: Priority,
    queue_options: QueueOptions,
    /// What is asked of its queue as a whole, after a shard was chosen.
    sharded: Option<QueueOptions>,
    /// How many jobs may be in its message.
    bundle: Option<NonZeroU16>,
    asked: Asked,
}

impl Prepared {
    /// The name of the job's type.
    #[must_use]
    pub const fn name(&self) -> &JobName {
        &self.name
    }

    /// The queue of its type, into which it goes unless it goes [through an exchange](Enqueue::via); of an event,
    /// the name of its exchange. Into which of its [shards](crate::shard) it goes, [`route`](Self::route) tells.
    #[must_use]
    pub const fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Where it goes: of a queue with shards, the first until it is sent, and from then on the one that was chosen.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// What it asks of its queue; once it was sent, of the shard that was chosen.
    #[must_use]
    pub const fn queue_options(&self) -> &QueueOptions {
        &self.queue_options
    }

    /// Its id, once it has one.
    #[must_use]
    pub const fn id(&self) -> Option<&JobId> {
        self.asked.id.as_ref()
    }

    /// The size of its payload.
    pub(crate) const fn payload_bytes(&self) -> usize {
        self.body.0.len()
    }

    fn encode<J: Job>(job: &J, asked: Asked) -> Result<Self, InvalidJob> {
        let invalid = |problem: String| InvalidJob::new(J::NAME, problem);
        let name = J::NAME.parse::<JobName>().map_err(|error| invalid(error.to_string()))?;
        let queue = J::QUEUE.parse::<QueueName>().map_err(|error| invalid(error.to_string()))?;
        let body = serde_json::to_vec(job)
            .map_err(|error| invalid(format!("its payload cannot be written as JSON: {error}")))?;
        Self::checked(name, queue, body.into(), &J::OPTIONS, asked)
    }

    /// An event, for the exchange and with the key that are given, mandatory or not.
    pub(crate) fn event<E: Serialize>(
        name: &str,
        (exchange, key, mandatory): (&str, String, bool),
        event: &E,
        priority: Priority,
        like: Enqueue<()>,
    ) -> Result<Self, InvalidJob> {
        let invalid = |problem: String| InvalidJob::new(name, problem);
        let body = serde_json::to_vec(event)
            .map_err(|error| invalid(format!("its payload cannot be written as JSON: {error}")))?;
        let parsed = name.parse::<JobName>().map_err(|error| invalid(error.to_string()))?;
        // What is counted by queue is counted by exchange here.
        let queue = exchange.parse::<QueueName>().map_err(|error| invalid(error.to_string()))?;
        let (options, asked) = (JobOptions::DEFAULT.priority(priority), like.via(exchange, key).asked);
        let mut prepared = Self::checked(parsed, queue, body.into(), &options, asked)?;
        if let Route::Exchange { mandatory: asked, .. } = &mut prepared.route {
            *asked = mandatory;
        }
        Ok(prepared)
    }

    /// A job whose payload is JSON already.
    #[cfg(feature = "cli")]
    pub(crate) fn from_json<J>(
        name: JobName,
        queue: QueueName,
        body: Bytes,
        options: &JobOptions,
        like: Enqueue<J>,
    ) -> Result<Self, InvalidJob> {
        Self::checked(name, queue, body, options, like.asked)
    }

    fn checked(
        name: JobName,
        queue: QueueName,
        body: Bytes,
        options: &JobOptions,
        asked: Asked,
    ) -> Result<Self, InvalidJob> {
        let invalid = |problem: String| InvalidJob::new(name.as_str(), problem);
        let queue_options =
            options.queue_options().map_err(|error| invalid(format!("`dead_letter_queue`: {error}")))?;
        let priority = match asked.priority {
            None if options.priority == Priority::DEFAULT => queue_options.usual(),
            None => options.priority,
            Some(level) => Priority::new(level)
                .ok_or_else(|| invalid(format!("its priority is {level}; priorities are 0 to 31, higher first")))?,
        };
        if let Some(problem) = queue_options.problem(&queue).or_else(|| queue_options.refusal(priority)) {
            return Err(invalid(problem));
        }
        if let Due::In(delay) = asked.due
            && let Some(problem) = delay_problem(delay)
        {
            return Err(invalid(problem));
        }
        if let Some(problem) = asked.headers.problem() {
            return Err(invalid(problem));
        }
        let route = match &asked.via {
            None => Route::Queue(queue.clone()),
            Some((exchange, key)) => {
                if let Some(problem) = key_problem(key) {
                    return Err(invalid(problem));
                }
                let exchange = exchange.parse().map_err(|error: InvalidName| invalid(error.to_string()))?;
                Route::Exchange { name: exchange, key: key.clone(), mandatory: true }
            }
        };
        let ranks = asked.priority.is_some() || options.priority != Priority::DEFAULT;
        let bundle = bundle(asked.bundle, options.bundle, ranks, asked.via.is_some()).map_err(invalid)?;
        Ok(Self { name, queue, body: Body(body), route, priority, queue_options, sharded: None, bundle, asked })
    }

    /// With leave to share a message, as [`Enqueue::bundle`] gives it.
    pub(crate) fn bundled(mut self, most: u16) -> Result<Self, InvalidJob> {
        let ranks = self.asked.priority.is_some() || self.priority != self.queue_options.usual();
        self.bundle = bundle(Some(most), None, ranks, !matches!(self.route, Route::Queue(_)))
            .map_err(|problem| InvalidJob::new(self.name.as_str(), problem))?;
        Ok(self)
    }

    /// Chooses the shard, once and for all: from then on it asks for that queue alone, so that what is tried
    /// again goes where it may be already. Without a key, `turn` says whose it is.
    pub(crate) fn choose_shard(&mut self, turn: impl FnOnce(&QueueName, NonZeroU8) -> u8) {
        let (Some(shards), Route::Queue(route)) = (self.queue_options.shards, &mut self.route) else { return };
        let n = match &self.asked.shard_key {
            Some(key) => shard::of_key(key, shards),
            None => turn(&self.queue, shards),
        };
        // That there is a name was checked.
        if let Some(name) = shard::name(&self.queue, n) {
            *route = name;
        }
        let of_shard = self.queue_options.of_shard(n);
        self.sharded = Some(std::mem::replace(&mut self.queue_options, of_shard));
    }

    /// All shards of its queue, each with what is asked of it; none without shards, and before one was chosen.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (QueueName, QueueOptions)> {
        self.sharded.iter().flat_map(|options| {
            let names = options.queues(&self.queue).into_iter();
            names.map(|name| {
                let asked = options.of_shard(shard::number(&name));
                (name, asked)
            })
        })
    }

    /// The envelope, enqueued at `now` under `id`; this keeps the id for a next try.
    pub(crate) fn stamp(
        &mut self,
        now: Timestamp,
        fresh_id: impl FnOnce() -> JobId,
        payload_bytes_max: usize,
    ) -> Result<Envelope, InvalidJob> {
        let invalid = |problem: String| InvalidJob::new(self.name.as_str(), problem);
        if self.body.0.len() > payload_bytes_max {
            return Err(invalid(format!(
                "its payload has {} bytes; the limit is {payload_bytes_max}: store the data elsewhere and enqueue its key",
                self.body.0.len()
            )));
        }
        if let Due::At(date) = self.asked.due
            && let Some(problem) = delay_problem(date.since(now))
        {
            return Err(invalid(problem));
        }
        let expires_at = self.asked.expiry.map(|expiry| match expiry {
            Expiry::In(time) => now + time,
            Expiry::At(date) => date,
        });
        Ok(Envelope {
            id: self.asked.id.get_or_insert_with(fresh_id).clone(),
            route: self.route.clone(),
            name: Some(self.name.clone()),
            body: self.body.clone(),
            headers: self.asked.headers.clone(),
            priority: self.priority,
            due: self.asked.due,
            enqueued_at: now,
            expires_at,
            unknown_since: None,
            caller: None,
            bundle: self.bundle,
        })
    }
}

/// How many jobs may be in one message with one that asks for `asked`, and whose type asks for `usual`.
fn bundle(
    asked: Option<u16>,
    usual: Option<NonZeroU16>,
    ranks: bool,
    is_sent_on: bool,
) -> Result<Option<NonZeroU16>, String> {
    let most = asked.unwrap_or_else(|| usual.map_or(1, NonZeroU16::get));
    if !(1..=BUNDLE_MAX).contains(&most) {
        return Err(format!("its bundle would have {most} jobs; 1 to {BUNDLE_MAX} are possible, and 1 is none"));
    }
    let hindrance = match (ranks, is_sent_on) {
        (true, _) => "asks for a priority: a bundle has one place in its queue",
        (_, true) => "goes through an exchange, which chooses for each job",
        _ => return Ok(NonZeroU16::new(most).filter(|most| most.get() > 1)),
    };
    match asked {
        Some(2..) => Err(format!("it asks for a bundle and {hindrance}; leave one of them out")),
        _ => Ok(None),
    }
}

/// The job itself is wrong; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job `{name}` was not enqueued: {problem}")]
pub struct InvalidJob {
    pub(crate) name: String,
    pub(crate) problem: String,
}

impl InvalidJob {
    pub(crate) fn new(name: &str, problem: String) -> Self {
        Self { name: name.into(), problem }
    }
}

/// What [`Client::enqueue`](crate::Client::enqueue) takes: a job, a job with
/// options, or one that was prepared before.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be enqueued",
    note = "enqueue what a job's `new` returns: `client.enqueue(my_job::new(…))`"
)]
pub trait Enqueueable {
    /// Encodes and checks the job.
    ///
    /// # Errors
    ///
    /// See [`Enqueue::erase`].
    fn prepare(self) -> Result<Prepared, InvalidJob>;
}

impl<J: Job> Enqueueable for J {
    fn prepare(self) -> Result<Prepared, InvalidJob> {
        Enqueue::new(self).erase()
    }
}

impl<J: Job> Enqueueable for Enqueue<J> {
    fn prepare(self) -> Result<Prepared, InvalidJob> {
        self.erase()
    }
}

impl Enqueueable for Prepared {
    fn prepare(self) -> Result<Prepared, InvalidJob> {
        Ok(self)
    }
}

impl Enqueueable for Result<Prepared, InvalidJob> {
    /// So that a list of `erase()`d jobs can be enqueued without unwrapping each.
    fn prepare(self) -> Result<Prepared, InvalidJob> {
        self
    }
}

const _: () = assert!(PAYLOAD_BYTES_MAX <= 15 << 20, "RabbitMQ 4 refuses messages above 16 MiB");

#[cfg(test)]
mod tests;
