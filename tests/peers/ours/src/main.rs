//! Our framework, driven as the peers are.

use std::{ops::Range, process::ExitCode, time::Duration};

use peer_common::{Clock, Counter, Failure, Kind, Measured, Peer, TEXT, Work};
use tokio::time::sleep;
use worker_core::{Registry, prelude::*};

static COUNTER: Counter = Counter::new();

/// Deliveries in hand, as in the benchmark's row P1 (`docs/performance.md`): half of them run at once.
const PREFETCH: usize = 256;
/// SQLite claims in batches; the slots of the benchmark's row P6.
const SQLITE_SLOTS: usize = 128;

/// In a quorum queue: there is no other that survives the loss of a node, so it is the default.
#[job]
async fn noop(n: u64, text: String) {
    drop((n, text));
    COUNTER.ran();
}

/// In a classic queue, for peers that have no other.
#[job(queue = "classic", queue_type = "classic")]
async fn noop_classic(n: u64, text: String) {
    drop((n, text));
    COUNTER.ran();
}

struct Ours;

impl Peer for Ours {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let client = Client::connect(&address(work)).await?;
        // The queue is declared at the first job; the clock is for what comes after it.
        enqueue(&client, work.kind, 0..1).await?;
        let clock = Clock::start();
        enqueue(&client, work.kind, 1..work.jobs).await?;
        Ok(clock.stop(work.jobs - 1))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        let client = Client::connect(&address(work)).await?;
        COUNTER.expect(work.jobs);
        let registry = match work.kind {
            Kind::Quorum => Registry::new().with::<noop>(),
            Kind::Classic => Registry::new().with::<noop_classic>(),
        };
        let sqlite = !work.url.starts_with("amqp");
        let slots = if sqlite { SQLITE_SLOTS } else { PREFETCH / 2 };
        let clock = Clock::start();
        let worker = Worker::builder(&client).registry(registry).concurrency(slots).prefetch(2 * slots).build()?;
        let status = worker.status();
        let mut measured = None;
        let done = async {
            COUNTER.all().await;
            // The acknowledgements too: the broker has confirmed them when they count as settled.
            while status.settled() < work.jobs {
                sleep(Duration::from_millis(1)).await;
            }
            measured = Some(clock.stop(work.jobs));
        };
        worker.run(done).await?;
        client.close().await?;
        measured.ok_or_else(|| "the worker ended before its jobs".into())
    }

    async fn count(&self, work: &Work) -> Result<u64, Failure> {
        let client = Client::connect(&address(work)).await?;
        let inspector = client.broker().inspector().ok_or("this broker cannot count")?;
        let queues = inspector.queues(&[]).await?;
        Ok(queues.iter().map(|stats| stats.unfinished() + stats.dead).sum())
    }
}

async fn enqueue(client: &Client, kind: Kind, jobs: Range<u64>) -> Result<(), Failure> {
    let answers = match kind {
        Kind::Quorum => client.enqueue_all(jobs.map(|n| noop::new(n, TEXT))).await,
        Kind::Classic => client.enqueue_all(jobs.map(|n| noop_classic::new(n, TEXT))).await,
    };
    answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(Into::into)
}

fn address(work: &Work) -> String {
    if work.url.starts_with("amqp") { work.url.clone() } else { format!("sqlite://{}", work.url) }
}

fn main() -> ExitCode {
    peer_common::run(&Ours)
}
