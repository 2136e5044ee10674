//! The client's answers: which of durable, refused and unknown each job is.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use worker_core::{
    BrokerErrorKind, Client, ClientOptions, Enqueue, EnqueueErrorKind, Enqueueable as _, Job, JobId, JobOptions,
    Priority, SystemClock,
    broker::{BATCH_MAX, Topology},
    brokers::memory::MemoryBroker,
    exchange::{Binding, ExchangeKind},
    seconds,
};
use worker_tests::fault::{Call, Fault, FaultyBroker, first};

use crate::bench::{Act, Acts, Bench, Other, Play};

fn play(id: &str) -> Enqueue<Play> {
    Bench::job::<Play>(id, [Act::Succeed])
}

/// A job without an id of its own.
fn anonymous() -> Enqueue<Play> {
    Enqueue::new(Play(Acts { acts: vec![Act::Succeed] }))
}

fn enqueues(call: Call<'_>) -> bool {
    matches!(call, Call::Enqueue(_))
}

#[tokio::test(start_paused = true)]
async fn an_enqueue_whose_answer_is_lost_can_be_repeated_under_its_id() {
    for (fault, copies) in [(Fault::AnswerLost, 2), (Fault::Lost, 1)] {
        let bench = Bench::faulty(first(enqueues, [fault]));
        let error = bench.client.enqueue(anonymous()).await.unwrap_err();
        assert_eq!(error.kind(), EnqueueErrorKind::Indeterminate);
        let id = error.id().unwrap().clone();
        assert!(error.to_string().contains("may or may not be enqueued"), "{error}");
        assert!(error.to_string().contains(&id.to_string()), "{error}");
        let enqueued = bench.client.enqueue(error.into_job().unwrap()).await.unwrap();
        assert_eq!(enqueued.id, id);
        assert_eq!(bench.stats("q").await.ready, copies, "an idempotent handler sees one id");
    }
}

/// Each declaration takes a channel of a server, which has some thousands.
#[tokio::test(start_paused = true)]
async fn a_thousand_first_enqueues_at_once_declare_their_queue_once() {
    let declared = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&declared);
    let bench = Bench::faulty(move |call| {
        if matches!(call, Call::Declare) {
            counted.fetch_add(1, Ordering::SeqCst);
            return Fault::Late(seconds(1));
        }
        Fault::None
    });
    let enqueues = (0..1_000).map(|_| bench.client.enqueue(anonymous()));
    let answers = futures_util::future::join_all(enqueues).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((declared.load(Ordering::SeqCst), bench.stats("q").await.ready), (1, 1_000));
}

