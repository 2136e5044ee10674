//! queuey on RabbitMQ: the most careful of the peers. Each publish is persistent, mandatory and confirmed before it is
//! `Ok`, each job acknowledged after it has run. Its queues are classic ones.

use std::process::ExitCode;

use peer_common::{Clock, Counter, Failure, Measured, Peer, TEXT, Work};
use queuey::{RabbitMqOptions, prelude::*};
use tokio::task::JoinSet;

static COUNTER: Counter = Counter::new();

/// Publishes on their way at once, each on a channel of its own. Of the default, 8, its documentation says to raise it
/// where the confirm's way is what limits, as it is here.
const PUBLISHES: usize = 64;

/// The prefetch is what runs at once, too: `concurrency` is not set. The default is 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Queues)]
enum Jobs {
    #[queue(prefetch = 256)]
    Noops,
}

#[derive(Debug, Serialize, Deserialize, Job)]
#[job(queue = Jobs::Noops)]
struct Noop {
    n: u64,
    text: String,
}

struct Handler;

#[async_trait]
impl JobHandler for Handler {
    type Job = Noop;

    async fn handle(&self, job: Noop, _: JobContext) -> Result<(), JobError> {
        drop(job);
        COUNTER.ran();
        Ok(())
    }
}

struct Queuey;

impl Peer for Queuey {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let producer = Producer::<Jobs, _>::new(connect(work).await?).await?;
        // Its channels are opened by its first publishes.
        enqueue(&producer, PUBLISHES as u64).await?;
        let jobs = work.jobs.saturating_sub(PUBLISHES as u64);
        let clock = Clock::start();
        enqueue(&producer, jobs).await?;
        Ok(clock.stop(jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        COUNTER.expect(work.jobs);
        let backend = connect(work).await?;
        let clock = Clock::start();
        let worker = Worker::<Jobs, _>::builder(backend).handler(Handler).close_backend_on_shutdown(true);
        let worker = worker.build().await?;
        let handle = worker.handle();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            COUNTER.all().await;
            handle.shutdown();
        });
        worker.run().await?;
        Ok(clock.stop_at(work.jobs, COUNTER.last()?))
    }
}

/// From as many tasks as publishes can be on their way.
async fn enqueue(producer: &Producer<Jobs, RabbitMqBackend>, jobs: u64) -> Result<(), Failure> {
    let tasks = PUBLISHES as u64;
    let mut enqueueing = JoinSet::new();
    for task in 0..tasks {
        let producer = producer.clone();
        enqueueing.spawn(async move {
            for n in 0..jobs / tasks + u64::from(task < jobs % tasks) {
                producer.enqueue(&Noop { n, text: TEXT.into() }).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    enqueueing.join_all().await.into_iter().collect()
}

async fn connect(work: &Work) -> Result<Arc<RabbitMqBackend>, Failure> {
    let options = RabbitMqOptions::default().publish_concurrency(PUBLISHES);
    Ok(Arc::new(RabbitMqBackend::with_options(&work.url, options).await?))
}

fn main() -> ExitCode {
    peer_common::run(&Queuey)
}
