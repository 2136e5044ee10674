//! One queue that is several in the broker: jobs are spread over them, each stays in its own, and none is unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU8,
    sync::Arc,
    time::Duration,
};

use worker_core::{
    Client, Ending, JobOptions, QueueName, Registry, RetryPolicy, Worker,
    broker::{QueueStats, Selection},
    shard,
};
use worker_tests::{
    eventually::eventually,
    fault::{Call, Fault},
    fixture::{BrokerFixture, MemoryFixture, RabbitFixture, SqliteFixture, run, skipped},
};

use crate::{
    bench::{Act, Bench, Running, acting},
    gate::settle_down,
};

const QUICK: RetryPolicy = RetryPolicy::new(2, Duration::from_millis(20), Duration::from_millis(40));
const OPTIONS: JobOptions = JobOptions::DEFAULT.retry(QUICK);

acting! {
    /// In a queue of one.
    One, "spread" in "spread", OPTIONS
}
acting! {
    /// The same in two.
    Two, "spread" in "spread", OPTIONS.shards(NonZeroU8::new(2).unwrap())
}
acting! {
    /// The same in four.
    Four, "spread" in "spread", OPTIONS.shards(NonZeroU8::new(4).unwrap())
}

const NAMES: [&str; 4] = ["spread", "spread.shard-1", "spread.shard-2", "spread.shard-3"];

fn of<J: worker_core::Handler>() -> Registry {
    Registry::new().with::<J>()
}

async fn open<F: BrokerFixture>(fx: &F) -> Bench {
    Bench::on(Arc::new(fx.open().await) as _, fx.clock(), fx.patience())
}

/// How each of the four is; they exist.
async fn shards(bench: &Bench) -> Vec<QueueStats> {
    let names: Vec<QueueName> = NAMES.map(|name| name.parse().unwrap()).to_vec();
    let mut found = bench.client.broker().inspector().unwrap().queues(&names).await.unwrap();
    found.retain(|stats| names.contains(&stats.queue));
    found
}

/// Waits until so many jobs wait in each of the four.
async fn ready(bench: &Bench, expected: [u64; 4]) {
    eventually("the jobs are where they should be", async || {
        let ready: Vec<_> = shards(bench).await.iter().map(|stats| stats.ready).collect();
        (ready == expected).then_some(())
    })
    .await;
}

/// The queues from which the executions of each job came.
fn queues_of(bench: &Bench) -> BTreeMap<String, BTreeSet<String>> {
    let mut queues: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for report in bench.reports() {
        queues.entry(report.id.to_string()).or_default().insert(report.queue.to_string());
    }
    queues
}

async fn forty_jobs<J: worker_core::Job + From<crate::bench::Acts>>(bench: &Bench) {
    let jobs = (0..40).map(|n| Bench::job::<J>(&n.to_string(), [Act::Succeed]));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
}

async fn each_shard_gets_its_part_and_all_jobs_run<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    forty_jobs::<Four>(&bench).await;
    ready(&bench, [10; 4]).await;
    let worker = Running::start(bench.worker_of(of::<Four>()));
    bench.finished(40).await;
    assert_eq!(worker.stop().await.settled, 40);
    let mut ran: BTreeMap<_, usize> = BTreeMap::new();
    queues_of(&bench).into_values().flatten().for_each(|queue| *ran.entry(queue).or_default() += 1);
    assert_eq!(ran, NAMES.map(|name| (name.to_owned(), 10)).into());
}

async fn jobs_of_one_key_run_in_their_order<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    let worker = Running::start(bench.worker_of(of::<Four>()).queue_concurrency("spread", 4));
    for n in 0..80_u64 {
        let (key, place) = (n % 8, n / 8);
        // The later in a key, the shorter: where two ran beside each other, the order of their ends would show it.
        let job = Bench::job::<Four>(&format!("{key}-{place}"), [Act::Work(10 - place)]);
        bench.enqueue_as(job.shard_key(format!("customer-{key}"))).await;
    }
    bench.finished(80).await;
    worker.stop().await;
    let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for report in bench.reports() {
        let id = report.id.to_string();
        let (key, place) = id.split_once('-').unwrap();
        places.entry(key.to_owned()).or_default().push(place.parse().unwrap());
    }
    assert!(places.len() == 8 && places.values().all(|places| places.is_sorted()), "{places:?}");
    for (id, queues) in queues_of(&bench) {
        let key = format!("customer-{}", &id[..1]);
        let expected = shard::of_key(&key, NonZeroU8::new(4).unwrap());
        assert_eq!(queues, BTreeSet::from([NAMES[usize::from(expected)].to_owned()]), "{id}");
    }
    let used: BTreeSet<_> = queues_of(&bench).into_values().flatten().collect();
    assert!(used.len() > 1, "eight keys in one of four: {used:?}");
}

