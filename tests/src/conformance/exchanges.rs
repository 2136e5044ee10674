//! What is published to an exchange, and where it comes out.

use std::time::Duration;

use serde_json::{Value, json};
use worker_core::{
    BrokerErrorKind, EnqueueFailure, ExchangeName, FailureKind,
    broker::{Broker, Selection, Topology},
    envelope::{Due, Envelope, Headers, Route},
    exchange::{Binding, ExchangeKind},
};

use crate::{
    consumer::Consumer,
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{QUEUE, bury, dead_ids, ids, job, jobs, queue_name, retry, sorted_ids},
};

fn exchange(name: &str) -> ExchangeName {
    name.parse().unwrap()
}

/// A message `id` for exchange `name` with this key.
fn message(id: &str, name: &str, key: &str) -> Envelope {
    let mut envelope = job(id);
    envelope.route = Route::Exchange { name: exchange(name), key: key.into(), mandatory: true };
    envelope
}

fn headers(value: &Value) -> Headers {
    serde_json::from_value(value.clone()).unwrap()
}

/// Two queues that get all of `events`, which is a fanout exchange.
async fn declare_fanout<F: BrokerFixture>(process: &Process<'_, F>) {
    let topology = Topology::queues([queue_name("a"), queue_name("b")])
        .exchange(exchange("events"), ExchangeKind::Fanout)
        .bind(Binding::by_key(exchange("events"), queue_name("a"), ""))
        .bind(Binding::by_key(exchange("events"), queue_name("b"), ""));
    process.broker.declare(&topology).await.unwrap();
}

/// A process on a broker that has exchanges; `None` where there are none, which is said.
async fn with_exchanges<F: BrokerFixture>(fx: &F) -> Option<Process<'_, F>> {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.exchanges {
        skipped(&capabilities, "no exchanges");
        return None;
    }
    Some(process)
}

/// Clause P1: all four kinds, with keys and headers that fit, that almost fit, and that do not.
pub async fn each_kind_of_exchange_chooses_its_queues<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    let (direct, fanout, topic, by_headers) =
        (exchange("direct"), exchange("fanout"), exchange("topic"), exchange("headers"));
    let (a, b, c) = (queue_name("a"), queue_name("b"), queue_name("c"));
    let pdf = || headers(&json!({"format": "pdf", "pages": 3}));
    let topology = Topology::queues([a.clone(), b.clone(), c.clone()])
        .exchange(direct.clone(), ExchangeKind::Direct)
        .exchange(fanout.clone(), ExchangeKind::Fanout)
        .exchange(topic.clone(), ExchangeKind::Topic)
        .exchange(by_headers.clone(), ExchangeKind::Headers)
        .bind(Binding::by_key(direct.clone(), a.clone(), "error"))
        .bind(Binding::by_key(direct.clone(), b.clone(), "info"))
        .bind(Binding::by_key(direct, c.clone(), "error"))
        .bind(Binding::by_key(fanout.clone(), a.clone(), "ignored"))
        .bind(Binding::by_key(fanout, b.clone(), ""))
        .bind(Binding::by_key(topic.clone(), a.clone(), "order.*"))
        .bind(Binding::by_key(topic.clone(), b.clone(), "#.created"))
        .bind(Binding::by_key(topic, c.clone(), "*.*.eu"))
        .exchange(exchange("wild"), ExchangeKind::Topic)
        .bind(Binding::by_key(exchange("wild"), a.clone(), "#"))
        .bind(Binding::by_key(exchange("wild"), b.clone(), "*"))
        .bind(Binding::by_all_headers(by_headers.clone(), a, pdf()))
        .bind(Binding::by_any_header(by_headers.clone(), b, pdf()))
        .bind(Binding::by_all_headers(by_headers, c, headers(&json!({"format": null}))));
    process.broker.declare(&topology).await.unwrap();
    let none = json!({});
    let published = [
        ("direct", "error", &none, "ac"),
        ("direct", "info", &none, "b"),
        ("direct", "errors", &none, ""),
        ("direct", "", &none, ""),
        ("fanout", "whatever", &none, "ab"),
        ("topic", "order.created", &none, "ab"),
        ("topic", "order", &none, ""),
        ("topic", "order.", &none, "a"),
        ("topic", "created", &none, "b"),
        ("topic", "order.created.eu", &none, "c"),
        ("topic", "a.b.c.created", &none, "b"),
        ("topic", "", &none, ""),
        ("wild", "", &none, "a"),
        ("wild", "x", &none, "ab"),
        ("wild", "x.", &none, "a"),
        ("headers", "order.created", &json!({"format": "pdf", "pages": 3, "more": true}), "abc"),
        ("headers", "", &json!({"format": "zip", "pages": 3}), "bc"),
        ("headers", "", &json!({"pages": 3}), "b"),
        ("headers", "", &json!({"pages": "3"}), ""),
        ("headers", "", &none, ""),
    ];
    for (n, (name, key, given, queues)) in published.into_iter().enumerate() {
        let mut envelope = message(&n.to_string(), name, key);
        envelope.headers = headers(given);
        let answers = process.broker.enqueue(vec![envelope]).await;
        let routed = answers[0].is_ok();
        assert_eq!(routed, !queues.is_empty(), "{name} `{key}` {given}: {answers:?}");
    }
    for queue in ["a", "b", "c"] {
        let expected: Vec<_> = (0..published.len()).filter(|n| published[*n].3.contains(queue)).collect();
        let mut consumer = process.consume_from(queue, 100).await;
        let mut found: Vec<usize> =
            ids(&consumer.take(expected.len()).await).iter().map(|id| id.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "queue {queue}");
        consumer.nothing().await;
    }
}

