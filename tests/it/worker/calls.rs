//! Calls, from the caller to the job's handler and back, on every broker.

use std::{
    collections::BTreeMap,
    future::IntoFuture as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;
use worker_core::{
    CallError, ClientOptions, Clock, Ending, EnqueueErrorKind, FailureKind, Registry, TokioClock, Worker,
    brokers::memory::MemoryBroker, prelude::*, reply::REPLY_BYTES_MAX,
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Vhost, shared_vhost},
};

use crate::bench::Running;

#[job(queue = "calculator")]
async fn divide(a: f64, b: f64) -> JobResult<f64> {
    if b == 0.0 {
        return Err("division by zero".into());
    }
    Ok(a / b)
}

/// Fails until the third attempt; counts its runs.
#[job(queue = "calculator", backoff = "10ms..10ms")]
async fn third_time(runs: State<AtomicU32>) -> JobResult<u32> {
    let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
    if run < 3 { Err(format!("run {run} fails").into()) } else { Ok(run) }
}

/// Succeeds as an order that nothing is said about.
#[job(queue = "calculator")]
async fn nothing() {}

#[job(queue = "calculator")]
async fn yes(answer: bool) -> bool {
    answer
}

#[job(queue = "calculator")]
async fn is_called(cx: Context) -> JobResult<bool> {
    Ok(cx.is_call())
}

#[job(queue = "calculator")]
async fn panics() {
    panic!("no luck");
}

#[job(queue = "calculator", timeout = "20ms")]
async fn hangs() {
    std::future::pending::<()>().await;
}

#[job(queue = "calculator")]
async fn large(bytes: usize) -> JobResult<String> {
    Ok("x".repeat(bytes))
}

#[job(queue = "calculator")]
async fn keyed() -> JobResult<BTreeMap<Vec<u8>, u8>> {
    Ok(BTreeMap::from([(vec![1], 2)]))
}

/// The caller's own idea of `divide`, which is wrong.
mod elsewhere {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(super) struct Divide {
        pub(super) a: f64,
        pub(super) b: f64,
    }

    impl Job for Divide {
        const NAME: &'static str = "divide";
        const QUEUE: &'static str = "calculator";
        type Return = JobResult<Vec<String>>;
    }
}

fn registry() -> Registry {
    Registry::new()
        .with::<divide>()
        .with::<third_time>()
        .with::<nothing>()
        .with::<yes>()
        .with::<is_called>()
        .with::<panics>()
        .with::<hangs>()
        .with::<large>()
        .with::<keyed>()
}

/// How each execution ended.
type Endings = Arc<std::sync::Mutex<Vec<Ending>>>;

fn worker(client: &Client) -> (Running, Endings) {
    let endings = Endings::default();
    let noted = Arc::clone(&endings);
    let worker = Worker::builder(client)
        .registry(registry())
        .state(AtomicU32::new(0))
        .concurrency(64)
        .observe(move |report| noted.lock().unwrap().push(report.ending.clone()));
    (Running::start(worker), endings)
}

fn failed(error: CallError) -> (FailureKind, String) {
    match error {
        CallError::Failed { failure, .. } => (failure.kind, failure.message),
        other => panic!("{other}"),
    }
}

/// Caller and worker have clients of their own, as two processes do.
async fn a_call_brings_what_its_handler_returns(caller: Client, server: Client) {
    let (running, _) = worker(&server);
    let half: f64 = soon("an answer", caller.call(divide::new(1.0, 2.0)).timeout("20s").into_future()).await.unwrap();
    assert!((half - 0.5).abs() < f64::EPSILON);
    let all = soon("answers", async {
        caller.call(nothing::new()).await.unwrap();
        assert!(caller.call(yes::new(true)).await.unwrap());
        assert!(caller.call(is_called::new()).await.unwrap());
        let no = failed(caller.call(divide::new(1.0, 0.0)).await.unwrap_err());
        assert_eq!(no, (FailureKind::Error, "division by zero".into()));
        assert_eq!(failed(caller.call(yes::new(false)).await.unwrap_err()).1, "the job returned `false`");
        assert_eq!(failed(caller.call(panics::new()).await.unwrap_err()), (FailureKind::Panic, "no luck".into()));
        assert_eq!(failed(caller.call(hangs::new()).await.unwrap_err()).0, FailureKind::TimedOut);
        let run = caller.call(third_time::new()).retries().timeout("20s").await.unwrap();
        assert_eq!(run, 3);
    });
    all.await;
    running.stop().await;
    let stats = caller.broker().inspector().unwrap().queues(&["calculator".parse().unwrap()]).await.unwrap();
    assert_eq!((stats[0].ready, stats[0].dead), (0, 0), "a call's failure is its caller's");
}

#[tokio::test]
async fn a_call_brings_what_its_handler_returns_in_memory() {
    let broker = MemoryBroker::new();
    let client = |broker: MemoryBroker| Client::new(Arc::new(broker));
    a_call_brings_what_its_handler_returns(client(broker.another_process()), client(broker.another_process())).await;
}

#[tokio::test]
async fn a_call_brings_what_its_handler_returns_on_sqlite() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
    let (caller, server) = (Client::connect(&url).await.unwrap(), Client::connect(&url).await.unwrap());
    a_call_brings_what_its_handler_returns(caller, server).await;
}

