//! Priorities of queues that ask for them, whatever the broker has otherwise.

use std::{cmp::Reverse, time::Duration};

use worker_core::{
    BrokerErrorKind, EnqueueFailure, Priority,
    broker::{Broker as _, Capabilities},
    envelope::{Due, Envelope},
    queue::{QueueOptions, QueueType},
};

use crate::{
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{ids, job, job_for, jobs, retry},
};

/// A queue that tells 0 to 10 apart.
const RANKED: &str = "ranked";

fn ranked(id: &str, level: u8) -> Envelope {
    let mut envelope = job_for(RANKED, id);
    envelope.priority = Priority::new(level).unwrap();
    envelope
}

/// A process that has declared [`RANKED`], or why there is no such thing.
async fn ranking<F: BrokerFixture>(fx: &F) -> Result<Process<'_, F>, Capabilities> {
    let process = fx.bare_process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.queue_priorities {
        return Err(capabilities);
    }
    let asked = QueueOptions::default().queue_type(QueueType::Classic).max_priority(Priority::new(10).unwrap());
    process.declare_asking(RANKED, asked).await;
    Ok(process)
}

macro_rules! ranking {
    ($fx:expr) => {
        match ranking($fx).await {
            Ok(process) => process,
            Err(capabilities) => return skipped(&capabilities, "no priorities of queues"),
        }
    };
}

/// Clause D2: all that it tells apart, and age among equals.
pub async fn a_queue_that_asks_for_priorities_delivers_by_them_and_by_age<F: BrokerFixture>(fx: &F) {
    let process = ranking!(fx);
    let mut draw = fastrand::Rng::with_seed(3);
    let mut levels: Vec<u8> = (0..6).flat_map(|_| 0..=10).collect();
    draw.shuffle(&mut levels);
    let sent: Vec<_> = levels.iter().enumerate().map(|(n, level)| ranked(&format!("{level}-{n}"), *level)).collect();
    for envelope in &sent {
        process.enqueue([envelope.clone()]).await;
    }
    let mut expected = sent;
    // A stable sort: among equals the order of the enqueue stays.
    expected.sort_by_key(|envelope| Reverse(envelope.priority));
    let expected: Vec<_> = expected.iter().map(|envelope| envelope.id.to_string()).collect();
    let mut consumer = process.consume_from(RANKED, 128).await;
    assert_eq!(ids(&consumer.take(expected.len()).await), expected);
}

/// Clause D2: a later arrival of a higher priority overtakes all that wait.
pub async fn an_urgent_job_overtakes_what_waits_in_such_a_queue<F: BrokerFixture>(fx: &F) {
    let process = ranking!(fx);
    process.enqueue((0..3).map(|n| job_for(RANKED, format!("plain{n}")))).await;
    let mut consumer = process.consume_from(RANKED, 1).await;
    let owned = consumer.expect("plain0").await;
    process.enqueue([ranked("lazy", 0), ranked("urgent", 10), ranked("soon", 5)]).await;
    consumer.ack(owned).await;
    for id in ["urgent", "soon", "plain1", "plain2", "lazy"] {
        let delivery = consumer.expect(id).await;
        consumer.ack(delivery).await;
    }
}

/// Clause D2: a retry waits by its own priority, at once and after a pause.
pub async fn a_retried_job_keeps_its_priority_in_such_a_queue<F: BrokerFixture>(fx: &F) {
    let process = ranking!(fx);
    process.enqueue([ranked("low", 2), ranked("high", 8)]).await;
    let mut consumer = process.consume_from(RANKED, 2).await;
    let mut owned = consumer.take(2).await;
    assert_eq!(ids(&owned), ["high", "low"]);
    let (low, high) = (owned.pop().unwrap(), owned.pop().unwrap());
    let pause = Duration::from_millis(60);
    consumer.settle(low, retry(Duration::ZERO)).await;
    let low = consumer.expect("low").await;
    consumer.settle(high, retry(pause)).await;
    // It has waited and is where it belongs before the others come.
    let high = consumer.expect("high").await;
    assert_eq!((high.attempt, high.envelope.priority.level()), (2, 8));
    consumer.stop().await;
    process.enqueue([ranked("lowest", 1), ranked("between", 5), ranked("highest", 10)]).await;
    for delivery in [low, high] {
        consumer.settle(delivery, retry(Duration::ZERO)).await;
    }
    let mut consumer = process.consume_from(RANKED, 1).await;
    for id in ["highest", "high", "between", "low", "lowest"] {
        let delivery = consumer.expect(id).await;
        consumer.ack(delivery).await;
    }
}

