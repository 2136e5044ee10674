//! Which job comes next, and to whom.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    task::{JoinSet, yield_now},
    time::timeout,
};
use worker_core::{
    FailureKind, Priority, Timestamp,
    broker::{Begin, Broker, Delivery},
    envelope::{Due, Envelope},
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    eventually::soon,
    fixture::{BrokerFixture, skipped},
    sample::{bury, ids, job, job_for, jobs, release, retry},
};

/// A job `id` of this priority.
fn ranked(id: &str, level: u8) -> Envelope {
    let mut envelope = job(id);
    envelope.priority = Priority::new(level).unwrap();
    envelope
}

fn number(delivery: &Delivery) -> usize {
    delivery.envelope.id.to_string().parse().unwrap()
}

/// Clause D1: thousands of jobs, from two processes, taken in batches of every size and settled in any order.
pub async fn jobs_come_in_the_order_they_were_enqueued<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.process().await, fx.process().await);
    let count = 3_000;
    for (n, start) in (0..count).step_by(250).enumerate() {
        let process = if n % 2 == 0 { &one } else { &two };
        process.enqueue((start..start + 250).map(|n| job(n.to_string()))).await;
    }
    let mut consumer = two.consume(100).await;
    let mut delivered = Vec::with_capacity(count);
    let mut owned = Vec::new();
    let mut draw = fastrand::Rng::with_seed(1);
    while delivered.len() < count {
        let batch = consumer.batch(draw.usize(1..=60)).await;
        delivered.extend(batch.iter().map(number));
        owned.extend(batch);
        draw.shuffle(&mut owned);
        let kept = draw.usize(0..=owned.len().min(40));
        consumer.ack_all(owned.drain(kept..)).await;
    }
    assert!(delivered.iter().copied().eq(0..count), "not in order: {delivered:?}");
}

/// Clause D1: with several consumers each sees jobs in order, and together they see all of them.
pub async fn each_of_several_consumers_sees_jobs_in_order<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.process().await, fx.process().await);
    let count = 1_000;
    one.enqueue((0..count).map(|n| job(n.to_string()))).await;
    let mut consumers = [one.consume(7).await, two.consume(20).await, two.consume(3).await];
    let mut seen = [vec![], vec![], vec![]];
    let mut open = count;
    while open > 0 {
        for (consumer, seen) in consumers.iter_mut().zip(&mut seen) {
            // A consumer that gets nothing because others own the rest must not hold up the case.
            let Ok(batch) = timeout(fx.quiet(), consumer.source.next_batch(5)).await else { continue };
            let batch = batch.unwrap();
            open -= batch.len();
            seen.extend(batch.iter().map(number));
            consumer.ack_all(batch).await;
        }
    }
    assert!(seen.iter().all(|seen| seen.is_sorted()), "not in order: {seen:?}");
    let all: BTreeSet<_> = seen.iter().flatten().collect();
    assert_eq!((all.len(), seen.iter().map(Vec::len).sum::<usize>()), (count, count), "all of them, each once");
}

/// Clause D1: what was put behind is not drawn ahead by jobs that leave.
pub async fn order_survives_a_consumer_that_stops_and_another_that_goes_on<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.keeps_place {
        return skipped(&capabilities, "loses its place");
    }
    process.enqueue((0..60).map(|n| job(n.to_string()))).await;
    let mut delivered = Vec::new();
    for _ in 0..6 {
        let mut consumer = process.consume(30).await;
        let batch = consumer.take(10).await;
        delivered.extend(batch.iter().map(number));
        consumer.ack_all(batch).await;
        consumer.stop().await;
    }
    assert!(delivered.iter().copied().eq(0..60), "not in order: {delivered:?}");
}

/// Clause D2: all priorities, and age among equals.
pub async fn a_higher_priority_comes_first_and_age_decides_among_equals<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let capabilities = process.broker.capabilities();
    if !capabilities.priorities {
        return skipped(&capabilities, "no priorities");
    }
    let mut draw = fastrand::Rng::with_seed(2);
    let mut levels: Vec<u8> = (0..4).flat_map(|_| Priority::MIN.level()..=Priority::MAX.level()).collect();
    draw.shuffle(&mut levels);
    let sent: Vec<_> = levels.iter().enumerate().map(|(n, level)| ranked(&format!("{level}-{n}"), *level)).collect();
    for (n, envelope) in sent.iter().enumerate() {
        if n % 2 == 0 { &process } else { &other }.enqueue([envelope.clone()]).await;
    }
    let mut expected = sent;
    // A stable sort: among equals the order of the enqueue stays.
    expected.sort_by_key(|envelope| Reverse(envelope.priority));
    let expected: Vec<_> = expected.iter().map(|envelope| envelope.id.to_string()).collect();
    let mut consumer = other.consume(128).await;
    assert_eq!(ids(&consumer.take(expected.len()).await), expected);
}

