//! Delayed jobs: never early, prompt when due, in nobody's way.

use std::time::Duration;

use worker_core::{
    Clock as _, Priority, Timestamp, TokioClock,
    broker::{Broker as _, Delivery},
    envelope::{Due, Envelope},
    hours,
};

use crate::{
    consumer::Consumer,
    fixture::BrokerFixture,
    sample::{assert_known, ids, job, jobs},
};

/// Dates have whole milliseconds, so a delay between two of them may look this much shorter.
const GRAIN: Duration = Duration::from_millis(2);

/// A job that is due like this.
fn due(id: &str, due: Due) -> Envelope {
    let mut envelope = job(id);
    envelope.due = due;
    envelope
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The next delivery, of the job `id`, which must come when `delay` has passed since `start`.
async fn on_time<F: BrokerFixture>(
    fx: &F,
    consumer: &mut Consumer,
    id: &str,
    (watch, start): (TokioClock, Timestamp),
    delay: Duration,
) -> Delivery {
    let delivery = consumer.expect(id).await;
    let waited = watch.now().since(start);
    assert!(waited + GRAIN >= delay, "{id} is early: after {waited:?} instead of {delay:?}");
    assert!(waited <= delay + fx.lateness(), "{id} is late: after {waited:?} instead of {delay:?}");
    delivery
}

/// Clause D3: a delay and a date, for a consumer that waits already.
pub async fn a_delayed_job_comes_when_it_is_due<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let mut consumer = other.consume(10).await;
    let watch = TokioClock::starting_now();
    for delay in [ms(1), ms(70), ms(400)] {
        for absolute in [false, true] {
            let start = watch.now();
            let how = if absolute { Due::At(fx.date() + delay) } else { Due::In(delay) };
            let (delivery, ()) = tokio::join!(
                on_time(fx, &mut consumer, "job", (watch, start), delay),
                process.enqueue([due("job", how)])
            );
            consumer.ack(delivery).await;
        }
    }
}

/// Clause D3: due in another order than enqueued.
pub async fn delayed_jobs_come_in_the_order_they_are_due<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let watch = TokioClock::starting_now();
    let delays = [ms(900), ms(300), ms(600), ms(1_200)];
    let start = watch.now();
    process.enqueue(delays.map(|delay| due(&format!("{}", delay.as_millis()), Due::In(delay)))).await;
    let mut consumer = process.consume(10).await;
    for delay in [ms(300), ms(600), ms(900), ms(1_200)] {
        let id = delay.as_millis().to_string();
        on_time(fx, &mut consumer, &id, (watch, start), delay).await;
    }
}

/// Clause D3: a wait for a later job ends for an earlier one that comes in between.
pub async fn a_wait_is_shortened_by_a_job_that_is_due_earlier<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let watch = TokioClock::starting_now();
    let mut consumer = other.consume(10).await;
    let later = watch.now();
    process.enqueue([due("later", Due::In(ms(1_200)))]).await;
    let mut sooner = later;
    let meanwhile = async {
        fx.pass(ms(100)).await;
        sooner = watch.now();
        process.enqueue([due("sooner", Due::In(ms(300)))]).await;
    };
    let (delivery, ()) = tokio::join!(consumer.expect("sooner"), meanwhile);
    let waited = watch.now().since(sooner);
    assert!(waited + GRAIN >= ms(300) && waited <= ms(300) + fx.lateness(), "after {waited:?} instead of 300 ms");
    consumer.ack(delivery).await;
    on_time(fx, &mut consumer, "later", (watch, later), ms(1_200)).await;
}

/// Clause D3: a date in the past, the present date, and no delay at all.
pub async fn a_delay_that_is_over_already_is_none<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let watch = TokioClock::starting_now();
    let start = watch.now();
    let past = Timestamp::from_unix_ms(1);
    process
        .enqueue([
            due("past", Due::At(past)),
            due("zero", Due::In(Duration::ZERO)),
            due("present", Due::At(fx.date())),
            job("plain"),
        ])
        .await;
    let mut consumer = process.consume(10).await;
    assert_eq!(ids(&consumer.take(4).await), ["past", "zero", "present", "plain"]);
    assert!(watch.now().since(start) <= fx.lateness());
}

/// Clause D3: the longest delay is taken, and not for a short one.
pub async fn a_far_date_stays_far<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let year = hours(366 * 24);
    process.enqueue([due("in", Due::In(year)), due("at", Due::At(fx.date() + year))]).await;
    let mut consumer = process.consume(10).await;
    consumer.nothing().await;
    assert_known(process.stats().await.delayed, 2);
}

/// Clause D4: a crowd of delayed jobs, some of them about to be due.
pub async fn a_delayed_job_holds_up_no_other<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let delayed = |n: usize| {
        let mut envelope = due(&format!("delayed{n}"), Due::In(hours(24) + ms(n as u64)));
        if process.broker.capabilities().priorities {
            envelope.priority = Priority::MAX;
        }
        envelope
    };
    process.enqueue((0..500).map(delayed)).await;
    process.enqueue(jobs("plain", 50)).await;
    // With less room than there are delayed jobs.
    let mut consumer = process.consume(3).await;
    for n in 0..50 {
        let delivery = consumer.expect(&format!("plain{n}")).await;
        consumer.ack(delivery).await;
    }
    consumer.nothing().await;
    assert_known(process.stats().await.delayed, 500);
}
