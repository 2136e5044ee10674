//! celery, the Rust crate, on RabbitMQ, as its README shows it. Its queues are classic ones; it asks for no confirms.

#![expect(non_local_definitions, reason = "its attribute writes them, which is older than the lint")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use celery::{Celery, prelude::*};
use peer_common::{Clock, Counter, Failure, Measured, Peer, TEXT, Work};
use tokio::task::JoinSet;

static COUNTER: Counter = Counter::new();

/// Deliveries in hand, which all run at once; its example has 2.
const PREFETCH: u16 = 256;
/// Tasks that enqueue at once.
const TASKS: u64 = 64;

#[celery::task]
async fn noop(n: u64, text: String) -> TaskResult<()> {
    drop((n, text));
    COUNTER.ran();
    Ok(())
}

struct RustyCelery;

impl Peer for RustyCelery {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        let app = connect(work).await?;
        let mut enqueueing = JoinSet::new();
        let clock = Clock::start();
        for task in 0..TASKS {
            let app = Arc::clone(&app);
            let share = work.jobs / TASKS + u64::from(task < work.jobs % TASKS);
            enqueueing.spawn(async move {
                for n in 0..share {
                    app.send_task(noop::new(n, TEXT.into())).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        enqueueing.join_all().await.into_iter().collect::<Result<(), _>>()?;
        Ok(clock.stop(work.jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        COUNTER.expect(work.jobs);
        let app = connect(work).await?;
        let clock = Clock::start();
        let done = async {
            COUNTER.all().await;
            // It ends by a signal only; its last acknowledgements are on their way.
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let queues = [work.queue.as_str()];
        tokio::select! {
            ended = app.consume_from(&queues) => ended?,
            () = done => {}
        }
        Ok(clock.stop_at(work.jobs, COUNTER.last()?))
    }
}

async fn connect(work: &Work) -> Result<Arc<Celery>, Failure> {
    let app = celery::app!(
        broker = AMQPBroker { work.url.clone() },
        tasks = [noop],
        task_routes = ["*" => &work.queue],
        prefetch_count = PREFETCH,
        // Otherwise a job is acknowledged before it runs, and is lost with its worker.
        acks_late = true,
    );
    Ok(app.await?)
}

fn main() -> ExitCode {
    peer_common::run(&RustyCelery)
}
