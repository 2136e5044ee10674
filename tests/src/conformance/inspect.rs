//! What people see: queues in numbers, and the dead in pages.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::timeout;
use worker_core::{
    FailureKind,
    broker::{Broker as _, DeadJob, Page, Selection},
    envelope::Due,
    hours, seconds,
    settlement::Settlement,
};

use crate::{
    eventually::eventually,
    fixture::BrokerFixture,
    process::Process,
    sample::{
        QUEUE, assert_counts, assert_known, bury, counts_are, dead_ids, job, job_for, jobs, queue_name, release, retry,
        selection,
    },
};

/// Lets the jobs of these ids die in `queue`, in this order.
async fn die<F: BrokerFixture>(process: &Process<'_, F>, queue: &str, ids: impl IntoIterator<Item = String>) {
    let ids: Vec<_> = ids.into_iter().collect();
    process.enqueue(ids.iter().map(|id| job_for(queue, id))).await;
    let mut consumer = process.consume_from(queue, 1).await;
    for id in &ids {
        let delivery = consumer.expect(id).await;
        consumer.settle(delivery, bury(FailureKind::Error)).await;
    }
}

/// Clause I1: of two that wait, the one that has failed; and neither once it is due.
pub async fn retries_that_wait_are_counted_apart<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut later = job("later");
    later.due = Due::In(hours(1));
    process.enqueue([job("failed"), later]).await;
    let retrying = async || match process.stats().await.retrying {
        Some(counted) => Some(counted),
        None => process.inspector().retrying(&queue_name(QUEUE)).await.expect("it can be counted"),
    };
    assert_eq!(retrying().await, Some(0));
    let mut consumer = process.consume(1).await;
    let delivery = consumer.expect("failed").await;
    consumer.settle(delivery, retry(seconds(5))).await;
    assert_eq!(retrying().await, Some(1));
    assert_known(process.stats().await.delayed, 2);
    if let Some(scheduled) = process.inspector().scheduled().await.expect("it can be counted") {
        assert_eq!(scheduled.jobs, 1, "{scheduled:?}");
    }
}

/// Clause I1: whether it was declared by this process or another.
pub async fn a_queue_exists_when_it_was_declared<F: BrokerFixture>(fx: &F) {
    let (process, watcher) = (fx.process().await, fx.process().await);
    process.enqueue([job("job")]).await;
    for seen_by in [&process, &watcher] {
        let exists = async |name| seen_by.inspector().exists(&queue_name(name)).await.expect("it can be looked at");
        assert_eq!(exists(QUEUE).await, Some(true));
        assert_eq!(exists("nobody-declared-it").await, Some(false));
    }
}

/// Clause I1: each stage of a job's life counts in one place.
pub async fn a_queue_counts_its_jobs_by_what_they_wait_for<F: BrokerFixture>(fx: &F) {
    let (process, watcher) = (fx.process().await, fx.process().await);
    // A broker may count what it was told with a delay of milliseconds.
    let counted = async |expected: [u64; 4], when: &str| {
        let what = format!("{expected:?} are counted {when}");
        eventually(what, async || counts_are(&watcher.stats().await, expected).then_some(())).await;
    };
    assert_counts(&watcher.stats().await, [0, 0, 0, 0]);
    process.enqueue(jobs("job", 7)).await;
    counted([7, 0, 0, 0], "after the enqueue").await;
    let mut consumer = process.consume(6).await;
    let mut owned = consumer.take(6).await;
    counted([1, 6, 0, 0], "after the delivery").await;
    consumer.begin(&owned[0]);
    counted([1, 6, 0, 0], "after a start, which is counted by nobody").await;
    consumer.stop().await;
    for (settlement, expected) in [
        (Settlement::Ack { reply: None }, [1, 5, 0, 0]),
        (bury(FailureKind::Error), [1, 4, 0, 1]),
        (release(Duration::from_secs(3_600)), [1, 3, 1, 1]),
        (retry(Duration::from_millis(300)), [1, 2, 2, 1]),
        (release(Duration::ZERO), [2, 1, 2, 1]),
        (retry(Duration::ZERO), [3, 0, 2, 1]),
    ] {
        consumer.settle(owned.remove(0), settlement.clone()).await;
        counted(expected, &format!("after {settlement:?}")).await;
    }
    counted([4, 0, 1, 1], "when the retried job is due, also while nobody looks for it").await;
}

