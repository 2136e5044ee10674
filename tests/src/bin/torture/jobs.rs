//! What workers run.

use std::{process, time::Duration};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use worker_core::{prelude::*, telemetry::DUPLICATES_SUSPECTED};
use worker_tests::torture::{
    fate::Fate,
    record::{Event, Record, Writer},
};

/// 256 ms, and 32 ms twice, of a ladder of powers of two.
const WAIT: Duration = Duration::from_millis(310);

/// Meets its fate. Twice again at most, which is [`ATTEMPTS_MAX`](worker_tests::torture::fate::ATTEMPTS_MAX).
#[job(queue = "toil", max_retries = 2, backoff = "200ms..1s", timeout = "1m")]
pub(crate) async fn toil(
    n: u64,
    fate: Fate,
    millis: u64,
    secret: String,
    cx: Context,
    records: State<Writer>,
) -> JobResult {
    // It is there to be looked for in what others say.
    drop(secret);
    let attempt = cx.attempt();
    records.write([Record::now(Event::Started, n, attempt)])?;
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    let fails = match fate {
        Fate::Kills => process::abort(),
        Fate::Succeeds => false,
        Fate::FailsOnce => attempt == 1,
        Fate::Fails => true,
    };
    let event = if fails { Event::Failed } else { Event::Succeeded };
    records.write([Record::now(event, n, attempt)])?;
    match fails {
        false => Ok(()),
        // By the ladder, and twice through its last level.
        true if (n / 32).is_multiple_of(2) => Err(JobError::retry_in(WAIT, "fails on purpose, and chooses its pause")),
        true => Err(JobError::from("fails on purpose")),
    }
}

/// Puts down what workers count as jobs that may run twice; a metric would be gone with its process.
pub(crate) struct Suspicions(pub(crate) std::sync::Arc<Writer>);

impl Recorder for Suspicions {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == DUPLICATES_SUSPECTED {
            Counter::from_arc(std::sync::Arc::new(Suspected(std::sync::Arc::clone(&self.0))))
        } else {
            Counter::noop()
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

struct Suspected(std::sync::Arc<Writer>);

impl CounterFn for Suspected {
    fn increment(&self, value: u64) {
        self.0.write([Record::now(Event::Suspected, value, 0)]).expect("records can be written");
    }

    fn absolute(&self, _: u64) {}
}