async fn retries_and_replayed_dead_letters_come_back_to_their_shard<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    let fail = || Act::Fail("no".into());
    for n in 0..8 {
        let acts =
            if n < 4 { vec![fail(), fail(), Act::Succeed] } else { vec![Act::Discard("never".into()), Act::Succeed] };
        bench.enqueue::<Four>(&n.to_string(), acts).await;
    }
    let worker = Running::start(bench.worker_of(of::<Four>()));
    bench.finished(8).await;
    let dead: BTreeMap<_, _> =
        bench.dead().await.into_iter().map(|dead| (dead.id.to_string(), dead.queue.to_string())).collect();
    assert_eq!(dead.values().collect::<BTreeSet<_>>(), NAMES.map(String::from).iter().collect(), "one in each");
    let inspector = bench.client.broker().inspector().unwrap();
    assert_eq!(inspector.replay(&Selection::default(), 10).await.unwrap(), 4);
    bench.finished(12).await;
    worker.stop().await;
    let ran = queues_of(&bench);
    assert!(ran.values().all(|queues| queues.len() == 1), "each in one: {ran:?}");
    assert!(dead.iter().all(|(id, queue)| ran[id].contains(queue)), "{dead:?}, {ran:?}");
    assert_eq!(bench.reports().len(), 4 * 3 + 4 * 2);
}

async fn the_first_job_makes_all_shards<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    bench.enqueue_as(Bench::job::<Four>("a", [Act::Succeed]).shard_key("customer-7")).await;
    let found: Vec<_> = shards(&bench).await.into_iter().map(|stats| (stats.queue.to_string(), stats.ready)).collect();
    assert_eq!(found, NAMES.map(|name| (name.to_owned(), u64::from(name == "spread.shard-1"))));
}

async fn what_waits_in_a_queue_is_run_when_it_has_got_shards<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    forty_jobs::<One>(&bench).await;
    let worker = Running::start(bench.worker_of(of::<Four>()));
    bench.finished(40).await;
    worker.stop().await;
    assert!(queues_of(&bench).into_values().flatten().all(|queue| queue == "spread"));
}

async fn fewer_shards_leave_the_others_to_be_seen_and_run<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    forty_jobs::<Four>(&bench).await;
    let two = Running::start(bench.worker_of(of::<Two>()));
    bench.finished(20).await;
    two.stop().await;
    ready(&bench, [0, 0, 10, 10]).await;
    // One that is named, whatever the number is now.
    let third = Running::start(bench.worker_of(of::<Two>()).queues(["spread.shard-2"]));
    bench.finished(30).await;
    third.stop().await;
    let four = Running::start(bench.worker_of(of::<Four>()));
    bench.finished(40).await;
    four.stop().await;
    ready(&bench, [0; 4]).await;
}

async fn a_call_is_answered_from_whichever_shard<F: BrokerFixture>(fx: &F) {
    let bench = open(fx).await;
    let capabilities = bench.client.broker().capabilities();
    if !capabilities.calls {
        return skipped(&capabilities, "it has no calls");
    }
    let worker = Running::start(bench.worker_of(of::<Four>()));
    for n in 0..4 {
        bench.client.call(Bench::job::<Four>(&n.to_string(), [Act::Succeed])).await.unwrap();
    }
    bench.finished(4).await;
    worker.stop().await;
    assert_eq!(queues_of(&bench).into_values().flatten().collect::<BTreeSet<_>>().len(), 4);
}

on_all_brokers! {
    each_shard_gets_its_part_and_all_jobs_run
    jobs_of_one_key_run_in_their_order
    the_first_job_makes_all_shards
    retries_and_replayed_dead_letters_come_back_to_their_shard
    what_waits_in_a_queue_is_run_when_it_has_got_shards
    fewer_shards_leave_the_others_to_be_seen_and_run
    a_call_is_answered_from_whichever_shard
}

/// Of each of its queues, the slots.
fn slots(worker: &Worker) -> Vec<usize> {
    worker.status().queues().into_iter().map(|queue| queue.slots).collect()
}

