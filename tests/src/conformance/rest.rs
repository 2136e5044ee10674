//! Declaring and closing.

use std::time::Duration;

use worker_core::{
    BrokerErrorKind, EnqueueFailure, FailureKind, Priority, QueueName, RetryPolicy,
    broker::{
        Begin, Broker as _, Declared, Needs, Page, Selection, SettleError, Standing, Subscription, Topology, What,
    },
    exchange::{Binding, ExchangeKind},
    queue::{QueueOptions, QueueType},
    settlement::Settlement,
};

use crate::{
    eventually::soon,
    fixture::BrokerFixture,
    process::Process,
    sample::{QUEUE, bury, copy, four_settlements, job, job_for, jobs, queue_name, sorted_ids},
};

fn topology(names: &[&str]) -> Topology {
    Topology::queues(names.iter().map(|name| queue_name(name)))
}

fn created(declared: Declared) -> Vec<QueueName> {
    let mut created = declared.created;
    created.sort_unstable();
    created
}

/// Clause T1: what was there is not created, whoever created it.
pub async fn declaring_says_what_it_created<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.bare_process().await, fx.bare_process().await);
    let declare = async |process: &Process<'_, F>, names: &[&str]| {
        created(process.broker.declare(&topology(names)).await.unwrap())
    };
    assert_eq!(declare(&one, &["b", "a"]).await, ["a", "b"]);
    assert_eq!(declare(&one, &["a", "b"]).await, [""; 0]);
    assert_eq!(declare(&two, &["c", "a", "c"]).await, ["c"], "named twice is created once");
    assert_eq!(declare(&one, &["c"]).await, [""; 0]);
    assert_eq!(declare(&one, &[]).await, [""; 0]);
    assert_eq!(declare(&two, &["A"]).await, ["A"], "names are told apart by case");
}

/// Clause T1: two processes declare the same queues at the same time, and one at least created each.
pub async fn a_queue_declared_by_two_at_once_is_created<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.bare_process().await, fx.bare_process().await);
    let names: Vec<_> = (0..20).map(|n| format!("queue{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = topology(&names);
    let (a, b) = tokio::join!(one.broker.declare(&wanted), two.broker.declare(&wanted));
    let mut all = created(a.unwrap());
    all.extend(created(b.unwrap()));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, names);
}

/// Clause T1: declaring again touches neither jobs nor consumers nor the dead.
pub async fn declaring_again_changes_nothing<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.bare_process().await);
    process.enqueue(jobs("job", 4)).await;
    let mut consumer = process.consume(2).await;
    let mut owned = consumer.take(2).await;
    consumer.settle(owned.remove(0), bury(FailureKind::Error)).await;
    owned.push(consumer.one().await);
    let before = process.stats().await;
    other.declare(QUEUE).await;
    process.declare(QUEUE).await;
    assert_eq!(process.stats().await, before);
    consumer.ack_all(owned).await;
    consumer.expect("job3").await;
}

/// Clause T3: of a queue that is there it is honoured, or refused with what differs, and the queue stays as it is.
pub async fn what_is_asked_of_a_queue_holds_or_is_refused<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("plain", 2)).await;
    let ranked = QueueOptions::default().queue_type(QueueType::Classic).max_priority(Priority::MAX);
    let asking = Topology::default().queue(queue_name(QUEUE), ranked.clone());
    match process.broker.declare(&asking).await {
        Ok(declared) => {
            assert!(declared.created.is_empty());
            if process.broker.capabilities().queue_priorities {
                let mut urgent = job("urgent");
                urgent.priority = Priority::MAX;
                process.enqueue([urgent]).await;
                let mut consumer = process.consume(1).await;
                let first = consumer.expect("urgent").await;
                consumer.ack(first).await;
                consumer.stop().await;
            }
        }
        Err(error) => {
            assert_eq!(error.kind(), BrokerErrorKind::Permanent);
            let told = error.to_string();
            for part in ["`q`", "x-queue-type", "quorum", "classic", "another name", "delete it"] {
                assert!(told.contains(part), "no `{part}` in: {told}");
            }
        }
    }
    // Either way its jobs are there, for those who ask for nothing.
    process.declare(QUEUE).await;
    let mut consumer = process.consume(5).await;
    let owned = consumer.take(2).await;
    consumer.ack_all(owned).await;
    // Of a new one it holds, also for who declares it again, with the same or without.
    for options in [ranked.clone(), ranked, QueueOptions::default()] {
        process.declare_asking("ranked", options).await;
    }
    process.enqueue([job_for("ranked", "job")]).await;
    process.consume_from("ranked", 1).await.expect("job").await;
}