#[tokio::test]
async fn a_call_brings_what_its_handler_returns_on_rabbitmq() {
    let vhost = shared_vhost();
    let (caller, server) = (Client::connect(vhost.url()).await.unwrap(), Client::connect(vhost.url()).await.unwrap());
    a_call_brings_what_its_handler_returns(caller, server).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_fails_once_and_is_not_tried_again_unless_asked() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let (running, endings) = worker(&client);
    let error = failed(client.call(third_time::new()).await.unwrap_err());
    assert_eq!(error, (FailureKind::Error, "run 1 fails".into()));
    assert_eq!(client.call(third_time::new()).retries().await.unwrap(), 3);
    running.stop().await;
    let endings = endings.lock().unwrap().clone();
    assert!(matches!(*endings, [Ending::CallFailed { .. }, Ending::Retried { .. }, Ending::Succeeded]), "{endings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_answers_is_over_in_time_and_says_so() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_now());
    let broker = MemoryBroker::with_clock(Arc::clone(&clock));
    let client = Client::with_clock(Arc::new(broker), ClientOptions::default(), clock);
    let started = tokio::time::Instant::now();
    let error = client.call(divide::new(1.0, 2.0)).timeout(Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    let CallError::TimedOut { within, .. } = &error else { panic!("{error}") };
    assert_eq!(*within, Duration::from_secs(3));
    assert!(error.to_string().contains("call of job `divide`") && error.to_string().contains("within 3s"), "{error}");
    // 10 s later it has expired, and is not run any more.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (running, endings) = worker(&client);
    eventually("the call is taken", async || (!endings.lock().unwrap().is_empty()).then_some(())).await;
    let expired = endings.lock().unwrap()[0].clone();
    assert!(matches!(&expired, Ending::CallFailed { failure } if failure.kind == FailureKind::Expired), "{expired:?}");
    running.stop().await;
    assert_eq!(client.broker().inspector().unwrap().queues(&[]).await.unwrap()[0].dead, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_the_caller_cannot_read_or_the_worker_cannot_write_is_an_error_of_its_own() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let (running, _) = worker(&client);
    let error = client.call(elsewhere::Divide { a: 1.0, b: 2.0 }).await.unwrap_err();
    let CallError::Undecodable { problem, body, .. } = &error else { panic!("{error}") };
    assert!(problem.contains("expected a sequence") && &*body.0 == b"0.5", "{problem}");
    let (kind, text) = failed(client.call(large::new(REPLY_BYTES_MAX)).await.unwrap_err());
    assert_eq!(kind, FailureKind::Discarded);
    assert!(text.contains("1048578 bytes; the limit of a reply is 1048576"), "{text}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_waits_for_may_return_what_cannot_be_a_reply() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let (running, endings) = worker(&client);
    client.enqueue(large::new(REPLY_BYTES_MAX)).await.unwrap();
    client.enqueue(keyed::new()).await.unwrap();
    eventually("both have run", async || (endings.lock().unwrap().len() == 2).then_some(())).await;
    assert_eq!(*endings.lock().unwrap(), [Ending::Succeeded, Ending::Succeeded]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_called_is_refused_before_it_is_sent() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let refusals = [
        (client.call(nothing::new().delay(seconds(1))).await, "it is a call and would be delayed"),
        (client.call(nothing::new().via("events", "k")).await, "would go through an exchange"),
        (client.call(nothing::new()).timeout("soon").await, "its timeout is `soon`"),
        (client.call(nothing::new()).timeout("0s").await, "its timeout is below 1 ms"),
        (client.call(nothing::new().priority(99)).await, "its priority is 99"),
    ];
    for (refused, part) in refusals {
        let Err(CallError::NotEnqueued(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), EnqueueErrorKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
    }
}

async fn ten_thousand_calls_at_once(caller: Client, server: Client) {
    const CALLS: u32 = 10_000;
    let (running, _) = worker(&server);
    let mut calls = JoinSet::new();
    for n in 0..CALLS {
        let caller = caller.clone();
        calls.spawn(async move { (n, caller.call(divide::new(f64::from(n), 2.0)).timeout("100s").await) });
    }
    let mut answered = 0;
    while let Some(joined) = soon("the next call ends", calls.join_next()).await {
        let (n, answer) = joined.unwrap();
        match answer {
            Ok(half) => {
                assert!((half * 2.0 - f64::from(n)).abs() < f64::EPSILON, "call {n} got the reply {half}");
                answered += 1;
            }
            Err(error) => panic!("call {n}: {error}"),
        }
    }
    assert_eq!(answered, CALLS);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_at_once_get_each_its_own_reply_on_rabbitmq() {
    let vhost: Vhost = shared_vhost();
    let (caller, server) = (Client::connect(vhost.url()).await.unwrap(), Client::connect(vhost.url()).await.unwrap());
    ten_thousand_calls_at_once(caller, server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_at_once_get_each_its_own_reply_on_sqlite() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
    let (caller, server) = (Client::connect(&url).await.unwrap(), Client::connect(&url).await.unwrap());
    ten_thousand_calls_at_once(caller, server).await;
}

/// Calls that are given up at random times, between others that are waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_disturb_no_others() {
    let vhost = shared_vhost();
    let (caller, server) = (Client::connect(vhost.url()).await.unwrap(), Client::connect(vhost.url()).await.unwrap());
    let (running, _) = worker(&server);
    let calls = stream::iter(0..1_000_u32).map(|n| {
        let caller = caller.clone();
        async move {
            let call = caller.call(divide::new(f64::from(n), 1.0)).timeout("100s");
            if n % 3 == 0 {
                let patience = Duration::from_micros(u64::from(n * 37 % 5_000));
                return drop(tokio::time::timeout(patience, call.into_future()).await);
            }
            let got = call.await.unwrap();
            assert!((got - f64::from(n)).abs() < f64::EPSILON, "call {n} got {got}");
        }
    });
    soon("all calls end", calls.buffer_unordered(200).collect::<Vec<_>>()).await;
    running.stop().await;
}
