//! The four settlements: what each makes true.

use std::time::Duration;

use worker_core::{
    Clock as _, Failure, FailureKind, Headers, Priority, Timestamp, TokioClock,
    broker::{BATCH_MAX, DeadJob, SettleError, attempts_failed},
    envelope::Body,
    outcome::FAILURE_BYTES_MAX,
    settlement::{Note, Settlement},
};

use crate::{
    eventually::soon,
    fixture::{BrokerFixture, skipped},
    process::Process,
    sample::{
        ENQUEUED_AT, QUEUE, assert_counts, assert_known, bury, copy, ids, job, job_for, jobs, release, retry,
        sorted_ids,
    },
};

/// Dates have whole milliseconds, so a delay between two of them may look this much shorter.
const GRAIN: Duration = Duration::from_millis(2);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Clause S1: nobody gets it again, neither at once nor after its consumer or its process is gone.
pub async fn an_acknowledged_job_is_gone<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue(jobs("job", 6)).await;
    let mut consumer = process.consume(6).await;
    let mut owned = consumer.take(6).await;
    let begun = owned.split_off(3);
    begun.iter().for_each(|delivery| consumer.begin(delivery));
    consumer.ack_all(owned).await;
    consumer.ack_all(begun).await;
    drop(consumer);
    process.crash().await;
    let mut late = other.consume(6).await;
    late.nothing().await;
    let stats = other.stats().await;
    assert_counts(&stats, [0, 0, 0, 0]);
}

/// Clause S1: many at once, in any order, and none but those.
pub async fn acknowledgements_submitted_together_are_all_made_true<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(jobs("job", BATCH_MAX)).await;
    let mut consumer = process.consume(1_000).await;
    let mut owned = consumer.take(BATCH_MAX).await;
    fastrand::Rng::with_seed(4).shuffle(&mut owned);
    let kept = owned.split_off(BATCH_MAX - 3);
    consumer.ack_all(owned).await;
    assert_known(process.stats().await.running, 3);
    let mut kept_ids = ids(&kept);
    kept_ids.sort_unstable();
    drop(consumer);
    let mut late = process.consume(1_000).await;
    assert_eq!(sorted_ids(&late.take(3).await), kept_ids);
    late.nothing().await;
}

/// Clause S8: also where one of them is no longer owned.
pub async fn settlements_submitted_in_one_call_are_answered_each_in_its_place<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    process.enqueue(["acked", "gone", "released", "dead"].map(job)).await;
    let mut consumer = process.consume(4).await;
    let [acked, gone, released, dead] = <[_; 4]>::try_from(consumer.take(4).await).unwrap();
    let too_late = copy(&gone);
    consumer.ack(gone).await;
    let ack = || Settlement::Ack { reply: None };
    let settlements =
        vec![(acked, ack()), (too_late, ack()), (released, release(Duration::ZERO)), (dead, bury(FailureKind::Error))];
    let mut answers = Vec::new();
    for ticket in consumer.settler.submit_all(settlements) {
        answers.push(soon("a settlement is answered", ticket).await);
    }
    assert!(matches!(&*answers, [Ok(()), Err(SettleError::Lost), Ok(()), Ok(())]), "{answers:?}");
    let back = consumer.expect("released").await;
    consumer.ack(back).await;
    consumer.nothing().await;
    assert_counts(&process.stats().await, [0, 0, 0, 1]);
    assert!(consumer.settler.submit_all(Vec::new()).is_empty());
}

/// Clause S2: again at once, as if it had not been delivered, begun or not.
pub async fn a_released_delivery_keeps_its_attempt<F: BrokerFixture>(fx: &F) {
    let processes = [fx.process().await, fx.process().await];
    processes[0].enqueue([job("job")]).await;
    let watch = TokioClock::starting_now();
    for round in 0..8 {
        let mut consumer = processes[round / 2 % 2].consume(1).await;
        let released = watch.now();
        let delivery = consumer.expect("job").await;
        assert!(watch.now().since(released) <= fx.lateness());
        assert_eq!((delivery.attempt, delivery.starts), (1, 0), "a release must not count");
        if round % 2 == 0 {
            consumer.begin(&delivery);
        }
        consumer.settle(delivery, release(Duration::ZERO)).await;
    }
}

