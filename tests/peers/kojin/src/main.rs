//! kojin on RabbitMQ, as its example `amqp.rs` shows it. Its queues are classic ones, its messages persistent; it asks
//! for no confirms (`kojin-amqp`, `src/broker.rs`: no `confirm_select`), and acknowledges after the job has run.

use std::{process::ExitCode, time::Duration};

use async_trait::async_trait;
use kojin::{AmqpBroker, AmqpConfig, Broker, KojinBuilder, Task, TaskContext, TaskMessage, TaskResult};
use peer_common::{Clock, Counter, Failure, Measured, Peer, TEXT, Work};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

static COUNTER: Counter = Counter::new();

/// Deliveries in hand, and jobs that run at once; 10 by default.
const PREFETCH: u16 = 256;
/// Tasks that enqueue at once.
const TASKS: u64 = 64;

#[derive(Debug, Serialize, Deserialize)]
struct Noop {
    n: u64,
    text: String,
}

#[async_trait]
impl Task for Noop {
    const NAME: &'static str = "noop";
    type Output = ();

    async fn run(&self, _: &TaskContext) -> TaskResult<()> {
        COUNTER.ran();
        Ok(())
    }
}

struct Kojin;

impl Peer for Kojin {
    async fn enqueue(&self, work: &Work) -> Result<Measured, Failure> {
        // A broker consumes the queues that it was made with. One declares them; the one that enqueues has none, so
        // that it does not take its own jobs.
        drop(connect(work, true).await?);
        let broker = connect(work, false).await?;
        let mut enqueueing = JoinSet::new();
        let clock = Clock::start();
        for task in 0..TASKS {
            let (broker, queue) = (broker.clone(), work.queue.clone());
            let share = work.jobs / TASKS + u64::from(task < work.jobs % TASKS);
            enqueueing.spawn(async move {
                for n in 0..share {
                    let payload = serde_json::to_value(Noop { n, text: TEXT.into() })?;
                    broker.enqueue(TaskMessage::new(Noop::NAME, &queue, payload)).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        enqueueing.join_all().await.into_iter().collect::<Result<(), _>>()?;
        Ok(clock.stop(work.jobs))
    }

    async fn process(&self, work: &Work) -> Result<Measured, Failure> {
        COUNTER.expect(work.jobs);
        // Connecting begins to consume, so it is in the time.
        let clock = Clock::start();
        let broker = connect(work, true).await?;
        let worker = KojinBuilder::new(broker)
            .register_task::<Noop>()
            .concurrency(PREFETCH.into())
            .queues(vec![work.queue.clone()])
            .build();
        let cancel = worker.cancel_token();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            COUNTER.all().await;
            cancel.cancel();
        });
        worker.run().await;
        let measured = clock.stop_at(work.jobs, COUNTER.last()?);
        // Its acknowledgements are on their way; closing its connection is left to the end of the process.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(measured)
    }
}

async fn connect(work: &Work, with_queue: bool) -> Result<AmqpBroker, Failure> {
    let config = AmqpConfig::new(&work.url).with_prefetch_count(PREFETCH);
    let queues: Vec<_> = with_queue.then(|| work.queue.clone()).into_iter().collect();
    Ok(AmqpBroker::new(config, &queues).await?)
}

fn main() -> ExitCode {
    peer_common::run(&Kojin)
}
