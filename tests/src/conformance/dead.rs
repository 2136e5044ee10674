//! What people do with the dead: replay and drop, as selected.

use std::{collections::BTreeSet, time::Duration};

use worker_core::{
    FailureKind, JobId, Priority, Timestamp,
    broker::{Delivery, Page, Selection},
    envelope::Envelope,
    settlement::{Note, Settlement},
};

use crate::{
    consumer::Consumer,
    eventually::eventually,
    fixture::BrokerFixture,
    process::Process,
    sample::{QUEUE, bury, dead_ids, ids, job, job_for, queue_name, retry, selection, sorted_ids},
};

/// Lets `envelope` die of `kind`.
async fn die<F: BrokerFixture>(process: &Process<'_, F>, queue: &str, envelope: Envelope, kind: FailureKind) {
    let id = envelope.id.to_string();
    process.enqueue([envelope]).await;
    let mut consumer = process.consume_from(queue, 1).await;
    let delivery = consumer.expect(&id).await;
    consumer.settle(delivery, bury(kind)).await;
}

/// Six dead jobs of two queues, three job types (or none) and four kinds, died in this order:
///
/// | id | queue | type | kind |
/// |---|---|---|---|
/// | a | q | mail | error |
/// | b | q | mail | panic |
/// | c | other | mail | error |
/// | d | q | none | error |
/// | e | other | none | expired |
/// | f | q | mail2 | timed out |
async fn six_dead<F: BrokerFixture>(process: &Process<'_, F>) {
    process.declare("other").await;
    for (id, queue, name, kind) in [
        ("a", QUEUE, Some("mail"), FailureKind::Error),
        ("b", QUEUE, Some("mail"), FailureKind::Panic),
        ("c", "other", Some("mail"), FailureKind::Error),
        ("d", QUEUE, None, FailureKind::Error),
        ("e", "other", None, FailureKind::Expired),
        ("f", QUEUE, Some("mail2"), FailureKind::TimedOut),
    ] {
        let mut envelope = job_for(queue, id);
        envelope.name = name.map(|name| name.parse().unwrap());
        die(process, queue, envelope, kind).await;
    }
}

/// Every kind of selection over [`six_dead`], with what it selects.
fn selections() -> Vec<(Selection, &'static str)> {
    let queue = |name: &str| vec![name.parse().unwrap()];
    let job = |name: &str| Some(name.parse().unwrap());
    let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect::<Vec<JobId>>();
    vec![
        (Selection::default(), "abcdef"),
        (selection(|s| s.queues = queue(QUEUE)), "abdf"),
        (selection(|s| s.queues = queue("other")), "ce"),
        (selection(|s| s.queues = queue("nowhere")), ""),
        (selection(|s| s.queues = ["other", "nowhere", QUEUE].map(|name| name.parse().unwrap()).into()), "abcdef"),
        (selection(|s| s.job = job("mail")), "abc"),
        (selection(|s| s.job = job("mail2")), "f"),
        (selection(|s| s.job = job("mai")), ""),
        (selection(|s| s.kind = Some(FailureKind::Error)), "acd"),
        (selection(|s| s.kind = Some(FailureKind::Expired)), "e"),
        (selection(|s| s.kind = Some(FailureKind::Crashed)), ""),
        (selection(|s| s.ids = ids(&["f", "b", "nobody"])), "bf"),
        (selection(|s| s.ids = ids(&["nobody"])), ""),
        (selection(|s| s.died_until = Some(Timestamp::from_unix_ms(1))), ""),
        (selection(|s| s.died_until = Some(Timestamp::from_unix_ms(u64::MAX))), "abcdef"),
        // Every condition must hold.
        (selection(|s| (s.queues, s.job) = (queue(QUEUE), job("mail"))), "ab"),
        (selection(|s| (s.job, s.kind) = (job("mail"), Some(FailureKind::Error))), "ac"),
        (selection(|s| (s.queues, s.kind) = (queue(QUEUE), Some(FailureKind::Error))), "ad"),
        (selection(|s| (s.ids, s.kind) = (ids(&["a", "b", "c"]), Some(FailureKind::Error))), "ac"),
        (selection(|s| (s.ids, s.queues, s.job) = (ids(&["a", "c", "e"]), queue("other"), job("mail"))), "c"),
        (selection(|s| (s.ids, s.died_until) = (ids(&["a"]), Some(Timestamp::from_unix_ms(1)))), ""),
    ]
}

fn letters(ids: &[String]) -> String {
    ids.concat()
}

/// Clause I2: a listing and a count are of the selected ones.
pub async fn a_listing_shows_what_is_selected<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    six_dead(&process).await;
    for (selection, expected) in selections() {
        assert_eq!(letters(&dead_ids(&process.selected(&selection).await)), expected, "{selection:?}");
        let counted = process.inspector().count_dead(&selection).await.unwrap();
        assert_eq!(counted, expected.len() as u64, "{selection:?}");
    }
}

