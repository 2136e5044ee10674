//! What a worker and its client measure: the right series, few of them, and all of them in the guide.

use std::{num::NonZeroU8, path::Path, sync::Arc};

use metrics_exporter_prometheus::PrometheusBuilder;
use worker_core::{
    BrokerErrorKind, JobOptions, Registry, RetryPolicy, seconds,
    telemetry::{
        ACKS_LOST, BUILD_INFO, CONCURRENCY, DEAD_LETTERS, DUPLICATES_SUSPECTED, JOB_DURATION, JOB_WAIT, JOBS_ENQUEUED,
        JOBS_IN_FLIGHT, JOBS_PROCESSED, METRICS, SECONDS_BUCKETS, describe_metrics,
    },
};
use worker_tests::{
    exposition::Exposition,
    fault::{Call, Fault, first},
};

use super::unknown::enqueue_named;
use crate::{
    bench::{Act, Bench, Other, Play, Running, acting},
    gate::settle_down,
};

acting! {
    /// Has a second to run.
    Hasty, "hasty" in "q", JobOptions::DEFAULT.aliases(&["hurried"]).timeout(seconds(1)).retry(RetryPolicy::new(0, seconds(1), seconds(1)))
}

acting! {
    /// In one of four shards.
    Wide, "wide" in "w", JobOptions::DEFAULT.shards(NonZeroU8::new(4).unwrap())
}

/// Runs `work` with a recorder of its own; hands it a way to read what was recorded.
fn measured<F: Future<Output = ()>>(work: impl FnOnce(Arc<dyn Fn() -> Exposition>) -> F) {
    let recorder = PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS).unwrap().build_recorder();
    let handle = recorder.handle();
    // The recorder is this thread's, and so is the whole runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        describe_metrics();
        runtime.block_on(work(Arc::new(move || Exposition::parse(&handle.render()))));
    });
}