#[tokio::test(start_paused = true)]
async fn an_enqueue_without_an_answer_is_unknown_after_the_time_allowed() {
    for (fault, stored) in [(Fault::Hangs, 0), (Fault::AnswerHangs, 1), (Fault::Late(seconds(60)), 0)] {
        let bench = Bench::faulty(first(enqueues, [fault]));
        let error = bench.client.enqueue(play("a")).await.unwrap_err();
        assert_eq!((error.kind(), bench.log.now()), (EnqueueErrorKind::Indeterminate, seconds(10)));
        assert!(error.to_string().contains("no answer from the broker within 10s"), "{error}");
        assert_eq!(bench.stats("q").await.ready, stored);
        assert_eq!(error.into_job().unwrap().id(), Some(&"a".parse::<JobId>().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_allowed_can_be_chosen() {
    let broker =
        FaultyBroker::new(
            Arc::new(MemoryBroker::new()),
            |call| if enqueues(call) { Fault::Hangs } else { Fault::None },
        );
    let mut options = ClientOptions::default();
    options.enqueue_timeout = Duration::from_millis(250);
    let client = Client::with_options(Arc::new(broker), options);
    let started = tokio::time::timeout(Duration::from_millis(251), client.enqueue(play("a"))).await;
    assert!(started.unwrap().unwrap_err().to_string().contains("within 250ms"));
}

#[tokio::test(start_paused = true)]
async fn when_the_queue_cannot_be_declared_nothing_is_enqueued() {
    for (fault, kind) in [
        (Fault::Refused(BrokerErrorKind::Transient), EnqueueErrorKind::Unavailable),
        (Fault::Hangs, EnqueueErrorKind::Unavailable),
        (Fault::AnswerHangs, EnqueueErrorKind::Unavailable),
        (Fault::Refused(BrokerErrorKind::Permanent), EnqueueErrorKind::Refused),
        (Fault::Refused(BrokerErrorKind::Unsupported), EnqueueErrorKind::Unsupported),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let mut failing = first(|call| matches!(call, Call::Declare), [fault]);
        let bench = Bench::faulty(move |call| {
            count.fetch_add(usize::from(enqueues(call)), Ordering::SeqCst);
            failing(call)
        });
        let error = bench.client.enqueue(play("a")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert_eq!(asked.load(Ordering::SeqCst), 0, "the broker was not even asked");
        assert!(bench.log.now() <= seconds(10));
        // The next enqueue declares again.
        bench.client.enqueue(error.into_job().unwrap()).await.unwrap();
        assert_eq!(bench.stats("q").await.ready, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_declared_once_per_client() {
    let declared = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&declared);
    let bench = Bench::faulty(move |call| {
        count.fetch_add(usize::from(matches!(call, Call::Declare)), Ordering::SeqCst);
        Fault::None
    });
    for n in 0..20 {
        bench.client.enqueue(play(&n.to_string())).await.unwrap();
    }
    bench.client.enqueue(Bench::job::<Other>("other", [Act::Succeed])).await.unwrap();
    assert_eq!(declared.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn each_job_of_many_has_its_own_answer_in_its_place() {
    let bench = Bench::faulty(|call| match call {
        Call::Enqueue(envelope) => match &*envelope.id.to_string() {
            "lost" => Fault::AnswerLost,
            "busy" => Fault::Refused(BrokerErrorKind::Transient),
            "never" => Fault::Refused(BrokerErrorKind::Permanent),
            "cannot" => Fault::Refused(BrokerErrorKind::Unsupported),
            _ => Fault::None,
        },
        _ => Fault::None,
    });
    let mut jobs: Vec<_> = ["good", "lost", "busy", "never", "cannot", "last"].map(play).map(Enqueue::erase).into();
    jobs.insert(3, play("invalid").priority(99).erase());
    let answers = bench.client.enqueue_all(jobs).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind())).collect();
    use EnqueueErrorKind::{Indeterminate, Invalid, Refused, Unavailable, Unsupported};
    let expected =
        [None, Some(Indeterminate), Some(Unavailable), Some(Invalid), Some(Refused), Some(Unsupported), None];
    assert_eq!(kinds, expected);
    assert_eq!(answers[6].as_ref().unwrap().id.to_string(), "last");
    assert_eq!(bench.stats("q").await.ready, 3, "good, lost and last are stored");
    for (n, answer) in answers.into_iter().enumerate() {
        if let Err(error) = answer {
            assert_eq!(error.into_job().is_some(), n != 3, "what was not invalid can be enqueued again");
        }
    }
}

/// An application asks for what its broker cannot do.
#[tokio::test]
async fn a_priority_that_cannot_be_had_is_unsupported() {
    let client = Client::new(Arc::new(MemoryBroker::reduced(Arc::new(SystemClock))));
    let error = client.enqueue(play("a").priority(Priority::MAX.level())).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unsupported);
    assert!(error.to_string().contains("priorities"), "{error}");
    client.enqueue(play("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_jobs_travel_in_batches_and_keep_their_order() {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    let bench = Bench::faulty(move |call| {
        if let Call::Enqueue(envelope) = call {
            seen.lock().unwrap().push(envelope.id.to_string());
        }
        Fault::None
    });
    let answers = bench.client.enqueue_all((0..2_500).map(|n| play(&n.to_string()))).await;
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().id.to_string()).collect();
    let expected: Vec<_> = (0..2_500).map(|n| n.to_string()).collect();
    assert_eq!(ids, expected, "an answer for each, in its place");
    assert_eq!(*batches.lock().unwrap(), expected, "and in this order to the broker");
}

/// However slow the broker is: what is on its way is bounded, and so is the memory.
#[tokio::test(start_paused = true)]
async fn a_stream_is_taken_no_faster_than_the_broker_answers() {
    let bench = Bench::faulty(|call| if enqueues(call) { Fault::Late(seconds(5)) } else { Fault::None });
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let jobs = stream::iter(0..20_000).map(move |n| {
        counted.fetch_add(1, Ordering::SeqCst);
        play(&n.to_string())
    });
    let mut answers = bench.client.enqueue_stream(jobs);
    let mut answered = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        answered += 1;
        let ahead = taken.load(Ordering::SeqCst) - answered;
        assert!(ahead <= 5 * BATCH_MAX, "{ahead} jobs are on their way");
    }
    assert_eq!((answered, taken.load(Ordering::SeqCst)), (20_000, 20_000));
    assert_eq!(bench.log.now(), seconds(5) * 5, "four batches at a time");
}

#[tokio::test(start_paused = true)]
async fn a_failing_batch_costs_the_others_nothing() {
    let bench = Bench::faulty(|call| match call {
        Call::Enqueue(envelope) if envelope.id.to_string() == "1500" => Fault::Hangs,
        _ => Fault::None,
    });
    let answers = bench.client.enqueue_all((0..3_000).map(|n| play(&n.to_string()))).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), !(1_000..2_000).contains(&n), "{n}");
    }
    assert_eq!(bench.stats("q").await.ready, 2_000);
}

/// One queue cannot be had: that is the matter of its jobs.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_refused_costs_those_of_other_queues_nothing() {
    // Both at once, and then each alone.
    let permanent = Fault::Refused(BrokerErrorKind::Permanent);
    let bench = Bench::faulty(first(|call| matches!(call, Call::Declare), [permanent, Fault::None, permanent]));
    let jobs = || [play("a").erase(), Bench::job::<Other>("b", [Act::Succeed]).erase(), play("c").erase()];
    let answers = bench.client.enqueue_all(jobs()).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind())).collect();
    assert_eq!(kinds, [None, Some(EnqueueErrorKind::Refused), None]);
    assert_eq!(bench.stats("q").await.ready, 2);
    let answers = bench.client.enqueue_all(jobs()).await;
    assert!(answers.iter().all(Result::is_ok), "it is asked for again: {answers:?}");
}

