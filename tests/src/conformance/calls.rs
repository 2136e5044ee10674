//! Calls: jobs whose reply somebody waits for.

use std::time::Duration;

use futures_util::{
    FutureExt as _,
    future::{join_all, select},
};
use tokio::time::timeout;
use worker_core::{
    BrokerErrorKind, CallFailure, EnqueueFailure, Failure, FailureKind,
    broker::{Broker, Delivery, Selection},
    envelope::{Body, Caller, Envelope},
    reply::Reply,
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    eventually::soon,
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{assert_counts, bury, dead_ids, job, job_for, release, retry},
};

/// A process on a broker that has calls; `None` where there are none, which is said.
async fn with_calls<F: BrokerFixture>(fx: &F) -> Option<Process<'_, F>> {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if !capabilities.calls {
        skipped(&capabilities, "no calls");
        return None;
    }
    Some(process)
}

fn value(text: &str) -> Reply {
    Reply::Returned(Body(text.to_owned().into()))
}

fn failure(text: &str) -> Reply {
    Reply::Failed(Failure::new(FailureKind::Error, text))
}

const fn answer(reply: Reply) -> Settlement {
    Settlement::Ack { reply: Some(reply) }
}

/// A call that may be retried.
fn with_retries(id: &str) -> Envelope {
    let caller = Caller { address: String::new(), correlation: String::new(), retries: true };
    let mut envelope = job(id);
    envelope.caller = Some(caller);
    envelope
}

/// Waits for a call, and for what is done about it meanwhile.
async fn called<F: BrokerFixture, T>(
    process: &Process<'_, F>,
    envelope: Envelope,
    meanwhile: impl Future<Output = T>,
) -> (Result<Reply, CallFailure>, T) {
    soon("the call is answered", async { tokio::join!(process.broker.call(envelope), meanwhile) }).await
}

fn caller(delivery: &Delivery) -> &Caller {
    delivery.envelope.caller.as_ref().expect("it is a call")
}

/// Clause C1: a value, a failure, and one that comes by all the ways that a job can go.
pub async fn a_call_is_answered_with_what_its_job_is_acknowledged_with<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let mut consumer = process.consume(8).await;
    let (reply, ()) = called(&process, job("a"), async {
        let delivery = consumer.expect("a").await;
        assert!(!caller(&delivery).retries);
        consumer.settle(delivery, answer(value(r#"{"sum":3}"#))).await;
    })
    .await;
    assert_eq!(reply.unwrap(), value(r#"{"sum":3}"#));
    let (reply, ()) = called(&process, job("b"), async {
        let delivery = consumer.expect("b").await;
        consumer.settle(delivery, answer(failure("no \"sum\""))).await;
    })
    .await;
    assert_eq!(reply.unwrap(), failure("no \"sum\""));
    let (reply, ()) = called(&process, with_retries("c"), async {
        for settlement in [release(Duration::ZERO), release(Duration::from_millis(20)), retry(Duration::ZERO)] {
            let delivery = consumer.expect("c").await;
            assert!(caller(&delivery).retries, "before {settlement:?}");
            consumer.settle(delivery, settlement).await;
        }
        let delivery = consumer.expect("c").await;
        assert_eq!(delivery.attempt, 2);
        consumer.settle(delivery, answer(value("7"))).await;
    })
    .await;
    assert_eq!(reply.unwrap(), value("7"));
    assert_counts(&process.stats().await, [0, 0, 0, 0]);
}

/// Clause C1, C6: the worker that has it dies, and another answers.
pub async fn a_call_survives_the_worker_that_had_it<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let first = fx.process().await;
    let mut consumer = first.consume(1).await;
    let (reply, ()) = called(&process, job("a"), async {
        let delivery = consumer.expect("a").await;
        first.crash().await;
        drop(delivery);
        let second = fx.process().await;
        let mut other = second.consume(1).await;
        let delivery = other.expect("a").await;
        other.settle(delivery, answer(value("2"))).await;
    })
    .await;
    assert_eq!(reply.unwrap(), value("2"));
}

/// Clause C2: fifty calls of one job's id, answered in the opposite order.
pub async fn calls_get_their_own_replies_in_whatever_order<F: BrokerFixture>(fx: &F) {
    const CALLS: usize = 50;
    let Some(process) = with_calls(fx).await else { return };
    let mut consumer = process.consume(100).await;
    let call = |n: usize| {
        let mut envelope = job("same");
        envelope.body = Body(n.to_string().into());
        process.broker.call(envelope)
    };
    let calls = join_all((0..CALLS).map(call));
    let work = async {
        let mut deliveries = consumer.take(CALLS).await;
        deliveries.reverse();
        for delivery in deliveries {
            let reply = Reply::Returned(delivery.envelope.body.clone());
            consumer.settle(delivery, answer(reply)).await;
        }
    };
    let (replies, ()) = soon("all calls are answered", async { tokio::join!(calls, work) }).await;
    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.unwrap(), value(&n.to_string()));
    }
}

/// Clause C3: a call that is not waited for any more, and one that is made after it.
pub async fn a_dropped_call_is_forgotten_and_its_reply_changes_nothing<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let mut consumer = process.consume(8).await;
    let delivery = {
        let arrival = Box::pin(consumer.expect("a"));
        match soon("the call arrives", select(process.broker.call(job("a")), arrival)).await {
            futures_util::future::Either::Right((delivery, _call)) => delivery,
            futures_util::future::Either::Left((reply, _)) => panic!("nobody has answered: {reply:?}"),
        }
    };
    consumer.settle(delivery, answer(value("1"))).await;
    let (reply, ()) = called(&process, job("b"), async {
        let delivery = consumer.expect("b").await;
        consumer.settle(delivery, answer(value("2"))).await;
    })
    .await;
    assert_eq!(reply.unwrap(), value("2"));
    assert_counts(&process.stats().await, [0, 0, 0, 0]);
}

