//! What is done with a message, on either side of RabbitMQ 4.3.

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const DIED: DeathDate = DeathDate(1_800_000_000_000_000);

fn old() -> Server {
    Server::new("RabbitMQ", "3.10.8")
}

fn new() -> Server {
    Server::new("RabbitMQ", "4.3.6")
}

fn orders() -> QueueName {
    "orders".parse().unwrap()
}

fn ladder() -> Ladder {
    Ladder::new("worker".into())
}

fn message(headers: &[(&str, i64)]) -> Message {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongLongInt(*value));
    }
    let properties = BasicProperties::default().with_message_id("o-1".into()).with_headers(table);
    Message { properties, body: Bytes::from_static(b"{}") }
}

fn arrive(line: Line, server: &Server, redelivered: bool, headers: &[(&str, i64)]) -> Arrival {
    arrive_with(Alibi::None, line, server, redelivered, headers)
}

fn arrive_with(alibi: Alibi, line: Line, server: &Server, redelivered: bool, headers: &[(&str, i64)]) -> Arrival {
    arrival(&Incoming { tag: 1, redelivered, message: message(headers) }, line, alibi, &orders(), server, NOW)
}

fn held(line: Line, headers: &[(&str, i64)]) -> Held {
    let message = message(headers);
    Held { line, tag: 1, id: message.id(), carried: Carried::Alone(Box::new(message)), attempt: 3, caller: None }
}

fn steps(held: &Held, settlement: &Settlement) -> [Step; 2] {
    [false, true]
        .map(|nack_is_free| step(held, settlement, &orders(), (&ladder(), &Rungs::All), nack_is_free, (NOW, DIED)))
}

/// The same step whether or not a nack is free: a copy, and where to.
fn published(held: &Held, settlement: &Settlement) -> (Place, Message) {
    let [before, after] = steps(held, settlement);
    assert_eq!(before, after);
    let Step::Publish(place, message) = before else { panic!("{before:?}") };
    (place, message)
}

fn failure() -> Failure {
    Failure::new(FailureKind::Error, "no route")
}

const fn release(after: Duration) -> Settlement {
    Settlement::Release { after, note: None }
}

fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, failure: failure() }
}

#[test]
fn a_first_delivery_is_for_the_worker() {
    for line in [Line::Main, Line::Suspects] {
        for server in [old(), new()] {
            let Arrival::Deliver(decoded) = arrive(line, &server, false, &[("x-retry-count", 2)]) else {
                panic!("{line:?} {server}")
            };
            assert_eq!(decoded.retries, 2);
        }
    }
}

#[test]
fn before_4_3_a_redelivery_is_what_tells_a_suspect() {
    assert_eq!(arrive(Line::Main, &old(), true, &[]), Arrival::Suspect { starts: 1 });
    // Returned by hand and counted, and then copied and so delivered anew.
    assert!(matches!(arrive(Line::Main, &old(), false, &[("x-delivery-count", 7)]), Arrival::Deliver(_)));
}

#[test]
fn from_4_3_the_servers_count_of_failures_tells_it() {
    assert_eq!(arrive(Line::Main, &new(), true, &[("x-delivery-count", 1)]), Arrival::Suspect { starts: 1 });
    let given_back = [("x-acquired-count", 9)];
    assert!(matches!(arrive(Line::Main, &new(), true, &given_back), Arrival::Deliver(_)), "a nack is free");
}

#[test]
fn from_4_3_a_redelivery_from_a_queue_that_counts_nothing_tells_it_too() {
    assert_eq!(arrive(Line::Main, &new(), true, &[]), Arrival::Suspect { starts: 1 }, "a classic queue");
    assert_eq!(arrive(Line::Suspects, &new(), true, &[("x-starts", 1)]), Arrival::Suspect { starts: 2 });
    assert!(matches!(arrive(Line::Main, &new(), false, &[]), Arrival::Deliver(_)));
}