/// Clause I1: queues are counted apart, and listed by name, also those that never had a job;
/// by a process that declared none, where the broker counts all, and otherwise those it asks for.
pub async fn every_declared_queue_is_listed_by_name<F: BrokerFixture>(fx: &F) {
    let process = fx.bare_process().await;
    assert_eq!(process.inspector().queues(&[queue_name("nowhere")]).await.unwrap(), []);
    let names = ["b", "a-1", "c", "a", "B"];
    for queue in names {
        process.declare(queue).await;
    }
    process.enqueue([job_for("b", "1"), job_for("b", "2"), job_for("a", "3")]).await;
    die(&process, "c", ["4".to_owned()]).await;
    let looking = fx.bare_process().await;
    let mut known: Vec<_> = names.iter().copied().chain(["nowhere"]).map(queue_name).collect();
    if looking.broker.capabilities().counts_all {
        known.clear();
    }
    let queues = looking.inspector().queues(&known).await.unwrap();
    let expected =
        [("B", [0, 0, 0, 0]), ("a", [1, 0, 0, 0]), ("a-1", [0, 0, 0, 0]), ("b", [2, 0, 0, 0]), ("c", [0, 0, 0, 1])];
    assert_eq!(queues.len(), expected.len(), "{queues:?}");
    for (stats, (queue, counts)) in queues.iter().zip(expected) {
        assert_eq!(stats.queue, queue);
        assert_counts(stats, counts);
    }
}

/// Clause I1: what cannot be counted is not said to be nothing.
pub async fn what_a_broker_cannot_count_it_says_not_to_know<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue([job("job")]).await;
    let stats = process.stats().await;
    let counts_all = process.broker.capabilities().counts_all;
    assert_eq!((stats.running.is_some(), stats.delayed.is_some()), (counts_all, counts_all), "{stats:?}");
}

/// Clause I1: consumers that wait for jobs and live, of all processes.
pub async fn living_consumers_are_counted<F: BrokerFixture>(fx: &F) {
    let (process, doomed, closing) = (fx.process().await, fx.process().await, fx.process().await);
    process.declare("other").await;
    let consume = async |process: &Process<'_, F>, queue| {
        let mut consumer = process.consume_from(queue, 1).await;
        consumer.nothing().await;
        consumer
    };
    let consumers = async |expected| {
        let what = format!("{expected} consumers are counted");
        eventually(what, async || (process.stats().await.consumers == expected).then_some(())).await;
    };
    consumers(0).await;
    let first = consume(&process, QUEUE).await;
    let second = consume(&process, QUEUE).await;
    let mut third = consume(&process, QUEUE).await;
    let _elsewhere = consume(&process, "other").await;
    consumers(3).await;
    let of_doomed = consume(&doomed, QUEUE).await;
    let of_closing = consume(&closing, QUEUE).await;
    consumers(5).await;
    drop(first);
    consumers(4).await;
    third.stop().await;
    consumers(3).await;
    doomed.crash().await;
    consumers(2).await;
    drop(of_doomed);
    consumers(2).await;
    closing.broker.close().await.unwrap();
    consumers(1).await;
    drop(of_closing);
    drop(second);
    consumers(0).await;
    assert_eq!(process.stats_of("other").await.consumers, 1);
}

/// All pages of a selection, of `limit` each; `between` is called after each page.
async fn pages<F: BrokerFixture>(
    process: &Process<'_, F>,
    selection: &Selection,
    limit: usize,
    mut between: impl AsyncFnMut(usize),
) -> Vec<Vec<DeadJob>> {
    let (mut page, mut pages) = (Page::first(limit), Vec::new());
    loop {
        let listed = process.inspector().dead(selection, page).await.unwrap();
        assert!(listed.jobs.len() <= limit, "more than asked for");
        pages.push(listed.jobs);
        between(pages.len()).await;
        let Some(next) = listed.next else { return pages };
        assert_eq!(pages.last().map(Vec::len), Some(limit), "a page that is not full is the last");
        page = Page::after(next, limit);
    }
}

/// Clause I2: pages of every size, over several queues.
pub async fn the_dead_are_listed_oldest_first_in_whole_pages<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.declare("other").await;
    let mut expected = Vec::new();
    for n in 0..12 {
        let queue = if n % 3 == 0 { "other" } else { QUEUE };
        die(&process, queue, [format!("job{n}")]).await;
        expected.push(format!("job{n}"));
    }
    for limit in [1, 3, 4, 5, 12, 13, 1_000] {
        let pages = pages(&process, &Selection::default(), limit, async |_| {}).await;
        assert_eq!(pages.len(), 12_usize.div_ceil(limit), "the last page says so, with {limit} a page");
        assert_eq!(dead_ids(&pages.concat()), expected);
    }
    let of_other = selection(|s| s.queues = vec!["other".parse().unwrap()]);
    let listed = pages(&process, &of_other, 3, async |_| {}).await;
    assert_eq!(listed.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(dead_ids(&listed.concat()), ["job0", "job3", "job6", "job9"]);
}