/// Clause P1: two patterns that fit the same key, and a binding declared twice.
pub async fn a_queue_gets_one_copy_however_many_of_its_bindings_fit<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    let bind = |key| Binding::by_key(exchange("events"), queue_name(QUEUE), key);
    let topology = Topology::default()
        .exchange(exchange("events"), ExchangeKind::Topic)
        .bind(bind("order.*"))
        .bind(bind("*.created"))
        .bind(bind("order.*"));
    process.broker.declare(&topology).await.unwrap();
    process.enqueue([message("one", "events", "order.created")]).await;
    let mut consumer = process.consume(10).await;
    consumer.expect("one").await;
    consumer.nothing().await;
}

/// Clause P2: one copy is done, the other fails, is retried and dies.
pub async fn each_copy_is_a_job_of_its_own<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    declare_fanout(&process).await;
    process.enqueue([message("one", "events", "k")]).await;
    let (mut a, mut b) = (process.consume_from("a", 10).await, process.consume_from("b", 10).await);
    let (done, failing) = (a.expect("one").await, b.expect("one").await);
    assert_eq!((done.attempt, failing.attempt), (1, 1));
    b.settle(failing, retry(Duration::ZERO)).await;
    let again = b.expect("one").await;
    assert_eq!(again.attempt, 2);
    a.ack(done).await;
    b.settle(again, bury(FailureKind::Error)).await;
    a.nothing().await;
    b.nothing().await;
    let dead = process.dead().await;
    assert_eq!((dead_ids(&dead), dead[0].queue.as_str()), (vec!["one".to_owned()], "b"));
}

/// Clause P3: no binding, one that does not fit, and all of it in one batch.
pub async fn what_no_queue_is_chosen_for_is_a_failure_where_it_was_mandatory<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    let topology = Topology::default()
        .exchange(exchange("events"), ExchangeKind::Direct)
        .exchange(exchange("deserted"), ExchangeKind::Fanout)
        .bind(Binding::by_key(exchange("events"), queue_name(QUEUE), "bound"));
    process.broker.declare(&topology).await.unwrap();
    let mut batch: Vec<_> = (0..300).map(|n| message(&format!("good{n}"), "events", "bound")).collect();
    batch[100] = message("nowhere", "events", "unbound");
    batch[200] = message("deserted", "deserted", "bound");
    let optional = |name, key: &str| Route::Exchange { name, key: key.into(), mandatory: false };
    batch[150].route = optional(exchange("events"), "unbound");
    batch[250].route = optional(exchange("deserted"), "");
    let answers = process.broker.enqueue(batch).await;
    for (n, answer) in answers.iter().enumerate() {
        match n {
            100 | 200 => assert!(matches!(answer, Err(EnqueueFailure::Unroutable)), "{n}: {answer:?}"),
            _ => assert!(answer.is_ok(), "{n}: {answer:?}"),
        }
    }
    let mut consumer = process.consume(300).await;
    let found = ids(&consumer.take(296).await);
    assert!(found.iter().all(|id| id.starts_with("good")), "{found:?}");
    consumer.nothing().await;
}