#[test]
fn the_third_start_that_does_not_end_is_the_last() {
    for server in [old(), new()] {
        let back = |headers: &[(&str, i64)]| {
            arrive(Line::Suspects, &server, true, &[&[("x-delivery-count", 1), ("x-retry-count", 2)], headers].concat())
        };
        assert_eq!(back(&[("x-starts", 1)]), Arrival::Suspect { starts: 2 }, "{server}");
        let Arrival::Bury { failure, attempts, starts } = back(&[("x-starts", 2)]) else { panic!("{server}") };
        assert_eq!((failure.kind, attempts, starts), (FailureKind::Crashed, 2, 3));
        // Whatever a neighbour writes: it ends.
        assert!(matches!(back(&[("x-starts", 3)]), Arrival::Bury { .. }));
        assert_eq!(back(&[]), Arrival::Suspect { starts: 2 }, "in the suspects' queue by hand");
    }
}

#[test]
fn what_this_process_had_and_outlived_goes_back_unmarked() {
    for line in [Line::Main, Line::Suspects] {
        assert_eq!(arrive_with(Alibi::Outlived, line, &old(), true, &[("x-starts", 2)]), Arrival::Unmark);
    }
}

#[test]
fn what_comes_back_just_after_a_lost_connection_is_no_more_suspect_than_before() {
    assert_eq!(arrive_with(Alibi::Shared, Line::Main, &old(), true, &[]), Arrival::Unmark);
    let back = |starts| arrive_with(Alibi::Shared, Line::Suspects, &old(), true, &[("x-starts", starts)]);
    for starts in 1..=2 {
        let kept = u32::try_from(starts).unwrap();
        assert_eq!(back(starts), Arrival::Suspect { starts: kept });
    }
    assert!(matches!(back(3), Arrival::Bury { starts: 3, .. }), "whatever a neighbour writes: it ends");
}

#[test]
fn what_can_never_run_is_buried_with_the_reason() {
    for redelivered in [false, true] {
        let buried = arrive(Line::Main, &old(), redelivered, &[("x-retry-count", -1)]);
        let Arrival::Bury { failure, attempts: 0, starts: 0 } = buried else { panic!("{buried:?}") };
        assert_eq!(failure.kind, FailureKind::Undecodable);
        assert!(failure.message.contains("`x-retry-count` is -1"), "{}", failure.message);
    }
    let mut large = message(&[]);
    let mut table = FieldTable::default();
    table.insert("blob".into(), AMQPValue::LongString("x".repeat(100_000).into()));
    large.properties = large.properties.with_headers(table);
    let incoming = Incoming { tag: 1, redelivered: false, message: large };
    let buried = arrival(&incoming, Line::Main, Alibi::None, &orders(), &new(), NOW);
    let Arrival::Bury { failure, .. } = buried else { panic!("{buried:?}") };
    assert!(failure.message.contains("left behind"), "{}", failure.message);
}

#[test]
fn success_is_an_acknowledgement() {
    assert_eq!(steps(&held(Line::Main, &[]), &Settlement::Ack { reply: None }), [Step::Ack, Step::Ack]);
}

#[test]
fn a_call_is_answered_and_its_failure_kept_for_when_nobody_can_be_told() {
    let caller = Caller { address: "amq.gen-1".into(), correlation: "c".into(), retries: false };
    let called = Held { caller: Some(caller.clone()), ..held(Line::Main, &[]) };
    let ended = |held: &Held, reply: Reply| {
        let [step, _] = steps(held, &Settlement::Ack { reply: Some(reply) });
        step
    };
    let value = Reply::Returned(crate::envelope::Body(Bytes::from_static(b"7")));
    let answer = |reply, kept| Step::Answer { caller: caller.clone(), reply, kept };
    assert_eq!(ended(&called, value.clone()), answer(value.clone(), None));
    let failed = Reply::Failed(failure());
    let (_, dead) = published(&called, &Settlement::DeadLetter { failure: failure() });
    assert_eq!(ended(&called, failed.clone()), answer(failed, Some(dead)));
    assert_eq!(ended(&held(Line::Main, &[]), value), Step::Ack, "nobody waits");
}

#[test]
fn giving_back_leaves_no_trace_on_either_version() {
    for (line, place) in [(Line::Main, Place::Queue), (Line::Suspects, Place::Suspects)] {
        let held = held(line, &[("x-starts", 1), ("x-delivery-count", 1)]);
        let expected = Step::Publish(place, message(&[("x-starts", 1)])); // and persistent, see below
        let [before, after] = steps(&held, &release(Duration::ZERO));
        let (Step::Publish(to, copy), Step::Publish(_, original)) = (before, expected) else { panic!("it is copied") };
        assert_eq!((to, copy.properties.headers(), copy.body), (place, original.properties.headers(), original.body));
        assert_eq!((copy.properties.message_id(), *copy.properties.delivery_mode()), (&Some("o-1".into()), Some(2)));
        assert_eq!(after, Step::Requeue);
    }
}