/// Clause S2: the attempts and starts of before are kept, with a delay and without.
pub async fn a_release_keeps_what_was_counted_before<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    doomed.enqueue([job("job")]).await;
    let mut consumer = doomed.consume(1).await;
    for attempt in 1..=2 {
        let delivery = consumer.one().await;
        assert_eq!(delivery.attempt, attempt);
        consumer.settle(delivery, retry(Duration::ZERO)).await;
    }
    let delivery = consumer.one().await;
    consumer.begin(&delivery);
    doomed.crash().await;
    let mut consumer = other.consume(1).await;
    for after in [Duration::ZERO, ms(20), Duration::ZERO] {
        let delivery = consumer.one().await;
        assert_eq!((delivery.attempt, delivery.starts), (3, 1));
        consumer.begin(&delivery);
        consumer.settle(delivery, release(after)).await;
    }
    let delivery = consumer.one().await;
    assert_eq!((delivery.attempt, delivery.starts), (3, 1));
}

/// Clause S3: the delay is kept to, and the attempt is not counted.
pub async fn a_release_with_a_delay_waits_for_it<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("job")]).await;
    let watch = TokioClock::starting_now();
    for (round, delay) in [ms(30), ms(250), ms(1)].into_iter().enumerate() {
        let mut owner = if round == 1 { &other } else { &process }.consume(1).await;
        let delivery = owner.one().await;
        let start = watch.now();
        owner.settle(delivery, release(delay)).await;
        let back = owner.one().await;
        let waited = watch.now().since(start);
        assert!(waited + GRAIN >= delay && waited <= delay + fx.lateness(), "after {waited:?} instead of {delay:?}");
        assert_eq!((back.attempt, back.starts), (1, 0));
        owner.settle(back, release(Duration::ZERO)).await;
    }
}

/// Clause S3: the note stays with the job until the attempt counts; a newer one replaces it.
pub async fn a_note_travels_with_a_released_job<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("job")]).await;
    let since = |unix_ms| Some(Timestamp::from_unix_ms(unix_ms));
    let note = |unix_ms| since(unix_ms).map(Note::UnknownSince);
    let mut consumer = process.consume(1).await;
    assert_eq!(consumer.one().await.envelope.unknown_since, None);
    drop(consumer);
    let mut consumer = other.consume(1).await;
    for (settlement, expected) in [
        (Settlement::Release { after: ms(10), note: note(1_700_000_000_001) }, since(1_700_000_000_001)),
        (release(Duration::ZERO), since(1_700_000_000_001)),
        (Settlement::Release { after: Duration::ZERO, note: note(1_700_000_000_002) }, since(1_700_000_000_002)),
        (release(ms(10)), since(1_700_000_000_002)),
        (retry(Duration::ZERO), None),
        (release(ms(10)), None),
    ] {
        let delivery = consumer.one().await;
        consumer.settle(delivery, settlement.clone()).await;
        let back = consumer.one().await;
        assert_eq!(back.envelope.unknown_since, expected, "after {settlement:?}");
        consumer.settle(back, release(Duration::ZERO)).await;
    }
}

/// Clause S4: the delay is kept to and the attempt is counted, each time.
pub async fn a_retried_job_waits_and_its_attempt_counts<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.enqueue([job("job")]).await;
    let watch = TokioClock::starting_now();
    for (n, delay) in [ms(0), ms(30), ms(250), ms(0), ms(1)].into_iter().enumerate() {
        let mut consumer = if n % 2 == 0 { &process } else { &other }.consume(1).await;
        let delivery = consumer.one().await;
        assert_eq!((delivery.attempt as usize, delivery.starts), (n + 1, 0));
        consumer.begin(&delivery);
        let start = watch.now();
        consumer.settle(delivery, retry(delay)).await;
        let back = consumer.one().await;
        let waited = watch.now().since(start);
        assert!(waited + GRAIN >= delay && waited <= delay + fx.lateness(), "after {waited:?} instead of {delay:?}");
        assert_eq!((back.attempt as usize, back.starts), (n + 2, 0));
        consumer.settle(back, release(Duration::ZERO)).await;
    }
}

