//! Enqueueing: what `Ok` promises, and what a refusal leaves behind.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use worker_core::{
    BrokerErrorKind, EnqueueFailure, FailureKind, Headers, Priority, Timestamp,
    broker::{BATCH_MAX, Broker, Delivery},
    envelope::{Body, Due, Envelope, PAYLOAD_BYTES_MAX, Route},
    hours,
    settlement::Settlement,
};

use crate::{
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{QUEUE, assert_known, bury, dead_ids, ids, job, job_for, jobs, queue_name, release, retry, sorted_ids},
};

/// A job for an exchange.
fn exchanged(id: &str) -> Envelope {
    let mut envelope = job(id);
    envelope.route = Route::Exchange { name: "events".parse().unwrap(), key: "user.created".into(), mandatory: true };
    envelope
}

/// A job of the highest priority.
fn urgent(id: &str) -> Envelope {
    let mut envelope = job(id);
    envelope.priority = Priority::MAX;
    envelope
}

fn assert_unsupported(answer: &Result<(), EnqueueFailure>, what: &str) {
    let Err(EnqueueFailure::Refused(error)) = answer else { panic!("{answer:?} is no refusal") };
    assert_eq!(error.kind(), BrokerErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(what), "the refusal does not name {what}: {error}");
}

/// Clause E1: what was answered `Ok` survives the process that enqueued it.
pub async fn a_job_answered_ok_outlives_the_process_that_enqueued_it<F: BrokerFixture>(fx: &F) {
    let other = fx.process().await;
    for n in 0..5 {
        let doomed = fx.process().await;
        let mut delayed = job(format!("delayed{n}"));
        delayed.due = Due::In(hours(1));
        // Nothing is awaited between the answer and the death.
        let answers = doomed.broker.enqueue(vec![job(format!("ready{n}")), delayed]).await;
        doomed.crash().await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let mut consumer = other.consume(100).await;
    assert_eq!(sorted_ids(&consumer.take(5).await), ["ready0", "ready1", "ready2", "ready3", "ready4"]);
    assert_known(other.stats().await.delayed, 5);
}

/// Clause E1: where the broker is durable, what was answered `Ok` survives all processes.
pub async fn a_durable_broker_keeps_its_jobs_while_no_process_lives<F: BrokerFixture>(fx: &F) {
    let capabilities = fx.capabilities().await;
    if !capabilities.durable {
        return skipped(&capabilities, "not durable");
    }
    let mut dead = Vec::new();
    for n in 0..3 {
        let process = fx.process().await;
        process.enqueue(jobs(&format!("{n}-"), 10)).await;
        process.crash().await;
        dead.push(process);
    }
    drop(dead);
    let next = fx.bare_process().await;
    let mut consumer = next.consume(100).await;
    assert_eq!(consumer.take(30).await.len(), 30);
    consumer.nothing().await;
}

/// Clause E2: the largest batch, with good and bad envelopes in turn.
pub async fn a_full_batch_has_one_answer_per_envelope_in_its_order<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let batch: Vec<_> = (0..BATCH_MAX)
        .map(|n| match n % 3 {
            0 => job_for("nowhere", format!("unroutable{n}")),
            1 => job(format!("good{n}")),
            _ => exchanged(&format!("refused{n}")),
        })
        .collect();
    let good: Vec<_> =
        batch.iter().map(|envelope| envelope.id.to_string()).filter(|id| id.starts_with("good")).collect();
    let exchanges = fx.capabilities().await.exchanges;
    let answers = process.broker.enqueue(batch).await;
    assert_eq!(answers.len(), BATCH_MAX);
    for (n, answer) in answers.iter().enumerate() {
        match n % 3 {
            0 => assert!(matches!(answer, Err(EnqueueFailure::Unroutable)), "{n}: {answer:?}"),
            1 => assert!(answer.is_ok(), "{n}: {answer:?}"),
            _ => assert!(exchanges || matches!(answer, Err(EnqueueFailure::Refused(_))), "{n}: {answer:?}"),
        }
    }
    let mut consumer = process.consume(1_000).await;
    assert_eq!(ids(&consumer.take(good.len()).await), good);
    consumer.nothing().await;
}