#[test]
fn a_release_with_a_pause_waits_on_the_ladder_for_where_it_came_from() {
    for (line, target) in [(Line::Main, "orders"), (Line::Suspects, "orders_suspects")] {
        let (place, copy) = published(&held(line, &[("x-retry-count", 2)]), &release(Duration::from_secs(3)));
        assert_eq!(place.name(&orders(), &ladder()), "worker.delay.2048");
        assert_eq!(copy.date(wire::DUE_AT), Some(NOW + Duration::from_secs(3)));
        assert_eq!(copy.text(wire::QUEUE).as_deref(), Some(target));
        assert_eq!(copy.integer(wire::RETRY_COUNT), Some(2), "it was no attempt");
    }
}

#[test]
fn a_note_goes_with_a_release() {
    let noted = |after| Settlement::Release { after, note: Some(Note::UnknownSince(Timestamp::from_unix_ms(7))) };
    for after in [Duration::ZERO, Duration::from_secs(1)] {
        let (place, copy) = published(&held(Line::Main, &[]), &noted(after));
        assert_eq!(place == Place::Queue, after.is_zero());
        assert_eq!(copy.integer(wire::UNKNOWN_SINCE), Some(7));
    }
}

#[test]
fn a_retry_waits_on_its_rung_or_on_the_ladder_and_comes_to_the_queue() {
    let suspect = held(Line::Suspects, &[("x-starts", 2), ("x-retry-count", 2)]);
    for (after, name, due) in [
        (0, "orders", false),
        (5, "orders_retry_5000", false),
        (3, "worker.delay.2048", true),
        (3_600, "worker.delay.2097152", true),
    ] {
        let (place, copy) = published(&suspect, &retry(Duration::from_secs(after)));
        assert_eq!(place.name(&orders(), &ladder()), name);
        assert_eq!((copy.integer(wire::RETRY_COUNT), copy.header(wire::STARTS)), (Some(3), None), "it has ended");
        assert_eq!(copy.text(wire::LAST_ERROR).as_deref(), Some("error: no route"));
        assert_eq!(copy.text(wire::QUEUE), due.then(|| "orders".to_owned()));
    }
}

#[test]
fn a_dead_letter_counts_the_attempts_that_failed() {
    for (kind, attempts) in [(FailureKind::Error, 3), (FailureKind::Expired, 2)] {
        let settlement = Settlement::DeadLetter { failure: Failure::new(kind, "no") };
        let (place, copy) = published(&held(Line::Main, &[("x-retry-count", 2)]), &settlement);
        assert_eq!(place.name(&orders(), &ladder()), "orders_dlq");
        assert_eq!(
            (copy.integer(wire::ATTEMPTS), copy.text(wire::FAILURE_KIND)),
            (Some(attempts), Some(kind.to_string()))
        );
        assert_eq!((copy.integer(wire::DIED_AT), wire::failure_of(&copy).kind), (Some(1_800_000_000_000_000), kind));
    }
}

#[test]
fn a_job_goes_down_the_ladder_until_it_is_due() {
    let mut now = NOW;
    let due_at = NOW + Duration::from_millis(3_500);
    let (level, copy) = delayed(Copy::of(&message(&[("tenant", 1)])), "orders", due_at, now);
    let (mut level, mut waiting, mut levels) = (level, copy.message(), Vec::new());
    loop {
        levels.push(level.ms());
        now = now + Duration::from_millis(level.ms());
        match onward(&waiting, now) {
            Onward::Wait(next, copy) => (level, waiting) = (next, copy),
            Onward::Due(queue, target, copy, overdue) => {
                assert_eq!(overdue, now.since(due_at));
                assert_eq!((queue, target.as_str()), (orders(), "orders"));
                assert_eq!(copy.integer("tenant"), Some(1));
                assert_eq!((copy.header(wire::DUE_AT), copy.header(wire::QUEUE)), (None, None));
                break;
            }
            Onward::Astray(what) => panic!("{what}"),
        }
    }
    assert_eq!(levels, [2_048, 1_024, 256, 128, 32, 32], "never early, and late by less than the last level");
    assert!(now >= due_at && now.since(due_at) < Duration::from_millis(32));
}