/// Clause D2: what was delayed is overtaken, and overtakes, by its priority.
pub async fn a_delayed_job_waits_by_its_priority_once_it_is_due<F: BrokerFixture>(fx: &F) {
    let process = ranking!(fx);
    let mut delayed = ranked("delayed", 9);
    delayed.due = Due::In(Duration::from_millis(60));
    process.enqueue([ranked("first", 10), delayed]).await;
    let mut consumer = process.consume_from(RANKED, 1).await;
    let first = consumer.expect("first").await;
    process.enqueue([ranked("plain", 4), ranked("later", 10)]).await;
    fx.pass(Duration::from_millis(60) + fx.lateness()).await;
    consumer.ack(first).await;
    for id in ["later", "delayed", "plain"] {
        let delivery = consumer.expect(id).await;
        consumer.ack(delivery).await;
    }
}

/// Clause E4, D2: it is never lowered in silence.
pub async fn a_priority_above_the_highest_of_its_queue_is_refused_or_honoured<F: BrokerFixture>(fx: &F) {
    let process = ranking!(fx);
    process.enqueue([ranked("highest", 10)]).await;
    let answer = process.broker.enqueue(vec![ranked("above", 11)]).await.remove(0);
    let expected: &[&str] = match answer {
        Ok(()) => &["above", "highest"],
        Err(EnqueueFailure::Refused(error)) => {
            assert_eq!(error.kind(), BrokerErrorKind::Unsupported);
            let told = error.to_string();
            assert!(told.contains("priority 11") && told.contains("`ranked`") && told.contains("0 to 10"), "{told}");
            &["highest"]
        }
        Err(other) => panic!("{other:?}"),
    };
    let mut consumer = process.consume_from(RANKED, 10).await;
    assert_eq!(ids(&consumer.take(expected.len()).await), expected);
    consumer.nothing().await;
}

/// Clause D2: where a broker has two priorities in every queue, the higher comes first, and does not starve the other.
pub async fn two_priorities_are_told_apart_where_there_are_no_more<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.two_priorities {
        return skipped(&capabilities, if capabilities.priorities { "has priorities" } else { "no priorities" });
    }
    let with = |id: &str, level| {
        let mut envelope = job(id);
        envelope.priority = Priority::new(level).unwrap();
        envelope
    };
    process.enqueue(jobs("plain", 30)).await;
    process.enqueue((0..30).map(|n| with(&format!("high{n}"), if n % 2 == 0 { 5 } else { 31 }))).await;
    process.enqueue([with("lowest", 0)]).await;
    let mut consumer = process.consume(100).await;
    let delivered = ids(&consumer.take(61).await);
    let of = |name: &str| delivered.iter().filter(|id| id.starts_with(name)).cloned().collect::<Vec<_>>();
    // No finer: 5 and 31 come by age, as do 0 and 4.
    assert_eq!(of("high"), (0..30).map(|n| format!("high{n}")).collect::<Vec<_>>());
    assert_eq!(delivered.last().map(String::as_str), Some("lowest"), "{delivered:?}");
    let high_of_the_first_30 = delivered[..30].iter().filter(|id| id.starts_with("high")).count();
    assert_eq!(high_of_the_first_30, 20, "two for one: {delivered:?}");
}