/// Clause E2: batches of several processes at once.
pub async fn batches_enqueued_at_once_are_all_stored_each_in_its_order<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.process().await, fx.process().await);
    let enqueue = async |process: &Process<'_, F>, prefix: &str| {
        for n in 0..10 {
            process.enqueue(jobs(&format!("{prefix}-{n}-"), 20)).await;
        }
    };
    tokio::join!(enqueue(&one, "a"), enqueue(&two, "b"), enqueue(&one, "c"));
    let mut consumer = two.consume(1_000).await;
    let delivered = ids(&consumer.take(600).await);
    for prefix in ["a", "b", "c"] {
        let of_one: Vec<_> = delivered.iter().filter(|id| id.starts_with(prefix)).collect();
        let expected: Vec<_> = (0..200).map(|n| format!("{prefix}-{}-{}", n / 20, n % 20)).collect();
        assert!(of_one.into_iter().eq(&expected), "in order and complete");
    }
    consumer.nothing().await;
}

/// Clause E3: a queue that nobody declared.
pub async fn an_undeclared_queue_is_unroutable_and_costs_its_neighbours_nothing<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let answers = process.broker.enqueue(vec![job("a"), job_for("nowhere", "b"), job("c")]).await;
    assert!(
        matches!(*answers, [Ok(()), Err(EnqueueFailure::Unroutable), Ok(())]),
        "the one is unroutable, the others are stored: {answers:?}"
    );
    let mut consumer = process.consume(10).await;
    assert_eq!(ids(&consumer.take(2).await), ["a", "c"]);
    // The refusal did not declare the queue by the way.
    let queues = process.inspector().queues(&[queue_name("nowhere")]).await.unwrap();
    assert!(queues.iter().all(|stats| stats.queue == QUEUE), "{queues:?}");
}

/// Clause E3: a queue that another process declared exists.
pub async fn a_queue_declared_by_another_process_is_routable<F: BrokerFixture>(fx: &F) {
    let other = fx.bare_process().await;
    let before = other.broker.enqueue(vec![job("early")]).await;
    assert!(matches!(*before, [Err(EnqueueFailure::Unroutable)]), "{before:?}");
    let _declaring = fx.process().await;
    other.enqueue([job("late")]).await;
    other.consume(1).await.expect("late").await;
}

/// Clause E4: exchanges.
pub async fn an_exchange_is_refused_by_name_where_there_is_none<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if capabilities.exchanges {
        return skipped(&capabilities, "has exchanges");
    }
    let answers = process.broker.enqueue(vec![exchanged("a"), job("b")]).await;
    assert_unsupported(&answers[0], "exchanges");
    assert!(answers[1].is_ok());
    let mut consumer = process.consume(10).await;
    consumer.expect("b").await;
    consumer.nothing().await;
}

/// Clause E4: priorities.
pub async fn a_priority_is_refused_by_name_where_there_is_none<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if capabilities.priorities {
        return skipped(&capabilities, "has priorities");
    }
    if capabilities.two_priorities {
        return skipped(&capabilities, "has two priorities");
    }
    let mut lazy = job("lazy");
    lazy.priority = Priority::MIN;
    let answers = process.broker.enqueue(vec![urgent("urgent"), job("plain"), lazy]).await;
    assert_unsupported(&answers[0], "priorities");
    assert!(answers[1].is_ok());
    assert_unsupported(&answers[2], "priorities");
    let mut consumer = process.consume(10).await;
    consumer.expect("plain").await;
    consumer.nothing().await;
}

/// Clause E5: twice in one batch, and again later.
pub async fn one_id_enqueued_three_times_is_three_jobs<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("twin"), job("twin")]).await;
    let mut consumer = process.consume(10).await;
    let mut first_two = consumer.take(2).await;
    other.enqueue([job("twin")]).await;
    let third = consumer.expect("twin").await;
    // Each is settled on its own.
    consumer.settle(first_two.remove(0), bury(FailureKind::Error)).await;
    consumer.settle(first_two.remove(0), retry(Duration::ZERO)).await;
    consumer.ack(third).await;
    let again = consumer.expect("twin").await;
    assert_eq!(again.attempt, 2);
    consumer.settle(again, bury(FailureKind::Error)).await;
    let dead = process.dead().await;
    assert_eq!(dead_ids(&dead), ["twin", "twin"]);
    assert_eq!(dead.iter().map(|dead| dead.attempts).collect::<Vec<_>>(), [1, 2]);
    consumer.nothing().await;
}