/// Clause D2: a later arrival of a higher priority overtakes all that wait.
pub async fn an_urgent_job_overtakes_what_waits<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.priorities {
        return skipped(&capabilities, "no priorities");
    }
    process.enqueue(jobs("plain", 3)).await;
    let mut consumer = process.consume(1).await;
    let owned = consumer.expect("plain0").await;
    process.enqueue([ranked("lazy", 0), ranked("urgent", 31), ranked("soon", 5)]).await;
    consumer.ack(owned).await;
    for id in ["urgent", "soon", "plain1", "plain2", "lazy"] {
        let delivery = consumer.expect(id).await;
        consumer.ack(delivery).await;
    }
}

/// Clause D2: a job keeps its priority when it comes back.
pub async fn a_job_that_comes_back_keeps_its_priority<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.priorities {
        return skipped(&capabilities, "no priorities");
    }
    if !capabilities.ranks_returned {
        return skipped(&capabilities, "no rank for what comes back");
    }
    process.enqueue([ranked("released", 20), ranked("retried", 10)]).await;
    process.enqueue(jobs("plain", 2)).await;
    let mut consumer = process.consume(4).await;
    let mut owned = consumer.take(4).await;
    assert_eq!(ids(&owned), ["released", "retried", "plain0", "plain1"]);
    // Or a broker that pushes would give them to it again.
    consumer.stop().await;
    for settlement in [release(Duration::ZERO), release(Duration::ZERO), retry(Duration::ZERO), release(Duration::ZERO)]
    {
        // From the last to the first, so that the order they come back in is not the one they should have.
        consumer.settle(owned.pop().unwrap(), settlement).await;
    }
    let mut consumer = process.consume(1).await;
    // The order among equals that were delivered before is left open.
    for id in ["released", "retried", "plain", "plain"] {
        let delivery = consumer.one().await;
        assert!(delivery.envelope.id.to_string().starts_with(id), "{delivery:?} where {id} has the priority");
        consumer.ack(delivery).await;
    }
}

/// Clause D2: the refusal of the case before, with a release, a stop and a lost consumer.
pub async fn what_comes_back_comes_first_where_it_has_no_rank<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.priorities {
        return skipped(&capabilities, "no priorities");
    }
    if capabilities.ranks_returned {
        return skipped(&capabilities, "ranks what comes back");
    }
    process.enqueue([ranked("released", 0), ranked("owned", 0), ranked("fetched", 0)]).await;
    let mut consumer = process.consume(3).await;
    let mut owned = consumer.take(2).await;
    process.enqueue([ranked("urgent", 31)]).await;
    consumer.stop().await;
    consumer.settle(owned.remove(0), release(Duration::ZERO)).await;
    drop((consumer, owned));
    let mut consumer = process.consume(1).await;
    let mut back = Vec::new();
    for _ in 0..3 {
        let delivery = consumer.one().await;
        back.push(delivery.envelope.id.to_string());
        consumer.ack(delivery).await;
    }
    back.sort();
    assert_eq!(back, ["fetched", "owned", "released"], "before the urgent one");
    let delivery = consumer.expect("urgent").await;
    consumer.ack(delivery).await;
}

/// Clause D2: wherever there are priorities, a retry waits by its own.
pub async fn a_retried_job_keeps_its_priority<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.priorities {
        return skipped(&capabilities, "no priorities");
    }
    process.enqueue([ranked("low", 2), ranked("high", 20)]).await;
    let mut consumer = process.consume(2).await;
    let owned = consumer.take(2).await;
    assert_eq!(ids(&owned), ["high", "low"]);
    consumer.stop().await;
    process.enqueue([ranked("lowest", 1), ranked("between", 10), ranked("highest", 30)]).await;
    for delivery in owned {
        consumer.settle(delivery, retry(Duration::ZERO)).await;
    }
    let mut consumer = process.consume(1).await;
    for id in ["highest", "high", "between", "low", "lowest"] {
        let delivery = consumer.expect(id).await;
        consumer.ack(delivery).await;
    }
}