#[test]
fn a_suspect_that_waited_goes_to_the_suspects_of_its_queue() {
    let (_, copy) = delayed(Copy::of(&message(&[])), "orders_suspects", NOW, NOW);
    let Onward::Due(queue, target, ..) = onward(&copy.message(), NOW) else { panic!("it is due") };
    assert_eq!((queue, target.as_str()), (orders(), "orders_suspects"));
}

#[test]
fn what_does_not_say_where_it_belongs_is_astray() {
    let undated = Copy::of(&message(&[])).text(wire::QUEUE, "orders").message();
    let nameless = Copy::of(&message(&[])).date(wire::DUE_AT, NOW).text(wire::QUEUE, "no such name!").message();
    for message in [message(&[]), message(&[("x-due-at", 1)]), undated, nameless] {
        assert!(matches!(onward(&message, NOW), Onward::Astray(_)), "{message:?}");
    }
}

/// A bundle of two jobs that arrives so.
fn bundle_arrives(alibi: Alibi, line: Line, redelivered: bool) -> (Message, Arrival) {
    let job = |id: &str| {
        let mut job = Envelope::new(id.parse().unwrap(), orders(), "count".parse().ok(), "1", NOW);
        job.bundle = std::num::NonZeroU16::new(2);
        job
    };
    let [packed] = &*bundle::pack(vec![job("a"), job("b")]) else { panic!("one message") };
    let message = bundle::encode(packed, "test");
    let incoming = Incoming { tag: 1, redelivered, message: message.clone() };
    (message, arrival(&incoming, line, alibi, &orders(), &old(), NOW))
}

#[test]
fn the_jobs_of_a_bundle_are_handed_to_the_worker() {
    let (_, Arrival::Unpack { jobs, retries: 0 }) = bundle_arrives(Alibi::None, Line::Main, false) else { panic!() };
    assert_eq!(jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_bundle_that_came_back_is_taken_apart() {
    let scattered = |alibi, line, redelivered| {
        let (_, Arrival::Scatter { into, messages }) = bundle_arrives(alibi, line, redelivered) else { panic!() };
        let starts: Vec<_> = messages.iter().map(|message| message.integer(wire::STARTS)).collect();
        assert!(messages.iter().all(|message| !bundle::is_bundle(message)));
        (into, starts)
    };
    let suspected = (Line::Suspects, vec![Some(1); 2]);
    assert_eq!(scattered(Alibi::None, Line::Main, true), suspected, "one of them may have killed its worker");
    assert_eq!(scattered(Alibi::Outlived, Line::Main, true), (Line::Main, vec![None; 2]));
    assert_eq!(scattered(Alibi::Shared, Line::Main, true), (Line::Main, vec![None; 2]));
    assert_eq!(scattered(Alibi::None, Line::Suspects, false), suspected, "put there by hand");
}

#[test]
fn a_job_of_a_bundle_leaves_it_as_a_message_of_its_own() {
    let (message, Arrival::Unpack { jobs, .. }) = bundle_arrives(Alibi::None, Line::Main, false) else { panic!() };
    let carried = Carried::Bundled(Arc::new(message.clone()), Box::new(jobs[1].clone()));
    let held = Held { line: Line::Main, tag: 1, id: jobs[1].id.clone(), carried, attempt: 1, caller: None };
    let (place, copy) = published(&held, &Settlement::DeadLetter { failure: failure() });
    assert_eq!(place, Place::DeadLetters);
    assert_eq!((copy.id(), &copy.body), (held.id.clone(), &jobs[1].body.0));
    assert!(!bundle::is_bundle(&copy));
    let released = Settlement::Release { after: Duration::ZERO, note: None };
    let [before, after] = steps(&held, &released);
    assert!(matches!(before, Step::Publish(Place::Queue, _)));
    assert_eq!(before, after, "a nack would give back its neighbours");
    assert_eq!(held.carrier(), message.id());
}