/// Clause S4: a suspect that failed in an orderly way is one no more.
pub async fn a_retry_forgets_the_starts<F: BrokerFixture>(fx: &F) {
    let other = fx.process().await;
    other.enqueue([job("job")]).await;
    for _ in 0..2 {
        let doomed = fx.process().await;
        let mut consumer = doomed.consume(1).await;
        let delivery = consumer.one().await;
        consumer.begin(&delivery);
        // Time to be done with where it came from: a death in between makes two of it.
        fx.pass(Duration::from_millis(50)).await;
        doomed.crash().await;
    }
    let mut consumer = other.consume(1).await;
    let delivery = consumer.one().await;
    assert_eq!((delivery.attempt, delivery.starts), (1, 2));
    consumer.begin(&delivery);
    consumer.settle(delivery, retry(ms(10))).await;
    let delivery = consumer.one().await;
    assert_eq!((delivery.attempt, delivery.starts), (2, 0));
}

/// The only dead job.
async fn only_dead<F: BrokerFixture>(process: &Process<'_, F>) -> DeadJob {
    let mut dead = process.dead().await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    dead.remove(0)
}

/// Clause S5: with all it had, and with nothing left behind.
pub async fn a_dead_lettered_job_keeps_all_it_had_and_is_nowhere_else<F: BrokerFixture>(fx: &F) {
    let (process, other) = (fx.process().await, fx.process().await);
    process.declare("neighbour").await;
    let mut sent = job("doomed");
    sent.headers.insert("tenant", "żółw 🐢");
    sent.headers.insert("list", serde_json::json!([1, {"a": null}]));
    sent.body = Body((0..=u8::MAX).collect::<Vec<_>>().into());
    if fx.capabilities().await.priorities {
        sent.priority = Priority::MIN;
    }
    process.enqueue([sent.clone()]).await;
    process.enqueue([job_for("neighbour", "neighbour")]).await;
    let mut consumer = process.consume(2).await;
    let delivery = consumer.one().await;
    consumer.settle(delivery, retry(Duration::ZERO)).await;
    let delivery = consumer.one().await;
    let failure = Failure::new(FailureKind::Panic, "ü".repeat(FAILURE_BYTES_MAX / 2));
    let before = fx.date();
    consumer.settle(delivery, Settlement::DeadLetter { failure: failure.clone() }).await;
    let after = fx.date();

    let dead = only_dead(&other).await;
    assert_eq!((dead.id.to_string().as_str(), dead.queue.as_str()), ("doomed", QUEUE));
    assert_eq!((dead.job, dead.body, dead.headers), (sent.name, sent.body, sent.headers));
    assert_eq!((dead.failure, dead.attempts, dead.starts), (failure, 2, 0));
    assert_eq!((dead.priority, dead.enqueued_at), (sent.priority, ENQUEUED_AT));
    assert!((before..=after).contains(&dead.died_at), "{} is not in {before} to {after}", dead.died_at);

    consumer.nothing().await;
    other.consume(5).await.nothing().await;
    assert_counts(&process.stats_of("neighbour").await, [1, 0, 0, 0]);
    assert_counts(&process.stats().await, [0, 0, 0, 1]);
}

