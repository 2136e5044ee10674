//! apalis on RabbitMQ.
//!
//! As its README and its `Config` show it. What is peculiar to 1.0.0:
//!
//! * A worker on whose backend nothing was pushed panics at its start: `poll_ready` answers that it is ready once the
//!   queue is declared, and `poll_next` unwraps a consumer that is not there yet (`src/lib.rs`). Its examples and tests
//!   push first on the same backend, and so does this program, one job before the clock.
//! * Each push declares the queue again on a channel of its own (`src/sink.rs`, `poll_ready`), one after the other in a
//!   backend. Several backends push at once.

use std::process::ExitCode;

use apalis::prelude::*;
use apalis_amqp::{AmqpBackend, Config};
use peer_common::{Clock, Counter, Failure, Kind, Measured, Peer, TEXT, Work};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

static COUNTER: Counter = Counter::new();

/// Deliveries in hand. Of its default, 10, its documentation says that a higher value can improve throughput.
const PREFETCH: u16 = 256;
/// Backends that push at once: one pushes one after the other.
const BACKENDS: u64 = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noop {
    n: u64,
    text: String,
}

impl Noop {
    fn new(n: u64) -> Self {
        Self { n, text: TEXT.into() }
    }
}

async fn noop(job: Noop) -> Result<(), BoxDynError> {
    drop(job);
    COUNTER.ran();
    Ok(())
}

struct Apalis;

impl Peer for Apalis {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let mut first = backend(work)?;
        first.push(Noop::new(0)).await?;
        let mut backends = Vec::new();
        for n in 1..=BACKENDS {
            let mut backend = backend(work)?;
            // Its connection is made by its first push.
            backend.push(Noop::new(n)).await?;
            backends.push(backend);
        }
        let jobs = work.jobs.saturating_sub(BACKENDS + 1);
        let clock = Clock::start();
        let mut pushing = JoinSet::new();
        for (n, mut backend) in (0..BACKENDS).zip(backends) {
            let share = jobs / BACKENDS + u64::from(n < jobs % BACKENDS);
            pushing.spawn(async move {
                for n in 0..share {
                    backend.push(Noop::new(n)).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        pushing.join_all().await.into_iter().collect::<Result<(), _>>()?;
        Ok(clock.stop(jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        let mut backend = backend(work)?;
        backend.push(Noop::new(0)).await?;
        let jobs = work.jobs + 1;
        COUNTER.expect(jobs);
        let clock = Clock::start();
        let worker = WorkerBuilder::new("peer").backend(backend).build(noop);
        let done = async {
            COUNTER.all().await;
            Ok::<_, WorkerError>(())
        };
        worker.run_until(done).await?;
        Ok(clock.stop_at(jobs, COUNTER.last()?))
    }
}

fn backend(work: &Work) -> Result<AmqpBackend<Noop>, Failure> {
    let config = Config::default().queue(work.queue.as_str()).prefetch_count(PREFETCH);
    Ok(AmqpBackend::new_from_addr(&work.url)?.with_config(config.quorum(work.kind == Kind::Quorum)))
}

fn main() -> ExitCode {
    peer_common::run(&Apalis)
}