#[tokio::test(start_paused = true)]
async fn the_slots_of_a_queue_are_shared_out_and_without_any_each_shard_may_use_all() {
    let (bench, _) = Bench::memory();
    let worker = |own: Option<usize>| {
        let worker = bench.worker_of(of::<Four>()).concurrency(16);
        let worker = own.into_iter().fold(worker, |worker, own| worker.queue_concurrency("spread", own));
        slots(&worker.build().unwrap())
    };
    assert_eq!(worker(None), [16; 4]);
    assert_eq!(worker(Some(10)), [3, 3, 2, 2]);
    assert_eq!(worker(Some(2)), [1; 4], "or a shard would never be served");
}

#[tokio::test(start_paused = true)]
async fn a_worker_holds_no_more_of_a_shard_than_it_has_slots() {
    let (bench, _) = Bench::memory();
    let jobs = (0..40).map(|n| Bench::job::<Four>(&n.to_string(), [Act::Hang]));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
    let worker = Running::start(bench.worker_of(of::<Four>()).concurrency(4));
    bench.log.until("four run", |runs| runs.len() == 4).await;
    settle_down().await;
    let held: Vec<_> = shards(&bench).await.iter().map(|stats| stats.running).collect();
    assert_eq!(held, [Some(4); 4]);
    worker.abort_and_end().await;
}

#[tokio::test(start_paused = true)]
async fn full_shards_are_consumed_evenly() {
    let (bench, _) = Bench::memory();
    let jobs = (0..80).map(|n| Bench::job::<Four>(&n.to_string(), [Act::Work(1_000)]));
    assert!(bench.client.enqueue_all(jobs).await.iter().all(Result::is_ok));
    let worker = Running::start(bench.worker_of(of::<Four>()).concurrency(4));
    bench.reported(24).await;
    // The first slots are for whichever comes first.
    let mut ran: BTreeMap<_, usize> = BTreeMap::new();
    bench.reports()[8..24].iter().for_each(|report| *ran.entry(report.queue.to_string()).or_default() += 1);
    assert_eq!(ran, NAMES.map(|name| (name.to_owned(), 4)).into());
    worker.abort_and_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_not_served_twice_by_one_worker() {
    let (bench, _) = Bench::memory();
    let twice = bench.worker_of(of::<Four>()).queues(["spread", "spread.shard-3"]).build().unwrap_err();
    assert!(twice.to_string().contains("queue `spread.shard-3` is named beside the queue"), "{twice}");
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_goes_where_it_may_be_already() {
    let mut first = true;
    let bench = Bench::faulty(move |call| match call {
        Call::Enqueue(_) if std::mem::take(&mut first) => Fault::Lost,
        _ => Fault::None,
    });
    let error = bench.client.enqueue(Bench::job::<Four>("a", [Act::Succeed])).await.unwrap_err();
    let job = error.into_job().unwrap();
    assert_eq!(job.queue().as_str(), "spread");
    let first = job.route().clone();
    bench.client.enqueue(job).await.unwrap();
    let name = match first {
        worker_core::envelope::Route::Queue(name) => name,
        other => panic!("{other:?}"),
    };
    let found: Vec<_> = shards(&bench).await.into_iter().filter(|stats| stats.ready > 0).collect();
    assert!(found.len() == 1 && found[0].queue == name, "{found:?}, {name}");
}

#[tokio::test(start_paused = true)]
async fn jobs_of_another_client_do_not_all_begin_with_the_first_shard() {
    let (bench, _) = Bench::memory();
    for n in 0..64 {
        let client = Client::new(Arc::clone(bench.client.broker()));
        client.enqueue(Bench::job::<Four>(&n.to_string(), [Act::Succeed])).await.unwrap();
    }
    // Each empty with a chance of one in a hundred million.
    assert!(shards(&bench).await.iter().all(|stats| stats.ready > 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_in_a_shard_that_fails_for_good_is_reported_with_it() {
    let (bench, _) = Bench::memory();
    bench.enqueue_as(Bench::job::<Four>("a", [Act::Discard("no".into())]).shard_key("customer-7")).await;
    let worker = Running::start(bench.worker_of(of::<Four>()));
    bench.finished(1).await;
    worker.stop().await;
    assert!(matches!(&*bench.endings_of("a"), [Ending::DeadLettered { .. }]));
    assert_eq!(bench.only_dead().await.queue, "spread.shard-1");
}
