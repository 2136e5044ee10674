//! What a job becomes when it is enqueued, and what is refused.

use serde::Deserialize;

use super::*;
use crate::time::days;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ping {
    text: String,
}

impl Job for Ping {
    const NAME: &'static str = "ping";
    type Return = ();
}

fn ping() -> Enqueue<Ping> {
    Enqueue::new(Ping { text: "hi".into() })
}

fn stamped(job: impl Enqueueable) -> Result<Envelope, InvalidJob> {
    job.prepare()?.stamp(Timestamp::from_unix_ms(1_000), JobId::new, 100)
}

#[test]
fn the_body_is_the_payload_and_nothing_else() {
    let envelope = stamped(Ping { text: "hi".into() }).unwrap();
    assert_eq!(envelope.body.0, &br#"{"text":"hi"}"#[..]);
    assert_eq!(envelope.route, Route::Queue("default".parse().unwrap()));
}

#[test]
fn a_payload_that_is_ready_to_be_enqueued_is_not_printed() {
    let prepared = Enqueue::new(Ping { text: "4111".into() }).erase().unwrap();
    assert!(!format!("{prepared:?}").contains("4111"), "{prepared:?}");
}

#[test]
fn a_second_try_keeps_the_id() {
    let mut prepared = ping().erase().unwrap();
    let first = prepared.stamp(Timestamp::default(), JobId::new, 100).unwrap();
    let second = prepared.stamp(Timestamp::default(), JobId::new, 100).unwrap();
    assert_eq!(first.id, second.id);
}

#[test]
fn an_option_out_of_range_is_refused_with_its_value_and_the_range() {
    let refusals = [
        (stamped(ping().priority(32)), "its priority is 32; priorities are 0 to 31"),
        (stamped(ping().delay(days(400))), "it would wait 400 days; the limit is 366"),
        (stamped(ping().at(SystemTime::from(Timestamp::default()) + days(400))), "the limit is 366"),
        (stamped(ping().header("x-death", 1)), "`x-death`"),
        (stamped(ping().via("no good", "k")), "exchange name `no good` contains a space"),
        (stamped(ping().via("events", "k".repeat(256))), "the key has 256 bytes; the limit is 255"),
        (stamped(Ping { text: "x".repeat(100) }), "its payload has 111 bytes; the limit is 100"),
    ];
    for (refusal, part) in refusals {
        let error = refusal.unwrap_err();
        assert!(error.to_string().contains("`ping`") && error.to_string().contains(part), "{error}");
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ship {}

impl Job for Ship {
    const NAME: &'static str = "ship";
    const QUEUE: &'static str = "orders";
    const OPTIONS: JobOptions = JobOptions::DEFAULT.shards(NonZeroU8::new(4).unwrap()).dead_letter_queue("graves");
    type Return = ();
}

/// The queue of the broker that it is for, where shard 2 has its turn.
fn sent(job: Result<Prepared, InvalidJob>) -> Prepared {
    let mut job = job.unwrap();
    job.choose_shard(|queue, shards| {
        assert_eq!((queue.as_str(), shards.get()), ("orders", 4));
        2
    });
    job
}

fn in_queue(name: &str) -> Route {
    Route::Queue(name.parse().unwrap())
}

#[test]
fn a_job_goes_into_one_shard_and_stays_there_when_it_is_sent_again() {
    let mut first = sent(Ship {}.prepare());
    assert_eq!((first.route(), first.queue().as_str()), (&in_queue("orders.shard-2"), "orders"));
    assert_eq!(first.queue_options().dead_letter_queue.as_ref().unwrap(), "graves.shard-2");
    first.choose_shard(|_, _| panic!("it was chosen"));
    assert_eq!(first.stamp(Timestamp::default(), JobId::new, 100).unwrap().route, in_queue("orders.shard-2"));
}

#[test]
fn a_key_has_its_shard_whoever_has_the_turn() {
    let of = |key: &str| sent(Enqueue::new(Ship {}).shard_key(key).erase()).route().clone();
    assert_eq!(of("customer-7"), of("customer-7"));
    let routes: std::collections::BTreeSet<_> =
        (0..20).map(|n| format!("{:?}", of(&format!("customer-{n}")))).collect();
    assert_eq!(routes.len(), 4, "{routes:?}");
}

#[test]
fn a_key_has_no_effect_without_shards_nor_through_an_exchange() {
    let mut plain = ping().shard_key("k").erase().unwrap();
    plain.choose_shard(|_, _| panic!("there are none"));
    assert_eq!(plain.route(), &in_queue("default"));
    let mut via = Enqueue::new(Ship {}).shard_key("k").via("events", "order.placed").erase().unwrap();
    via.choose_shard(|_, _| panic!("its bindings say where it goes"));
    assert!(matches!(via.route(), Route::Exchange { .. }));
}

/// The most jobs in a message with this one.
fn bundle_of(job: impl Enqueueable) -> Option<u16> {
    stamped(job).unwrap().bundle.map(NonZeroU16::get)
}

#[test]
fn a_job_shares_a_message_where_its_type_or_its_enqueue_says_so() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Small {}
    impl Job for Small {
        const NAME: &'static str = "small";
        const OPTIONS: JobOptions = JobOptions::DEFAULT.bundle(NonZeroU16::new(50).unwrap());
        type Return = ();
    }
    let small = || Enqueue::new(Small {});
    assert_eq!((bundle_of(ping()), bundle_of(ping().bundle(2)), bundle_of(ping().bundle(1))), (None, Some(2), None));
    assert_eq!(
        (bundle_of(small()), bundle_of(small().bundle(1)), bundle_of(small().bundle(9))),
        (Some(50), None, Some(9))
    );
    // What cannot travel in company travels alone, unless company was asked for.
    assert_eq!((bundle_of(small().priority(9)), bundle_of(small().via("events", "k"))), (None, None));
    let together = ping().erase().unwrap().bundled(1_000).unwrap();
    assert_eq!(bundle_of(together), Some(1_000));
}

#[test]
fn a_bundle_is_refused_where_its_jobs_have_no_common_place() {
    let refusals = [
        (stamped(ping().bundle(0)), "its bundle would have 0 jobs; 1 to 1000 are possible"),
        (stamped(ping().bundle(1_001)), "its bundle would have 1001 jobs"),
        (stamped(ping().bundle(2).priority(4)), "it asks for a bundle and asks for a priority"),
        (stamped(ping().bundle(2).via("events", "k")), "it asks for a bundle and goes through an exchange"),
        (ping().priority(9).erase().unwrap().bundled(2).map(|_| unreachable!()), "asks for a priority"),
    ];
    for (refusal, part) in refusals {
        let error = refusal.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let called = ping().bundle(2).for_caller(Duration::from_secs(1)).unwrap_err();
    assert!(called.contains("leave `bundle` out"), "{called}");
    assert!(ping().bundle(1).for_caller(Duration::from_secs(1)).is_ok());
}