/// Clause I2: the oldest is who died first, not who was enqueued first.
pub async fn the_order_of_the_dead_is_that_of_their_deaths<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 5)).await;
    let mut consumer = process.consume(5).await;
    let mut owned = consumer.take(5).await;
    for place in [3, 0, 2, 0, 0] {
        let delivery = owned.remove(place);
        consumer.settle(delivery, bury(FailureKind::Error)).await;
        fx.pass(Duration::from_millis(3)).await;
    }
    let dead = process.dead().await;
    assert_eq!(dead_ids(&dead), ["job3", "job0", "job4", "job1", "job2"]);
    assert!(dead.iter().map(|dead| dead.died_at).is_sorted());
}

/// Clause I2: a listing in progress, while jobs die, are replayed and are dropped.
pub async fn pages_neither_repeat_nor_skip_while_the_dead_change<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let inspector = process.inspector();
    let id = |n: usize| format!("job{n}");
    die(&process, QUEUE, (0..12).map(id)).await;
    let listed = pages(&process, &Selection::default(), 3, async |page| {
        let one = |n| selection(|s| s.ids = vec![id(n).parse().unwrap()]);
        match page {
            // One that was listed and one that was not are removed; one is replayed and dies again.
            1 => {
                assert_eq!(inspector.drop_dead(&one(1), 1).await.unwrap(), 1);
                assert_eq!(inspector.drop_dead(&one(8), 1).await.unwrap(), 1);
                assert_eq!(inspector.replay(&one(2), 1).await.unwrap(), 1);
                let mut consumer = process.consume(1).await;
                let again = consumer.expect("job2").await;
                consumer.settle(again, bury(FailureKind::Error)).await;
                consumer.stop().await;
            }
            2 => die(&process, QUEUE, (12..14).map(id)).await,
            _ => {}
        }
    })
    .await;
    let listed = dead_ids(&listed.concat());
    let expected: Vec<_> = (0..12).filter(|n| *n != 8).map(id).chain([id(2), id(12), id(13)]).collect();
    assert_eq!(listed, expected, "job2 died twice, and is listed where it is");
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len() - 1);
}

/// Clause I2: whoever gives up in the middle of a listing, at any point, leaves all of it to others.
pub async fn a_listing_that_is_dropped_holds_up_no_other<F: BrokerFixture>(fx: &F) {
    let (impatient, other) = (fx.process().await, fx.process().await);
    let id = |n: usize| format!("job{n}");
    die(&impatient, QUEUE, (0..40).map(id)).await;
    let (reading, all) = (impatient.inspector(), Selection::default());
    for micros in (0..40_000).step_by(2_000) {
        drop(timeout(Duration::from_micros(micros), reading.dead(&all, Page::first(100))).await);
    }
    // In less time than the impatient one's connection needs to end.
    let listed = timeout(Duration::from_secs(10), other.dead()).await.expect("nobody else is reading");
    assert_eq!(dead_ids(&listed), (0..40).map(id).collect::<Vec<_>>());
}

/// Clause I2: of the dead of one instant each is on one page.
pub async fn jobs_that_die_at_the_same_time_are_all_listed<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", 50)).await;
    let mut consumer = process.consume(50).await;
    for delivery in consumer.take(50).await {
        drop(consumer.settler.submit(delivery, bury(FailureKind::Error)));
    }
    eventually("all are dead", async || (process.stats().await.dead == 50).then_some(())).await;
    for limit in [1, 7, 50] {
        let listed = dead_ids(&pages(&process, &Selection::default(), limit, async |_| {}).await.concat());
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 50, "with {limit} a page");
        assert_eq!(listed.len(), 50, "with {limit} a page");
    }
}

/// Clause I2: nothing is dead.
pub async fn without_dead_jobs_there_is_one_empty_page<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue([job("job")]).await;
    let page = process.inspector().dead(&Selection::default(), Page::first(10)).await.unwrap();
    assert_eq!((page.jobs, page.next), (vec![], None));
}