/// Clause P4: a missing exchange, and bindings of and to nothing.
pub async fn what_was_not_declared_is_refused_by_name_and_costs_its_neighbours_nothing<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    let mut batch: Vec<_> = jobs("good", 100).collect();
    batch[50] = message("lost", "missing", "k");
    batch[60] = message("lost_too", "missing", "k");
    let Route::Exchange { mandatory, .. } = &mut batch[60].route else { unreachable!() };
    *mandatory = false;
    let answers = process.broker.enqueue(batch).await;
    for (n, answer) in answers.iter().enumerate() {
        match (n, answer) {
            (50 | 60, Err(EnqueueFailure::Refused(error))) => {
                assert_eq!(error.kind(), BrokerErrorKind::Permanent, "{error}");
                assert!(error.to_string().contains("`missing`"), "{error}");
            }
            (50 | 60, answer) => panic!("{n}: {answer:?}"),
            (_, answer) => assert!(answer.is_ok(), "{n}: {answer:?}"),
        }
    }
    assert_eq!(process.consume(100).await.take(98).await.len(), 98);
    let events = || Topology::default().exchange(exchange("events"), ExchangeKind::Topic);
    for (topology, name) in [
        (Topology::default().bind(Binding::by_key(exchange("absent"), queue_name(QUEUE), "k")), "`absent`"),
        (events().bind(Binding::by_key(exchange("events"), queue_name("nowhere"), "k")), "`nowhere`"),
    ] {
        let error = process.broker.declare(&topology).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Permanent, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Clause P5: at the first delivery, after a retry, among the dead, and after a replay.
pub async fn a_copy_says_where_it_came_from_to_its_end<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    declare_fanout(&process).await;
    process.enqueue([message("one", "events", "order.créé")]).await;
    let origin = Some(("events", "order.créé"));
    let mut consumer = process.consume_from("a", 1).await;
    let delivery = consumer.expect("one").await;
    assert_eq!(delivery.envelope.origin(), origin);
    consumer.settle(delivery, retry(Duration::ZERO)).await;
    let delivery = consumer.expect("one").await;
    assert_eq!(delivery.envelope.origin(), origin);
    consumer.settle(delivery, bury(FailureKind::Error)).await;
    assert_eq!(process.inspector().replay(&Selection::default(), 10).await.unwrap(), 1);
    let delivery = consumer.expect("one").await;
    assert_eq!(delivery.envelope.origin(), origin);
    consumer.ack(delivery).await;
    process.enqueue([job("plain")]).await;
    assert_eq!(process.consume(1).await.expect("plain").await.envelope.origin(), None);
}

/// Clause P6: an exchange of another kind, and everything declared twice.
pub async fn an_exchange_of_another_kind_is_refused_with_both_kinds<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    let declare = async |kind| process.broker.declare(&Topology::default().exchange(exchange("events"), kind)).await;
    declare(ExchangeKind::Topic).await.unwrap();
    declare(ExchangeKind::Topic).await.unwrap();
    let error = declare(ExchangeKind::Fanout).await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Permanent, "{error}");
    let text = error.to_string();
    assert!(["`events`", "topic", "fanout"].iter().all(|part| text.contains(part)), "{text}");
    let twice = Topology::default()
        .exchange(exchange("other"), ExchangeKind::Topic)
        .exchange(exchange("other"), ExchangeKind::Direct);
    let error = process.broker.declare(&twice).await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Permanent, "{error}");
}

/// Clause P7: refused by name, and nothing is stored.
pub async fn a_delay_to_an_exchange_is_refused<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    declare_fanout(&process).await;
    let mut later = message("later", "events", "k");
    later.due = Due::In(Duration::from_millis(1));
    let answers = process.broker.enqueue(vec![later]).await;
    match &answers[0] {
        Err(EnqueueFailure::Refused(error)) => {
            assert_eq!(error.kind(), BrokerErrorKind::Unsupported);
            assert!(error.to_string().contains("delays to an exchange"), "{error}");
        }
        answer => panic!("{answer:?}"),
    }
    process.consume_from("a", 1).await.nothing().await;
}

/// Clause P1, P8: declared by one process, used by another, also when the first is gone.
pub async fn exchanges_and_bindings_are_there_for_all_processes<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_exchanges(fx).await else { return };
    declare_fanout(&process).await;
    let other = fx.bare_process().await;
    process.broker.close().await.unwrap();
    other.enqueue([message("one", "events", "k"), message("two", "events", "k")]).await;
    let mut consumers = [other.consume_from("a", 2).await, other.consume_from("b", 2).await];
    for consumer in &mut consumers {
        assert_eq!(sorted_ids(&Consumer::take(consumer, 2).await), ["one", "two"]);
    }
}