/// Clause I3: exactly the selected ones, whatever selects them.
pub async fn a_replay_takes_the_selected_ones_only<F: BrokerFixture>(_: &F) {
    for (selection, expected) in selections() {
        let fx = F::new();
        let process = fx.process().await;
        six_dead(&process).await;
        assert_eq!(
            process.inspector().replay(&selection, 1_000).await.unwrap(),
            expected.len() as u64,
            "{selection:?}"
        );
        let rest: String = "abcdef".chars().filter(|id| !expected.contains(*id)).collect();
        assert_eq!(letters(&dead_ids(&process.dead().await)), rest, "{selection:?}");
        // A consumer that was dropped may hold one of them for a moment.
        eventually("the replayed are ready", async || {
            let stats = process.inspector().queues(&[queue_name("other")]).await.unwrap();
            (stats.iter().map(|stats| stats.ready).sum::<u64>() == expected.len() as u64).then_some(())
        })
        .await;
        let mut replayed = Vec::new();
        for queue in [QUEUE, "other"] {
            let ready = usize::try_from(process.stats_of(queue).await.ready).unwrap();
            replayed.extend(process.consume_from(queue, 10).await.take(ready).await);
        }
        assert_eq!(letters(&sorted_ids(&replayed)), expected, "{selection:?}");
    }
}

/// Clause I3: as if it had been enqueued anew, but under its id and with what it carried.
pub async fn a_replayed_job_begins_anew<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    let mut sent = job("job");
    sent.headers.insert("tenant", "żółw");
    sent.expires_at = Some(Timestamp::from_unix_ms(1_700_000_100_000));
    if fx.capabilities().await.priorities {
        sent.priority = Priority::MAX;
    }
    process.enqueue([sent.clone()]).await;
    // Its life: two attempts, a start that never ended, a note.
    let doomed = fx.process().await;
    let mut consumer = doomed.consume(1).await;
    let delivery = consumer.one().await;
    consumer.settle(delivery, retry(Duration::ZERO)).await;
    let delivery = consumer.one().await;
    consumer.begin(&delivery);
    doomed.crash().await;
    let mut consumer = other.consume(1).await;
    let delivery = consumer.one().await;
    let note = Some(Note::UnknownSince(Timestamp::from_unix_ms(7)));
    consumer.settle(delivery, Settlement::Release { after: Duration::ZERO, note }).await;
    let delivery = consumer.one().await;
    assert_eq!((delivery.attempt, delivery.starts), (2, 1));
    consumer.settle(delivery, bury(FailureKind::Expired)).await;

    assert_eq!(process.inspector().replay(&Selection::default(), 10).await.unwrap(), 1);
    let replayed = consumer.one().await;
    assert_eq!((replayed.attempt, replayed.starts), (1, 0));
    sent.expires_at = None;
    assert!(*replayed.envelope == sent, "{:?} instead of {sent:?}", replayed.envelope);
    assert!(process.dead().await.is_empty());
    consumer.settle(replayed, retry(Duration::ZERO)).await;
    let delivery = consumer.one().await;
    assert_eq!((delivery.attempt, delivery.starts), (2, 0));
    consumer.settle(delivery, bury(FailureKind::Error)).await;
    assert_eq!(process.dead().await[0].attempts, 2, "the attempts of the first life are not counted");
}

/// Clause I3: at most as many as asked for, oldest first.
pub async fn a_limited_replay_takes_the_oldest<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    six_dead(&process).await;
    let inspector = process.inspector();
    for (limit, said, rest) in [(2, 2, "cdef"), (1, 1, "def"), (10, 3, ""), (10, 0, "")] {
        assert_eq!(inspector.replay(&Selection::default(), limit).await.unwrap(), said);
        assert_eq!(letters(&dead_ids(&process.dead().await)), rest);
    }
}

/// Clause I3: of many ids, as many as a page shows.
pub async fn a_replay_by_a_thousand_ids_takes_them_all<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let names: Vec<_> = (0..1_000).map(|n| format!("job{n}")).collect();
    process.enqueue(names.iter().map(job)).await;
    let mut consumer = process.consume(1_000).await;
    let tickets: Vec<_> = consumer
        .take(1_000)
        .await
        .into_iter()
        .map(|delivery| consumer.settler.submit(delivery, bury(FailureKind::Error)))
        .collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let selected = selection(|s| s.ids = names.iter().map(|id| id.parse().unwrap()).collect());
    assert_eq!(process.inspector().count_dead(&selected).await.unwrap(), 1_000);
    assert_eq!(process.inspector().replay(&selected, 1_000).await.unwrap(), 1_000);
    let replayed: BTreeSet<_> = ids(&consumer.take(1_000).await).into_iter().collect();
    assert_eq!(replayed.len(), 1_000);
}