/// Clause S5: an attempt that was never run does not count, whichever attempt it was.
pub async fn the_dead_count_the_executions_that_failed<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut consumer = process.consume(1).await;
    let mut expected = Vec::new();
    for kind in FailureKind::ALL {
        for attempt in [1, 3] {
            let id = format!("{kind}-{attempt}");
            process.enqueue([job(&id)]).await;
            for _ in 1..attempt {
                let delivery = consumer.expect(&id).await;
                consumer.settle(delivery, retry(Duration::ZERO)).await;
            }
            let delivery = consumer.expect(&id).await;
            consumer.settle(delivery, bury(kind)).await;
            let ran = !matches!(
                kind,
                FailureKind::Crashed | FailureKind::Expired | FailureKind::UnknownJob | FailureKind::Unroutable
            );
            expected.push((id, kind, attempt - u32::from(!ran)));
            assert_eq!(attempts_failed(kind, attempt), attempt - u32::from(!ran));
        }
    }
    let dead = process.dead().await.into_iter().map(|dead| (dead.id.to_string(), dead.failure.kind, dead.attempts));
    assert_eq!(dead.collect::<Vec<_>>(), expected);
}

/// Clause S5: a job without a name and without headers dies without them.
pub async fn a_nameless_job_dies_nameless<F: BrokerFixture>(fx: &F) {
    let process = fx.process().await;
    let mut nameless = job("nameless");
    (nameless.name, nameless.body) = (None, Body::default());
    process.enqueue([nameless]).await;
    let mut consumer = process.consume(1).await;
    let delivery = consumer.one().await;
    consumer.settle(delivery, bury(FailureKind::UnknownJob)).await;
    let dead = only_dead(&process).await;
    assert_eq!((dead.job, dead.headers, dead.body), (None, Headers::default(), Body::default()));
    assert_eq!(dead.attempts, 0);
}

/// Gives the jobs `acked`, `dead`, `released`, `delayed` and `retried` these ends.
async fn settle_five<F: BrokerFixture>(process: &Process<'_, F>) {
    process.enqueue(["acked", "dead", "released", "delayed", "retried"].map(job)).await;
    let mut consumer = process.consume(5).await;
    let mut owned = consumer.take(5).await.into_iter();
    consumer.stop().await;
    let note = Some(Note::UnknownSince(Timestamp::from_unix_ms(5)));
    let released = Settlement::Release { after: Duration::ZERO, note };
    for settlement in
        [Settlement::Ack { reply: None }, bury(FailureKind::Error), released, release(ms(300)), retry(ms(30))]
    {
        let delivery = owned.next().unwrap();
        consumer.begin(&delivery);
        consumer.settle(delivery, settlement).await;
    }
}

/// What [`settle_five`] made true.
async fn assert_five_settled<F: BrokerFixture>(process: &Process<'_, F>) {
    let mut consumer = process.consume(5).await;
    let released = consumer.expect("released").await;
    assert_eq!((released.attempt, released.starts), (1, 0), "a settled start is no start that never ended");
    assert_eq!(released.envelope.unknown_since, Some(Timestamp::from_unix_ms(5)));
    let retried = consumer.expect("retried").await;
    assert_eq!((retried.attempt, retried.starts), (2, 0));
    let delayed = consumer.expect("delayed").await;
    assert_eq!((delayed.attempt, delayed.starts), (1, 0));
    consumer.nothing().await;
    assert_eq!(only_dead(process).await.id.to_string(), "dead");
}

/// Clause S7: the process dies right after the last ticket.
pub async fn a_confirmed_settlement_outlives_the_process<F: BrokerFixture>(fx: &F) {
    let (doomed, other) = (fx.process().await, fx.process().await);
    settle_five(&doomed).await;
    doomed.crash().await;
    assert_five_settled(&other).await;
}

/// Clause S7: and where the broker is durable, all processes die.
pub async fn a_confirmed_settlement_outlives_all_processes_where_the_broker_is_durable<F: BrokerFixture>(fx: &F) {
    let capabilities = fx.capabilities().await;
    if !capabilities.durable {
        return skipped(&capabilities, "not durable");
    }
    let doomed = fx.process().await;
    settle_five(&doomed).await;
    doomed.crash().await;
    drop(doomed);
    assert_five_settled(&fx.bare_process().await).await;
}
