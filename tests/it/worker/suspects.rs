//! Jobs whose worker died while they ran, as the next worker treats them.

use std::sync::Arc;

use worker_core::{
    Ending, FailureKind,
    broker::{Broker as _, Subscription},
    brokers::memory::MemoryBroker,
    minutes,
};

use crate::bench::{Act, Bench, Other, Play, Run, Running};

/// Lets all jobs that wait in `queue` begin, and their worker die, so often.
async fn die_running(broker: &MemoryBroker, queue: &str, count: usize, times: usize) {
    for _ in 0..times {
        let mut begun = 0;
        // Each subscription owns one suspect, so each job gets one of its own.
        let doomed = broker.another_process();
        let mut held = Vec::new();
        while begun < count {
            let subscription = Subscription::new(queue.parse().unwrap(), 1.try_into().unwrap());
            let (mut source, settler) = doomed.consume(subscription).await.unwrap();
            let delivery = source.next_batch(1).await.unwrap().remove(0);
            settler.begin(&delivery);
            begun += 1;
            held.push((source, settler, delivery));
        }
        doomed.crash();
    }
}

fn suspects(run: &Run) -> bool {
    run.id.starts_with("suspect")
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_beside_other_jobs() {
    let (bench, broker) = Bench::memory();
    for n in 0..3 {
        bench.enqueue::<Play>(&format!("suspect-q{n}"), [Act::Work(1_000)]).await;
        bench.enqueue::<Other>(&format!("suspect-o{n}"), [Act::Work(1_000)]).await;
    }
    die_running(&broker, "q", 3, 1).await;
    die_running(&broker, "other", 3, 1).await;
    for n in 0..20 {
        bench.enqueue::<Play>(&format!("plain{n}"), [Act::Work(1_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(5));
    bench.finished(26).await;
    worker.stop().await;
    assert_eq!(bench.log.most_at_once(suspects), 1, "one in the whole worker, whatever their queues");
    assert_eq!(bench.log.most_at_once(|_| true), 5, "the other slots are used");
    assert!(bench.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_could_convict_a_job_happens_alone() {
    let (bench, broker) = Bench::memory();
    bench.enqueue::<Play>("suspect", [Act::Work(5_000)]).await;
    die_running(&broker, "q", 1, 2).await;
    for n in 0..4 {
        bench.enqueue::<Other>(&format!("before{n}"), [Act::Work(10_000)]).await;
    }
    let worker = Running::start(bench.worker().concurrency(8));
    bench.log.until("they run", |runs| runs.len() == 4).await;
    for n in 0..8 {
        bench.enqueue::<Other>(&format!("after{n}"), [Act::Work(1_000)]).await;
    }
    bench.finished(13).await;
    worker.stop().await;
    let begins: Vec<_> = bench.log.runs().iter().map(|run| (run.began.as_secs(), suspects(run))).collect();
    assert_eq!(begins[..4], [(0, false); 4]);
    assert_eq!(begins[4], (10, true), "when those that ran have ended, and before those that waited");
    assert_eq!(begins[5..], [(15, false); 8], "nothing starts beside it");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_waits_five_minutes_to_be_alone_and_no_longer() {
    let (bench, broker) = Bench::memory();
    bench.enqueue::<Play>("suspect", [Act::Work(1_000)]).await;
    die_running(&broker, "q", 1, 2).await;
    bench.enqueue::<Other>("endless", [Act::Hang]).await;
    let worker = bench.start();
    bench.log.until("the endless one runs", |runs| runs.len() == 1).await;
    bench.enqueue::<Other>("waiting", [Act::Succeed]).await;
    bench.finished(2).await;
    worker.drop_in_the_middle().await;
    assert_eq!(bench.log.begins_of("suspect"), [minutes(5)]);
    assert_eq!(bench.log.begins_of("waiting"), [minutes(5)], "what waited for it runs beside it then");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_fails_in_an_orderly_way_is_one_no_more() {
    let (bench, broker) = Bench::memory();
    bench.enqueue::<Play>("suspect", [Act::Fail("no".into()), Act::Work(60_000)]).await;
    die_running(&broker, "q", 1, 2).await;
    let worker = Running::start(bench.worker().concurrency(4));
    bench.log.until("it runs again", |runs| runs.len() == 2).await;
    bench.enqueue::<Play>("beside", [Act::Succeed]).await;
    bench.reported(2).await;
    assert_eq!(bench.endings_of("beside"), [Ending::Succeeded], "nothing waits for it any more");
    worker.drop_in_the_middle().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_three_workers_is_dead_and_its_neighbours_are_not() {
    let (bench, broker) = Bench::memory();
    bench.enqueue::<Other>("killer", [Act::Hang]).await;
    for n in 0..6 {
        bench.enqueue::<Other>(&format!("neighbour{n}"), [Act::Work(3_000)]).await;
    }
    for starts in 1..=3 {
        let process = Arc::new(broker.another_process());
        let worker = bench.neighbour(Arc::clone(&process) as _).start();
        bench.log.until("the killer runs", |runs| runs.iter().filter(|run| run.id == "killer").count() == starts).await;
        process.crash();
        worker.drop_in_the_middle().await;
    }
    let worker = bench.start();
    bench.finished(6).await;
    worker.stop().await;
    let dead = bench.only_dead().await;
    assert_eq!((dead.id.to_string().as_str(), dead.failure.kind), ("killer", FailureKind::Crashed));
    assert_eq!((dead.starts, dead.attempts), (3, 0));
    for n in 0..6 {
        let id = format!("neighbour{n}");
        assert_eq!(bench.endings_of(&id), [Ending::Succeeded]);
        assert!(bench.log.begins_of(&id).len() <= 2, "{id} is punished for its neighbour");
    }
}