/// Clause T3: what contradicts itself, and what no broker has.
pub async fn what_no_queue_can_be_is_refused_by_name<F: BrokerFixture>(fx: &F) {
    let process = fx.bare_process().await;
    let max = |level| QueueOptions::default().max_priority(Priority::new(level).unwrap());
    for (options, part) in [(max(9), "`max_priority` is 9"), (max(0).queue_type(QueueType::Classic), "is 0")] {
        let asking = Topology::default().queue(queue_name(QUEUE), options);
        let error = process.broker.declare(&asking).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Permanent);
        assert!(error.to_string().contains("queue `q`") && error.to_string().contains(part), "{error}");
    }
    let answers = process.broker.enqueue(vec![job("job")]).await;
    assert!(matches!(answers[0], Err(EnqueueFailure::Unroutable)), "nothing was declared: {answers:?}");
}

/// Clause T2: a queue that nobody declared cannot be consumed, and is not created by trying.
pub async fn consuming_an_undeclared_queue_is_refused<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    for _ in 0..2 {
        let subscription = Subscription::new(queue_name("nowhere"), 1.try_into().unwrap());
        let Err(error) = process.broker.consume(subscription).await else { panic!("it does not exist") };
        assert_eq!(error.kind(), BrokerErrorKind::Permanent);
        assert!(error.to_string().contains("nowhere"), "the refusal does not name the queue: {error}");
    }
    let answers = process.broker.enqueue(vec![job_for("nowhere", "job")]).await;
    assert!(matches!(*answers, [Err(EnqueueFailure::Unroutable)]), "{answers:?}");
}

/// Clause T4: by another process than the one that looks, twice; nothing is made by looking.
pub async fn what_a_plan_has_is_there_once_it_is_applied<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.bare_process().await, fx.bare_process().await);
    let mut wanted = topology(&["a", "b"]);
    if process.broker.capabilities().exchanges {
        let events = || "events".parse().unwrap();
        wanted = wanted.exchange(events(), ExchangeKind::Topic).bind(Binding::by_key(events(), queue_name("a"), "#"));
    }
    let plan = process.broker.plan(&Needs::new(wanted).retried(queue_name("a"), RetryPolicy::DEFAULT));
    let compare = async |process: &Process<'_, F>| process.inspector().compare(&plan).await.unwrap();
    for _ in 0..2 {
        let found = compare(&process).await;
        assert!(found.len() >= plan.queues.len() + plan.exchanges.len() + plan.bindings.len(), "{found:?}");
        let absent = |standing| matches!(standing, Standing::Missing | Standing::Unseen);
        assert!(found.iter().all(|finding| absent(finding.standing)), "{found:?}");
        let missing =
            found.iter().filter(|finding| finding.what == What::Queue).all(|f| f.standing == Standing::Missing);
        assert!(missing, "{found:?}");
    }
    for _ in 0..2 {
        other.broker.apply(&plan).await.unwrap();
        let found = compare(&process).await;
        let there = |standing| matches!(standing, Standing::Same | Standing::Unseen);
        assert!(found.iter().all(|finding| there(finding.standing)), "{found:?}");
        assert!(found.iter().filter(|finding| finding.what == What::Queue).all(|f| f.standing == Standing::Same));
    }
    process.enqueue(vec![job_for("a", "job")]).await;
}