/// Envelopes at the limits of every field.
fn extremes(priorities: bool) -> Vec<Envelope> {
    let longest_id = "!".to_owned() + &"x".repeat(254);
    let mut nameless = job(&longest_id);
    (nameless.name, nameless.body) = (None, Body::default());

    let mut unicode = job("018f6d2a-0000-7000-8000-000000000000");
    unicode.headers.insert("~", json!("żółw 🐢 \u{0} \n \" ' \\ ; DROP TABLE jobs; --"));
    unicode.headers.insert("nested", json!({"": [null, true, [[{}]], {"ключ": "значение"}]}));
    unicode.headers.insert("numbers", json!([0, -1, u64::MAX, i64::MIN, 0.1, 1.5e300, -0.0, 1e-7]));
    unicode.body = Body("{\"text\":\"\u{1F422}\u{0}\"}".into());

    let mut bytes = job("018F6D2A-0000-7000-8000-000000000000");
    bytes.name = Some("N".repeat(128).parse().unwrap());
    bytes.body = Body((0..=u8::MAX).collect::<Vec<_>>().into());
    bytes.enqueued_at = Timestamp::from_unix_ms(0);
    bytes.expires_at = Some(Timestamp::from_unix_ms(u64::MAX));

    let mut large = job("large");
    large.body = Body((0..251_u8).cycle().take(PAYLOAD_BYTES_MAX).collect::<Vec<_>>().into());
    large.expires_at = Some(Timestamp::from_unix_ms(1));
    large.enqueued_at = Timestamp::from_unix_ms(u64::MAX);

    if priorities {
        (nameless.priority, bytes.priority) = (Priority::MAX, Priority::MIN);
    }
    vec![nameless, unicode, bytes, large]
}

fn by_id(delivered: Vec<Delivery>) -> BTreeMap<String, Delivery> {
    delivered.into_iter().map(|delivery| (delivery.envelope.id.to_string(), delivery)).collect()
}

/// Clause E6: every field, at its limits, and on every later delivery as on the first.
pub async fn every_field_arrives_as_it_was_sent_and_stays_so<F: BrokerFixture>(fx: &F) {
    let (sender, receiver) = (fx.process().await, fx.process().await);
    let sent = extremes(sender.broker.capabilities().priorities);
    sender.enqueue(sent.clone()).await;
    let mut consumer = receiver.consume(10).await;
    for settlement in [
        release(Duration::ZERO),
        retry(Duration::ZERO),
        release(Duration::from_millis(20)),
        Settlement::Ack { reply: None },
    ] {
        let mut delivered = by_id(consumer.take(sent.len()).await);
        for sent in &sent {
            let delivery = delivered.remove(&sent.id.to_string()).expect("each is delivered, under its id");
            assert_eq!(delivery.queue, QUEUE);
            assert!(*delivery.envelope == *sent, "sent: {sent:?}, delivered: {:?}", delivery.envelope);
            consumer.settle(delivery, settlement.clone()).await;
        }
    }
    consumer.nothing().await;
}

/// Clause E6: a delivered envelope is not delayed any more, whatever it was.
pub async fn a_job_that_was_delayed_arrives_as_due_now<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let (mut relative, mut absolute) = (job("in"), job("at"));
    relative.due = Due::In(Duration::from_millis(30));
    absolute.due = Due::At(fx.date() + Duration::from_millis(30));
    process.enqueue([relative, absolute]).await;
    for delivery in process.consume(2).await.take(2).await {
        assert_eq!(delivery.envelope.due, Due::Now);
    }
}

/// Clause E6: no number in a header is rounded.
pub async fn a_number_in_a_header_keeps_all_its_digits<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    // Numbers from all over the range: a reader that is fast rather than exact
    // gets about one in a few hundred of them wrong.
    let mut draw = fastrand::Rng::with_seed(7);
    let numbers: Vec<f64> = std::iter::repeat_with(|| f64::from_bits(draw.u64(..)))
        .filter(|number| number.is_finite())
        .take(2_000)
        .collect();
    let of_headers = |numbers: &[f64]| {
        let mut headers = Headers::default();
        headers.insert("numbers", numbers);
        headers
    };
    for (n, numbers) in numbers.chunks(500).enumerate() {
        let mut envelope = job(n.to_string());
        envelope.headers = of_headers(numbers);
        process.enqueue([envelope]).await;
    }
    let mut consumer = process.consume(10).await;
    for (delivery, numbers) in consumer.take(4).await.iter().zip(numbers.chunks(500)) {
        assert!(delivery.envelope.headers == of_headers(numbers), "a number was rounded");
    }
}