/// Clause I3: two people replay the same jobs at the same time.
pub async fn replays_at_the_same_time_put_each_job_back_once<F: BrokerFixture>(fx: &F) {
    let (one, two) = (fx.process().await, fx.process().await);
    six_dead(&one).await;
    let (mine, yours) = (one.inspector(), two.inspector());
    let all = Selection::default();
    let (a, b, c) = tokio::join!(mine.replay(&all, 4), yours.replay(&all, 4), mine.drop_dead(&all, 1));
    let (replayed, dropped) = (a.unwrap() + b.unwrap(), c.unwrap());
    assert_eq!(replayed + dropped, 6);
    let ready: u64 =
        one.inspector().queues(&[queue_name("other")]).await.unwrap().iter().map(|stats| stats.ready).sum();
    assert_eq!(ready, replayed);
}

/// Settles the next `count` deliveries as failed for good.
async fn bury_next(consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        let delivery = consumer.one().await;
        consumer.settle(delivery, bury(FailureKind::Error)).await;
    }
}

/// Clause I4: both leave alone who died after the date.
pub async fn what_died_after_the_date_is_left_alone<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(["a", "b", "c", "d"].map(job)).await;
    let mut consumer = process.consume(1).await;
    bury_next(&mut consumer, 2).await;
    let date = process.dead().await[1].died_at;
    fx.pass(Duration::from_millis(5)).await;
    bury_next(&mut consumer, 2).await;
    let until = selection(|s| s.died_until = Some(date));
    let inspector = process.inspector();
    assert_eq!(letters(&dead_ids(&process.selected(&until).await)), "ab", "the date itself is included");
    assert_eq!(inspector.count_dead(&until).await.unwrap(), 2);
    assert_eq!(inspector.replay(&until, 1).await.unwrap(), 1);
    assert_eq!(inspector.drop_dead(&until, 1_000).await.unwrap(), 1);
    assert_eq!(letters(&dead_ids(&process.dead().await)), "cd");
    assert_eq!(inspector.replay(&until, 1_000).await.unwrap(), 0);
    consumer.expect("a").await;
    consumer.nothing().await;
}

/// Clause I4: so a replay in steps ends although the jobs die again as fast as they come back.
pub async fn a_replay_in_steps_ends_although_jobs_die_again<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let inspector = process.inspector();
    process.enqueue((0..7).map(|n| job(n.to_string()))).await;
    let mut consumer = process.consume(10).await;
    bury_next(&mut consumer, 7).await;
    let until = selection(|s| s.died_until = Some(fx.date()));
    fx.pass(Duration::from_millis(5)).await;
    let mut steps = Vec::new();
    loop {
        let replayed = inspector.replay(&until, 3).await.unwrap();
        if replayed == 0 {
            break;
        }
        steps.push(replayed);
        bury_next(&mut consumer, usize::try_from(replayed).unwrap()).await;
    }
    assert_eq!(steps, [3, 3, 1]);
    assert_eq!(process.dead().await.len(), 7);
}

/// Clause I5: for good, and only the selected ones.
pub async fn a_drop_removes_the_selected_ones_for_good<F: BrokerFixture>(_: &F) {
    for (selection, expected) in selections() {
        let fx = F::new();
        let process = fx.process().await;
        six_dead(&process).await;
        let dropped = process.inspector().drop_dead(&selection, 1_000).await.unwrap();
        assert_eq!(dropped, expected.len() as u64, "{selection:?}");
        let rest: String = "abcdef".chars().filter(|id| !expected.contains(*id)).collect();
        assert_eq!(letters(&dead_ids(&process.dead().await)), rest, "{selection:?}");
        assert_eq!(process.inspector().replay(&selection, 1_000).await.unwrap(), 0, "{selection:?}");
        let stats = process.inspector().queues(&[queue_name("other")]).await.unwrap();
        assert!(stats.iter().all(|stats| stats.unfinished() == 0), "{stats:?}");
    }
}

/// Clause I5: at most as many as asked for, oldest first, and what lives is not touched.
pub async fn a_limited_drop_takes_the_oldest_dead<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    six_dead(&process).await;
    // Alive under the ids of dead ones.
    process.enqueue([job("a"), job("b")]).await;
    let inspector = process.inspector();
    for (limit, said, rest) in [(4, 4, "ef"), (1, 1, "f"), (10, 1, ""), (10, 0, "")] {
        assert_eq!(inspector.drop_dead(&Selection::default(), limit).await.unwrap(), said);
        assert_eq!(letters(&dead_ids(&process.dead().await)), rest);
    }
    let alive: Vec<Delivery> = process.consume(10).await.take(2).await;
    assert_eq!(letters(&sorted_ids(&alive)), "ab");
    let page = inspector.dead(&Selection::default(), Page::first(1)).await.unwrap();
    assert_eq!(page.next, None);
}
