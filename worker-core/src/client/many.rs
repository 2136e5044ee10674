//! Many jobs at once: what [`Client::enqueue_all`] returns.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use futures_util::{StreamExt as _, stream};

use crate::{
    client::{Client, Enqueued},
    error::EnqueueError,
    job::{InvalidJob, Prepared},
};

/// Jobs that are enqueued when it is awaited: see [`Client::enqueue_all`].
///
/// # Cancel safety
///
/// Not cancel safe: dropped after it was polled, any of the jobs may be enqueued.
#[must_use = "nothing is enqueued until it is awaited"]
pub struct EnqueueAll {
    client: Client,
    jobs: Vec<Result<Prepared, InvalidJob>>,
}

impl EnqueueAll {
    pub(super) const fn new(client: Client, jobs: Vec<Result<Prepared, InvalidJob>>) -> Self {
        Self { client, jobs }
    }

    /// Up to `most` of them in one message, 1 to 1,000: see [`Enqueue::bundle`](crate::Enqueue::bundle), which says
    /// when that pays, what it changes and which jobs are refused.
    pub fn bundle(mut self, most: u16) -> Self {
        self.jobs = self.jobs.into_iter().map(|job| job?.bundled(most)).collect();
        self
    }
}

impl IntoFuture for EnqueueAll {
    type Output = Vec<Result<Enqueued, EnqueueError>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { client, jobs } = self;
        Box::pin(async move { client.enqueue_stream(stream::iter(jobs)).collect().await })
    }
}

impl fmt::Debug for EnqueueAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueAll").field("jobs", &self.jobs.len()).finish_non_exhaustive()
    }
}