/// Clause D8: names that a careless comparison takes for one another.
pub async fn a_subscription_gets_jobs_of_its_queue_only<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let queues = ["a_b", "aXb", "A_B", "a_b_dlq", "a_", "a.b", "a-b", "a:b", "a_b_"];
    for queue in queues {
        process.declare(queue).await;
        process.enqueue((0..3).map(|n| job_for(queue, format!("{queue}{n}")))).await;
    }
    for queue in queues {
        let mut consumer = process.consume_from(queue, 20).await;
        let deliveries = consumer.take(3).await;
        assert_eq!(ids(&deliveries), [format!("{queue}0"), format!("{queue}1"), format!("{queue}2")]);
        assert!(deliveries.iter().all(|delivery| delivery.queue == queue));
        consumer.ack_all(deliveries).await;
        consumer.nothing().await;
    }
}

/// What the consumers of [`no_delivery_is_owned_by_two_consumers`] share.
#[derive(Default)]
struct Ownership {
    /// Jobs that someone owns now.
    owned: HashSet<String>,
    /// Jobs that were acknowledged.
    done: BTreeSet<String>,
}

/// Takes jobs until all are done, and gives each back twice before it acknowledges it.
async fn own_alone(consumer: Consumer, shared: Arc<Mutex<Ownership>>, count: usize, seed: u64) {
    let Consumer { mut source, settler, .. } = consumer;
    let mut draw = fastrand::Rng::with_seed(seed);
    while shared.lock().unwrap().done.len() < count {
        let next = timeout(Duration::from_millis(20), source.next_batch(draw.usize(1..=8)));
        let Ok(batch) = next.await else { continue };
        let mut batch = batch.unwrap();
        for delivery in &batch {
            let id = delivery.envelope.id.to_string();
            let mut shared = shared.lock().unwrap();
            assert!(!shared.done.contains(&id), "{id} was acknowledged, and is delivered again");
            assert!(shared.owned.insert(id.clone()), "{id} is owned by two consumers");
        }
        yield_now().await;
        draw.shuffle(&mut batch);
        for delivery in batch {
            assert_eq!(settler.begin(&delivery), Begin::Go);
            let id = delivery.envelope.id.to_string();
            let settlement = match delivery.attempt {
                1 if draw.bool() => release(Duration::ZERO),
                1 | 2 => retry(Duration::ZERO),
                _ => Settlement::Ack { reply: None },
            };
            {
                let mut shared = shared.lock().unwrap();
                shared.owned.remove(&id);
                if matches!(settlement, Settlement::Ack { .. }) {
                    shared.done.insert(id);
                }
            }
            soon("a settlement is answered", settler.submit(delivery, settlement)).await.unwrap();
        }
    }
}

/// Clause D9: six consumers of three processes at once, with jobs that come back.
pub async fn no_delivery_is_owned_by_two_consumers<F: BrokerFixture>(fx: &F) {
    let count = 300;
    let processes = [fx.process().await, fx.process().await, fx.process().await];
    processes[0].enqueue(jobs("job", count)).await;
    let shared = Arc::new(Mutex::new(Ownership::default()));
    let mut tasks = JoinSet::new();
    for (n, process) in processes.iter().cycle().take(6).enumerate() {
        let consumer = process.consume(10).await;
        tasks.spawn(own_alone(consumer, Arc::clone(&shared), count, n as u64));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(shared.lock().unwrap().done.len(), count);
    let mut late = processes[0].consume(10).await;
    late.nothing().await;
}

/// Clause D10: long expired, and still delivered.
pub async fn an_expired_job_is_delivered_with_its_date<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut expired = job("expired");
    expired.expires_at = Some(Timestamp::from_unix_ms(1));
    process.enqueue([expired]).await;
    let mut consumer = process.consume(2).await;
    let delivery = consumer.expect("expired").await;
    assert_eq!(delivery.envelope.expires_at, Some(Timestamp::from_unix_ms(1)));
    consumer.settle(delivery, retry(Duration::ZERO)).await;
    let again = consumer.expect("expired").await;
    assert_eq!((again.attempt, again.envelope.expires_at), (2, Some(Timestamp::from_unix_ms(1))));
}

/// Clause D11: whoever takes it, and whatever happened to another job of its id.
pub async fn a_first_delivery_has_attempt_1_and_no_starts<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("twin")]).await;
    let mut consumer = process.consume(2).await;
    for settlement in [retry(Duration::ZERO), retry(Duration::ZERO), bury(FailureKind::Error)] {
        let twin = consumer.one().await;
        consumer.begin(&twin);
        consumer.settle(twin, settlement).await;
    }
    drop(consumer);
    let mut delayed = job("delayed");
    delayed.due = Due::In(Duration::from_millis(10));
    process.enqueue([job("twin"), delayed, job("plain")]).await;
    for delivery in other.consume(10).await.take(3).await {
        assert_eq!((delivery.attempt, delivery.starts, delivery.is_suspect()), (1, 0, false), "{delivery:?}");
    }
}