/// What is wrong with a payload is known before anything is sent.
#[tokio::test]
async fn an_invalid_job_is_refused_before_it_is_sent() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Misnamed {}
    impl Job for Misnamed {
        const NAME: &'static str = "mis named";
        const OPTIONS: JobOptions = JobOptions::DEFAULT;
        type Return = ();
    }
    let client =
        Client::new(Arc::new(FaultyBroker::new(Arc::new(MemoryBroker::new()), |call| panic!("{call:?} was called"))));
    let error = client.enqueue(Misnamed {}).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Invalid);
    assert!(error.into_job().is_none());
    assert!(play("a").header("x-death", 1).prepare().is_err());
    let error = client.enqueue(play("a").delay(worker_core::days(367))).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Invalid);
    assert!(client.enqueue_all(Vec::<Enqueue<Play>>::new()).await.is_empty());
}

#[tokio::test]
async fn a_closed_client_refuses() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    client.enqueue(play("a")).await.unwrap();
    client.close().await.unwrap();
    let error = client.enqueue(play("b")).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Refused);
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_job_goes_through_an_exchange_to_every_queue_that_takes_it() {
    let client = Client::new(Arc::new(MemoryBroker::new()));
    let name = |name: &str| name.parse().unwrap();
    let topology = Topology::queues([name("q"), name("audit")])
        .exchange("events".parse().unwrap(), ExchangeKind::Topic)
        .bind(Binding::by_key("events".parse().unwrap(), name("q"), "play.*"))
        .bind(Binding::by_key("events".parse().unwrap(), name("audit"), "#"));
    client.declare(&topology).await.unwrap();
    client.enqueue(anonymous().via("events", "play.made")).await.unwrap();
    client.enqueue(anonymous().via("events", "other")).await.unwrap();
    let stats = client.broker().inspector().unwrap().queues(&[]).await.unwrap();
    let ready: Vec<_> = stats.iter().map(|stats| (stats.queue.to_string(), stats.ready)).collect();
    assert_eq!(ready, [("audit".to_owned(), 2), ("q".to_owned(), 1)]);
    let error = client.enqueue(anonymous().via("missing", "k")).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Refused);
    assert!(error.to_string().contains("exchange `missing` was not declared"), "{error}");
    let error = client.enqueue(anonymous().via("events", "k").delay(seconds(1))).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unsupported);
}