#[test]
fn every_execution_is_counted_once_under_its_outcome() {
    measured(|page| async move {
        let (bench, _) = Bench::memory();
        let worker = Running::start(bench.worker_of(Registry::new().with::<Play>().with::<Other>().with::<Hasty>()));
        bench.enqueue::<Play>("a", [Act::Fail("no".into()), Act::Panic("no".into()), Act::Succeed]).await;
        bench.enqueue::<Play>("b", [Act::Snooze(10), Act::Succeed]).await;
        bench.enqueue::<Play>("c", [Act::Discard("no".into())]).await;
        bench.enqueue::<Hasty>("d", [Act::Hang]).await;
        bench.enqueue::<Other>("e", [Act::Fail("no".into())]).await;
        bench.finished(5).await;
        worker.stop().await;

        let page = page();
        let processed = |job, outcome| page.value(JOBS_PROCESSED, &[("job", job), ("outcome", outcome)]);
        let outcomes = ["success", "timeout", "panic", "retry", "dead", "released", "cancelled", "lost"];
        assert_eq!(outcomes.map(|outcome| processed("play", outcome)), [2.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(outcomes.map(|outcome| processed("hasty", outcome)), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(outcomes.map(|outcome| processed("other", outcome)), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(page.value(JOBS_ENQUEUED, &[("job", "play"), ("queue", "q")]), 3.0);
        assert_eq!(page.value(JOBS_ENQUEUED, &[("job", "other"), ("queue", "other")]), 1.0);
        let dead = |job, reason| page.value(DEAD_LETTERS, &[("job", job), ("reason", reason)]);
        assert_eq!((dead("play", "discarded"), dead("hasty", "timed_out"), dead("other", "error")), (1.0, 1.0, 1.0));
        assert_eq!(page.value(DEAD_LETTERS, &[]), 3.0);
        assert_eq!(page.value(BUILD_INFO, &[("broker", "memory")]), 1.0);
    });
}

#[test]
fn the_shards_of_a_queue_are_one_series_with_the_slots_that_they_can_use() {
    measured(|page| async move {
        let (bench, _) = Bench::memory();
        for n in 0..4 {
            bench.enqueue::<Wide>(&format!("hangs-{n}"), [Act::Hang]).await;
            bench.enqueue::<Wide>(&format!("dies-{n}"), [Act::Discard("no".into())]).await;
        }
        let worker = Running::start(bench.worker_of(Registry::new().with::<Wide>()).concurrency(16));
        bench.finished(4).await;
        settle_down().await;

        let page = page();
        let queues = page.beginning("worker_").into_iter().filter(|series| series.contains("queue=\""));
        let other: Vec<_> = queues.filter(|series| !series.contains("queue=\"w\"")).collect();
        assert_eq!(other, [""; 0]);
        let of = [("queue", "w")];
        assert_eq!((page.value(CONCURRENCY, &of), page.value(JOBS_IN_FLIGHT, &of)), (16.0, 4.0));
        assert_eq!((page.value(DEAD_LETTERS, &of), page.value(JOBS_ENQUEUED, &of)), (4.0, 8.0));
        worker.abort_and_end().await;
    });
}

#[test]
fn durations_and_first_waits_are_measured_in_seconds() {
    measured(|page| async move {
        let (bench, _) = Bench::memory();
        bench.enqueue::<Play>("a", [Act::Fail("no".into()), Act::Work(2_000)]).await;
        tokio::time::sleep(seconds(5)).await;
        let worker = bench.start();
        bench.finished(1).await;
        worker.stop().await;

        let (page, of) = (page(), [("job", "play"), ("queue", "q")]);
        let about = |value: f64, expected: f64| (value - expected).abs() < 0.1;
        assert!(about(page.value(&format!("{JOB_WAIT}_sum"), &of), 5.0), "{page:?}");
        assert_eq!(page.value(&format!("{JOB_WAIT}_count"), &of), 1.0, "a retry's pause is no wait");
        assert!(about(page.value(&format!("{JOB_DURATION}_sum"), &of), 2.0), "{page:?}");
        assert_eq!(page.value(&format!("{JOB_DURATION}_count"), &of), 2.0);
        let below = |bound| page.value(&format!("{JOB_DURATION}_bucket"), &[of[0], of[1], ("le", bound)]);
        assert_eq!((below("1"), below("2.5"), below("+Inf")), (1.0, 2.0, 2.0));
    });
}

#[test]
fn what_runs_is_seen_while_it_runs_and_two_workers_add_up() {
    measured(|page| async move {
        let (bench, broker) = Bench::memory();
        let neighbour = bench.neighbour(Arc::new(broker.another_process()));
        let worker = Running::start(bench.worker().concurrency(3).prefetch(3));
        let other = Running::start(neighbour.worker().concurrency(2).prefetch(2));
        for id in ["a", "b", "c", "d"] {
            bench.enqueue::<Play>(id, [Act::UntilStopping]).await;
        }
        bench.log.until("four run", |runs| runs.len() == 4).await;
        settle_down().await;
        let now = page();
        let of = |name, queue| now.value(name, &[("queue", queue)]);
        assert_eq!((of(CONCURRENCY, "q"), of(JOBS_IN_FLIGHT, "q"), of(JOBS_IN_FLIGHT, "other")), (5.0, 4.0, 0.0));
        worker.stop().await;
        other.stop().await;
        let after = page();
        assert_eq!((after.value(CONCURRENCY, &[]), after.value(JOBS_IN_FLIGHT, &[])), (0.0, 0.0));
    });
}

#[test]
fn strangers_share_one_label_and_an_alias_has_its_jobs() {
    measured(|page| async move {
        let (bench, _) = Bench::memory();
        let registry = Registry::new().with::<Play>().with::<Hasty>();
        let worker = Running::start(bench.worker_of(registry).unknown_job_patience(seconds(0)));
        for n in 0..50 {
            enqueue_named(&bench, &format!("id-{n}"), Some(&format!("stranger-{n}")), "q").await;
        }
        enqueue_named(&bench, "late", Some("hurried"), "q").await;
        bench.finished(51).await;
        worker.stop().await;

        let page = page();
        assert_eq!(page.value(JOBS_PROCESSED, &[("job", "unknown"), ("outcome", "dead")]), 50.0);
        assert_eq!(page.value(DEAD_LETTERS, &[("job", "unknown"), ("reason", "unknown_job")]), 50.0);
        assert_eq!(page.value(JOBS_PROCESSED, &[("job", "hasty"), ("outcome", "success")]), 1.0);
        let series = page.beginning("worker_");
        let leaked: Vec<_> =
            ["stranger", "hurried", "id-", "late"].map(|word| (word, series.iter().any(|s| s.contains(word)))).into();
        assert!(leaked.iter().all(|(_, leaked)| !leaked), "{leaked:?}");
        assert!(series.len() < 120, "{} series", series.len());
    });
}

#[test]
fn a_job_that_was_lost_is_a_suspected_duplicate_only_if_it_ran() {
    measured(|page| async move {
        let settles = |call: Call<'_>| matches!(call, Call::Settle(..));
        let bench = Bench::faulty(first(settles, [Fault::AnswerLost, Fault::Refused(BrokerErrorKind::Transient)]));
        let worker = bench.start();
        bench.enqueue::<Play>("a", [Act::Succeed]).await;
        bench.enqueue::<Play>("b", [Act::Succeed]).await;
        bench.reported(2).await;
        worker.stop().await;
        let page = page();
        let both = (page.value(ACKS_LOST, &[]), page.value(DUPLICATES_SUSPECTED, &[]));
        assert_eq!(both, (1.0, 1.0), "submitting again loses nothing");
        assert_eq!(page.value(JOBS_PROCESSED, &[("outcome", "lost")]), 1.0);
    });
    measured(|page| async move {
        let gives_back =
            |call: Call<'_>| matches!(call, Call::Settle(delivery, _) if delivery.envelope.id.to_string() == "waits");
        let bench = Bench::faulty(first(gives_back, [Fault::AnswerLost]));
        let worker = Running::start(bench.worker().concurrency(1));
        bench.enqueue::<Play>("runs", [Act::UntilStopping]).await;
        bench.log.until("one runs", |runs| runs.len() == 1).await;
        bench.enqueue::<Play>("waits", [Act::Succeed]).await;
        settle_down().await;
        assert_eq!(worker.stop().await.lost, 1);
        let page = page();
        assert_eq!((page.value(ACKS_LOST, &[]), page.value(DUPLICATES_SUSPECTED, &[])), (1.0, 0.0));
        assert_eq!(page.value(JOBS_PROCESSED, &[]), page.value(JOBS_PROCESSED, &[("outcome", "released")]));
    });
}

#[test]
fn every_metric_that_is_recorded_stands_in_the_table_with_its_labels() {
    measured(|page| async move {
        let (bench, _) = Bench::memory();
        let worker = bench.start();
        bench.enqueue::<Play>("a", [Act::Discard("no".into())]).await;
        bench.finished(1).await;
        worker.stop().await;
        let page = page();
        let recorded = page.beginning("worker_");
        assert!(recorded.len() > 20, "{page:?}");
        for series in recorded {
            let metric =
                METRICS.iter().filter(|metric| series.starts_with(metric.name)).max_by_key(|metric| metric.name.len());
            let metric = metric.unwrap_or_else(|| panic!("not in the table: {series}"));
            assert_eq!(page.kind(metric.name), Some(metric.kind.as_str()), "{series}");
            assert!(page.is_described(metric.name), "{series}");
            let labels = series.split(['{', ',']).skip(1).filter_map(|label| label.split('=').next());
            let labels: Vec<_> = labels.filter(|label| *label != "le").collect();
            assert_eq!(labels, metric.labels, "{series}");
        }
    });
}

#[test]
fn the_guide_has_every_metric_as_the_program_has_it() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/observability.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `worker_")).collect();
    let expected = METRICS.iter().map(|metric| {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), labels.join(" "), metric.meaning)
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(rows, expected, "docs/guides/observability.md should have:\n{}\n", expected.join("\n"));
}