/// Clause X1: every operation, on handles from before.
pub async fn after_closing_everything_fails_and_nothing_hangs<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 6)).await;
    let mut consumer = process.consume(2).await;
    let owned = consumer.take(2).await;
    let inspector = process.inspector();
    soon("it closes", process.broker.close()).await.unwrap();

    let all = Selection::default();
    let fails = async {
        assert!(process.broker.declare(&topology(&["new"])).await.is_err());
        assert!(process.broker.declare(&topology(&[QUEUE])).await.is_err());
        let plan = process.broker.plan(&Needs::new(topology(&[QUEUE])));
        assert!(process.broker.apply(&plan).await.is_err());
        let answers = process.broker.enqueue(vec![job("late"), job("later")]).await;
        assert!(matches!(*answers, [Err(EnqueueFailure::Refused(_)), Err(EnqueueFailure::Refused(_))]), "{answers:?}");
        assert!(process.broker.consume(Subscription::new(queue_name(QUEUE), 1.try_into().unwrap())).await.is_err());
        assert!(consumer.source.next_batch(5).await.is_err());
        assert!(consumer.source.next_batch(5).await.is_err());
        for inspector in [Some(inspector), process.broker.inspector()].into_iter().flatten() {
            assert!(inspector.queues(&[]).await.is_err());
            assert!(inspector.compare(&plan).await.is_err());
            assert!(inspector.dead(&all, Page::first(1)).await.is_err());
            assert!(inspector.count_dead(&all).await.is_err());
            assert!(inspector.replay(&all, 1).await.is_err());
            assert!(inspector.drop_dead(&all, 1).await.is_err());
        }
    };
    soon("everything fails", fails).await;
    for delivery in &owned {
        consumer.assert_lost(delivery).await;
        assert!(delivery.lost.is_cancelled());
    }
    // Either answer will do, but an answer there must be.
    drop(soon("a source of a closed broker stops", consumer.source.stop()).await);
    drop(soon("it closes again", process.broker.close()).await);
}

/// Clause X1: a wait that had begun before ends too.
pub async fn closing_ends_a_wait_for_a_batch<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(2).await;
    let closing = async {
        fx.pass(Duration::from_millis(20)).await;
        process.broker.close().await.unwrap();
    };
    let (batch, ()) = soon("both end", async { tokio::join!(consumer.source.next_batch(5), closing) }).await;
    assert!(batch.is_err(), "{batch:?}");
}

/// Clause X1: what it owned goes to others, uncounted, and they do not notice anything else.
pub async fn closing_lets_go_of_everything<F: BrokerFixture>(fx: &F) {
    let (closing, other) = (fx.process().await, fx.process().await);
    closing.enqueue(jobs("job", 6)).await;
    let mut kept = other.consume(1).await;
    let owned = kept.one().await;
    let mut consumer = closing.consume(5).await;
    let taken = consumer.take(2).await;
    consumer.begin(&taken[0]);
    closing.broker.close().await.unwrap();
    let mut next = other.consume(10).await;
    let back = next.take(5).await;
    assert_eq!(sorted_ids(&back), ["job1", "job2", "job3", "job4", "job5"]);
    assert!(back.iter().all(|delivery| (delivery.attempt, delivery.starts) == (1, 0)), "{back:?}");
    next.nothing().await;
    next.stop().await;
    kept.begin(&owned);
    kept.ack(owned).await;
    other.enqueue([job("new")]).await;
    kept.expect("new").await;
}

/// Clause X1: a settlement that was submitted before is finished.
pub async fn closing_finishes_what_was_submitted<F: BrokerFixture>(fx: &F) {
    let (closing, other) = (fx.process().await, fx.process().await);
    closing.enqueue(jobs("job", 200)).await;
    let mut consumer = closing.consume(200).await;
    let tickets: Vec<_> = consumer
        .take(200)
        .await
        .into_iter()
        .map(|delivery| consumer.settler.submit(delivery, Settlement::Ack { reply: None }))
        .collect();
    closing.broker.close().await.unwrap();
    for ticket in tickets {
        soon("it is answered", ticket).await.expect("it was submitted before");
    }
    let mut next = other.consume(10).await;
    next.nothing().await;
}

/// Clause X1: settling after the end of the process is lost, not an endless retry.
pub async fn a_settlement_after_closing_is_lost<F: BrokerFixture>(fx: &F) {
    let (closing, other) = (fx.process().await, fx.process().await);
    for settlement in four_settlements() {
        let closing_now = fx.process().await;
        closing.enqueue([job("job")]).await;
        let mut consumer = closing_now.consume(1).await;
        let delivery = consumer.one().await;
        let stale = copy(&delivery);
        closing_now.broker.close().await.unwrap();
        let answer = consumer.try_settle(delivery, settlement).await;
        assert!(matches!(answer, Err(SettleError::Lost)), "{answer:?}");
        assert_eq!(consumer.settler.begin(&stale), Begin::Lost);
        let mut next = other.consume(1).await;
        let back = next.one().await;
        assert_eq!((back.attempt, back.starts), (1, 0));
        next.ack(back).await;
        next.nothing().await;
    }
    assert!(other.dead().await.is_empty());
}