/// Clause C4, C8: a caller that closes its broker while two of its calls run.
pub async fn a_caller_that_is_gone_costs_nothing_and_its_failure_is_kept<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let caller = fx.process().await;
    let mut consumer = process.consume(8).await;
    let calls = async { tokio::join!(caller.broker.call(job("a")), caller.broker.call(job("b"))) };
    let work = async {
        let mut deliveries = consumer.take(2).await;
        caller.broker.close().await.expect("it can be closed");
        deliveries.sort_by_key(|delivery| delivery.envelope.id.to_string());
        deliveries
    };
    let ((a, b), mut deliveries) = soon("the calls end", async { tokio::join!(calls, work) }).await;
    assert!(matches!((&a, &b), (Err(CallFailure::Lost(_)), Err(CallFailure::Lost(_)))), "{a:?}, {b:?}");
    consumer.settle(deliveries.remove(0), answer(value("1"))).await;
    consumer.settle(deliveries.remove(0), answer(failure("no"))).await;
    let page = process.dead().await;
    assert_eq!(dead_ids(&page), ["b"], "the failure that nobody was told");
    assert_eq!(page[0].failure, Failure::new(FailureKind::Error, "no"));
    assert_counts(&process.stats().await, [0, 0, 0, 1]);
}

/// Clause C4: a caller that has died, known of or not yet.
pub async fn a_caller_that_has_died_costs_the_worker_nothing<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let caller = fx.process().await;
    let mut consumer = process.consume(8).await;
    let delivery = {
        let arrival = Box::pin(consumer.expect("a"));
        match soon("the call arrives", select(caller.broker.call(job("a")), arrival)).await {
            futures_util::future::Either::Right((delivery, _call)) => delivery,
            futures_util::future::Either::Left((reply, _)) => panic!("nobody has answered: {reply:?}"),
        }
    };
    caller.crash().await;
    consumer.settle(delivery, answer(value("1"))).await;
    assert_counts(&process.stats().await, [0, 0, 0, 0]);
}

/// Clause C5: at once, and not after a timeout.
pub async fn a_call_to_an_undeclared_queue_is_unroutable<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let refused = soon("the call is refused", process.broker.call(job_for("nowhere", "a"))).await;
    assert!(matches!(refused, Err(CallFailure::NotEnqueued(EnqueueFailure::Unroutable))), "{refused:?}");
}

/// Clause C6: a caller that consumes nothing, and a worker in another process.
pub async fn the_reply_finds_its_caller_in_another_process<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let worker = fx.process().await;
    let mut consumer: Consumer = worker.consume(8).await;
    for n in 0..3 {
        let (reply, ()) = called(&process, job(n.to_string()), async {
            let delivery = consumer.one().await;
            let reply = if n == 1 { failure("one") } else { value(&n.to_string()) };
            consumer.settle(delivery, answer(reply)).await;
        })
        .await;
        assert_eq!(reply.unwrap(), if n == 1 { failure("one") } else { value(&n.to_string()) });
    }
}

/// Clause C7: a call among the dead, put back into its queue.
pub async fn a_replayed_call_is_a_job_that_nobody_waits_for<F: BrokerFixture>(fx: &F) {
    let Some(process) = with_calls(fx).await else { return };
    let mut consumer = process.consume(8).await;
    let mut call = process.broker.call(with_retries("a"));
    {
        let work = async {
            let delivery = consumer.expect("a").await;
            consumer.settle(delivery, bury(FailureKind::Error)).await;
        };
        let work = Box::pin(work);
        drop(soon("it is dead-lettered", select(&mut call, work)).await);
    }
    assert!((&mut call).now_or_never().is_none(), "nobody has answered");
    process.inspector().replay(&Selection::default(), 10).await.expect("it can be replayed");
    let delivery = consumer.expect("a").await;
    assert_eq!(delivery.envelope.caller, None);
    consumer.ack(delivery).await;
    assert!(timeout(Duration::from_millis(50), &mut call).await.is_err(), "nobody has answered");
}

/// Clause E4: by a broker without calls.
pub async fn a_call_is_refused_by_name_where_there_are_none<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let capabilities = process.broker.capabilities();
    if capabilities.calls {
        return skipped(&capabilities, "has calls");
    }
    let refused = process.broker.call(job("a")).await;
    let Err(CallFailure::NotEnqueued(EnqueueFailure::Refused(error))) = refused else { panic!("{refused:?}") };
    assert_eq!(error.kind(), BrokerErrorKind::Unsupported);
    assert!(error.to_string().contains("does not support calls"), "{error}");
    assert_counts(&process.stats().await, [0, 0, 0, 0]);
}
