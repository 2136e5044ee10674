//! What a message says, whoever wrote it, and what a copy of it keeps.

use lapin::types::FieldArray;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

fn orders() -> QueueName {
    "orders".parse().unwrap()
}

fn table(headers: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    headers.into_iter().for_each(|(name, value)| insert(&mut table, name, value));
    table
}

/// A neighbour's message with these headers, and nothing else but a body.
fn foreign(headers: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> Message {
    let properties = BasicProperties::default().with_headers(table(headers));
    Message { properties, body: Bytes::from_static(b"{\"order_id\":7}") }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What a broker writes when it dead-letters, the newest death first.
fn deaths(reasons: &[&str]) -> AMQPValue {
    let mut array = FieldArray::default();
    for reason in reasons {
        let death =
            [("reason", long(reason)), ("queue", long("orders")), ("time", AMQPValue::Timestamp(1_700_000_000))];
        array.push(AMQPValue::FieldTable(table(death)));
    }
    AMQPValue::FieldArray(array)
}

fn read(message: &Message) -> Result<Decoded, String> {
    decode(message, &orders(), NOW)
}

fn names(message: &Message) -> Vec<String> {
    let names = message.properties.headers().iter().flat_map(|table| table.inner().keys());
    names.map(|name| name.as_str().to_owned()).collect()
}

fn error(text: &str) -> Failure {
    Failure::new(FailureKind::Error, text)
}

#[test]
fn a_caller_travels_in_the_properties_that_amqp_has_for_it_until_the_job_begins_anew() {
    let caller = Caller { address: "amq.gen-1".into(), correlation: "c-1".into(), retries: true };
    let mut envelope = Envelope::new(JobId::new(), orders(), None, &b"{}"[..], NOW);
    envelope.caller = Some(caller.clone());
    let message = encode(&envelope, "shop");
    assert_eq!(message.properties.reply_to().as_ref().unwrap().as_str(), "amq.gen-1");
    let decoded = read(&message).unwrap().envelope;
    assert_eq!((decoded.caller, decoded.headers.is_empty()), (Some(caller.clone()), true));
    let retried = Copy::of(&message).retried(1, &error("busy"), NOW).message();
    assert_eq!(read(&retried).unwrap().envelope.caller, Some(caller));
    let anew = Copy::of(&message).anew().message();
    assert_eq!(read(&anew).unwrap().envelope.caller, None);
    assert_eq!(anew.header(CALL_RETRIES), None);
}

#[test]
fn a_neighbours_call_is_one_by_its_reply_to_alone() {
    let called = |reply_to: &str| {
        let mut message = foreign([]);
        message.properties = message.properties.with_reply_to(reply_to.into());
        read(&message).unwrap().envelope.caller
    };
    assert_eq!(called(""), None);
    let caller = Caller { address: "q".into(), correlation: String::new(), retries: false };
    assert_eq!(called("q"), Some(caller.clone()));
    assert_eq!(reply(&caller, &Reply::Failed(error("no")), &JobId::new(), "x").properties.correlation_id(), &None);
}

#[test]
fn a_reply_is_read_as_it_is_written() {
    let caller = Caller { address: "q".into(), correlation: "c-1".into(), retries: false };
    for answer in [Reply::Returned(Body(Bytes::from_static(b"[7]"))), Reply::Failed(error("no \"luck\""))] {
        let message = reply(&caller, &answer, &JobId::new(), "shop");
        assert_eq!(read_reply(&message), Some(("c-1".into(), answer)));
    }
    assert_eq!(read_reply(&foreign([])), None, "it does not say which call it answers");
    let strange = foreign([(FAILURE_KIND, long("new_kind"))]);
    let strange = Message { properties: strange.properties.with_correlation_id("c".into()), ..strange };
    let (_, reply) = read_reply(&strange).unwrap();
    assert_eq!(reply, Reply::Failed(error("{\"order_id\":7}")), "a kind of a later version is an error");
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::collection::vec(any::<i32>(), 0..4).prop_map(|items| json!({ "items": items })),
    ];
    let date = || (0_u64..4_000_000_000_000).prop_map(Timestamp::from_unix_ms);
    let identity = ("[!-~]{1,255}", prop::option::of("[a-z][a-z0-9_]{0,20}"), 0_u8..=31);
    let dates = (date(), prop::option::of(date()), prop::option::of(date()));
    let content =
        (prop::collection::vec(any::<u8>(), 0..200), prop::collection::btree_map("[!-~]{1,128}", value, 0..6));
    (identity, dates, content).prop_filter_map("a header of ours", |((id, name, level), dates, (body, headers))| {
        let name = name.map(|name| name.parse().unwrap());
        let mut envelope = Envelope::new(id.parse().unwrap(), orders(), name, body, dates.0);
        headers.into_iter().for_each(|(name, value)| envelope.headers.insert(name, value));
        (envelope.expires_at, envelope.unknown_since) = (dates.1, dates.2);
        envelope.priority = Priority::new(level).unwrap();
        envelope.headers.problem().is_none().then_some(envelope)
    })
}

proptest! {
    #[test]
    fn a_job_comes_back_as_it_was(envelope in any_envelope()) {
        let message = encode(&envelope, "shop");
        let expected = Decoded { envelope: Box::new(envelope), retries: 0, starts: 0 };
        prop_assert_eq!(read(&message), Ok(expected.clone()));
        let copy = Copy::of(&message).message();
        prop_assert_eq!(read(&copy), Ok(expected));
        prop_assert_eq!(copy, message, "a copy loses nothing");
    }

    #[test]
    fn whatever_the_application_may_write_travels_on(values in prop::collection::vec(0_u8..10, 1..8_000)) {
        let mut envelope = Envelope::new(JobId::new(), orders(), None, &b"1"[..], NOW);
        envelope.headers.insert("n", values);
        prop_assert_eq!(envelope.headers.problem(), None);
        let message = encode(&envelope, "shop");
        prop_assert_eq!(excess(&message), None);
        let retried = Copy::of(&message).retried(1, &error(&"e".repeat(9_000)), NOW).message();
        prop_assert_eq!(excess(&retried), None);
        prop_assert_eq!(read(&retried).unwrap().envelope.headers, envelope.headers);
    }
}

#[test]
fn the_properties_are_those_that_the_page_about_the_wire_names() {
    let mut envelope = Envelope::new("o-1".parse().unwrap(), orders(), Some("ship".parse().unwrap()), &b"7"[..], NOW);
    envelope.priority = Priority::new(9).unwrap();
    let Message { properties, body } = encode(&envelope, "shop");
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.kind()).as_deref(), Some("ship"));
    assert_eq!(text(properties.message_id()).as_deref(), Some("o-1"));
    assert_eq!(text(properties.app_id()).as_deref(), Some("shop"));
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!((*properties.delivery_mode(), *properties.priority()), (Some(2), Some(9)));
    assert_eq!((*properties.timestamp(), properties.expiration()), (Some(NOW.unix_ms() / 1_000), &None));
    assert_eq!(body, b"7"[..]);
}

/// The example of RFC 9562, appendix A.6, and when it was made.
const EXAMPLE: (&str, Timestamp) = ("017f22e2-79b0-7cc3-98c4-dc0c0c07398f", Timestamp::from_unix_ms(1_645_557_742_000));

#[test]
fn when_a_job_was_enqueued_is_a_header_only_where_its_id_does_not_say_it() {
    let (id, made_at) = (EXAMPLE.0.parse::<JobId>().unwrap(), EXAMPLE.1);
    for (later, has_header) in [(0, false), (1, true), (7_000, true)] {
        let at = made_at + std::time::Duration::from_millis(later);
        let message = encode(&Envelope::new(id.clone(), orders(), None, &b"7"[..], at), "shop");
        assert_eq!(message.properties.headers().is_some(), has_header, "{later} ms later");
        assert_eq!(read(&message).unwrap().envelope.enqueued_at, at);
        assert_eq!(read(&Copy::of(&message).message()).unwrap().envelope.enqueued_at, at);
    }
}

#[test]
fn the_id_of_another_second_does_not_say_when_a_job_was_enqueued() {
    let of = |seconds: u64| {
        let mut message = foreign([]);
        message.properties = message.properties.with_message_id(EXAMPLE.0.into()).with_timestamp(seconds);
        read(&message).unwrap().envelope.enqueued_at.unix_ms()
    };
    let made_at = EXAMPLE.1.unix_ms();
    assert_eq!(of(made_at / 1_000), made_at);
    assert_eq!(of(made_at / 1_000 + 60), made_at + 60_000, "a job that was enqueued later under an id from before");
}

#[test]
fn a_message_without_anything_is_a_new_job_without_a_name() {
    let Decoded { envelope, retries, starts } = read(&foreign([])).unwrap();
    assert_eq!((envelope.name, envelope.enqueued_at, envelope.priority), (None, NOW, Priority::DEFAULT));
    assert_eq!((retries, starts, envelope.headers.is_empty()), (0, 0, true));
    assert_ne!(envelope.id, read(&foreign([])).unwrap().envelope.id);
}

#[test]
fn a_message_id_that_is_none_is_replaced_for_good() {
    for odd in ["", "two words", "größer", "tab\t"] {
        let mut message = foreign([]);
        message.properties = message.properties.with_message_id(odd.into());
        let id = read(&message).unwrap().envelope.id;
        assert_eq!(Copy::of(&message).id(&id).message().id(), id, "{odd:?}");
    }
}

#[test]
fn a_type_that_is_no_jobs_name_is_said() {
    let mut message = foreign([]);
    message.properties = message.properties.with_type("not a name!".into());
    let problem = read(&message).unwrap_err();
    assert!(problem.contains("`type` is no job name"), "{problem}");
}

#[test]
fn a_count_is_read_in_any_width_and_in_text() {
    for three in [AMQPValue::ShortShortInt(3), AMQPValue::LongInt(3), AMQPValue::LongLongInt(3), long("3")] {
        assert_eq!(read(&foreign([(RETRY_COUNT, three)])).unwrap().retries, 3);
    }
}

#[test]
fn a_count_that_cannot_be_is_said_with_its_value() {
    let absurd = [
        (AMQPValue::LongInt(-1), "-1"),
        (AMQPValue::LongLongInt(i64::MAX), "9223372036854775807"),
        (AMQPValue::LongInt(1_001), "1001"),
        (long("often"), "often"),
        (AMQPValue::Double(1.5), "1.5"),
        (AMQPValue::Void, "null"),
        (AMQPValue::FieldTable(FieldTable::default()), "{}"),
        (long(&"x".repeat(9_999)), "xxx"),
    ];
    for (value, shown) in absurd {
        let problem = read(&foreign([(RETRY_COUNT, value)])).unwrap_err();
        assert!(problem.contains("`x-retry-count` is") && problem.contains(shown), "{problem}");
        assert!(problem.contains("from 0 to 1000") && problem.len() < 200, "{problem}");
    }
    assert!(read(&foreign([(STARTS, AMQPValue::LongInt(4))])).unwrap_err().contains("`x-starts` is 4"));
}

#[test]
fn a_neighbours_date_is_read_in_its_own_unit() {
    let of = |value| read(&foreign([(EXPIRES_AT, value)])).unwrap().envelope.expires_at;
    let expected = Some(Timestamp::from_unix_ms(1_700_000_000_000));
    assert_eq!(of(AMQPValue::LongLongInt(1_700_000_000_000)), expected);
    assert_eq!(of(long("1700000000000")), expected);
    assert_eq!(of(AMQPValue::Timestamp(1_700_000_000)), expected, "a date of AMQP's has seconds");
    assert_eq!(of(AMQPValue::LongInt(-1)), None);

    let mut message = foreign([]);
    message.properties = message.properties.with_timestamp(u64::MAX).with_priority(255);
    let envelope = read(&message).unwrap().envelope;
    assert!(envelope.enqueued_at.to_string().starts_with("9999-12-31"));
    assert_eq!(envelope.priority, Priority::MAX);
}

#[test]
fn a_copy_leaves_what_brokers_own_behind_and_keeps_the_rest() {
    let owned = [
        ("x-death", deaths(&["expired"])),
        ("x-delivery-count", AMQPValue::LongLongInt(2)),
        ("x-acquired-count", AMQPValue::LongLongInt(2)),
        ("x-first-death-reason", long("expired")),
        ("x-last-death-queue", long("orders")),
    ];
    let kept = [
        ("traceparent", long("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("tenant", long("acme")),
        ("x-custom", AMQPValue::DecimalValue(lapin::types::DecimalValue { scale: 2, value: 314 })),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
    ];
    let mut message = foreign(owned.into_iter().chain(kept.clone()));
    message.properties = message
        .properties
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_app_id("shop".into())
        .with_content_encoding("utf-8".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_700_000_000)
        .with_priority(7)
        .with_type("ship".into())
        .with_expiration("500".into())
        .with_delivery_mode(1)
        .with_user_id("guest".into());
    let copy = Copy::of(&message).message();
    // The same, but for what would end its wait, what only its publisher may write, and what forgets.
    let mut expected = BasicProperties::default()
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_app_id("shop".into())
        .with_content_encoding("utf-8".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_700_000_000)
        .with_priority(7)
        .with_type("ship".into());
    expected = expected.with_delivery_mode(2).with_headers(table(kept));
    assert_eq!(copy.properties, expected);
    assert_eq!(copy.body, message.body);
}

#[test]
fn what_brokers_and_we_write_is_no_header_of_the_applications() {
    let message =
        foreign([("x-death", deaths(&["expired"])), (RETRY_COUNT, AMQPValue::LongInt(1)), ("tenant", long("a"))]);
    let headers = read(&message).unwrap().envelope.headers;
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("tenant", &json!("a"))]);
}

#[test]
fn headers_that_are_too_large_are_left_behind_and_ours_are_not() {
    let large = foreign([("blob", long(&"x".repeat(60_000))), (RETRY_COUNT, AMQPValue::LongInt(2))]);
    assert!(excess(&large).is_some_and(|bytes| bytes > 60_000));
    let copy = Copy::of(&large).dead(&orders(), &error("too large"), 0, DeathDate(1)).message();
    assert_eq!(copy.header("blob"), None);
    assert_eq!((copy.integer(RETRY_COUNT), copy.text(LAST_ERROR).as_deref()), (Some(2), Some("error: too large")));
    assert_eq!(excess(&copy), None);

    // In a name of ours a neighbour can write as much.
    let ours = foreign([(UNKNOWN_SINCE, long(&"x".repeat(60_000))), ("tenant", long("a"))]);
    assert!(excess(&ours).is_some());
    let copy = Copy::of(&ours).message();
    assert_eq!((excess(&copy), names(&copy)), (None, vec!["tenant".to_owned()]));

    // What a broker has added does not go with it, and so does not count.
    assert_eq!(excess(&foreign([("x-death", deaths(&["expired"; 2_000]))])), None);
}

#[test]
fn what_fits_at_first_fits_after_every_retry() {
    let mut message = foreign([("blob", long(&"x".repeat(FOREIGN_BYTES_MAX - 20)))]);
    for retries in 1..=3 {
        assert_eq!(excess(&message), None, "{retries}");
        message = Copy::of(&message).retried(retries, &error(&"e".repeat(5_000)), NOW).message();
        assert!(message.header("blob").is_some(), "{retries}");
    }
}

#[test]
fn a_retry_has_the_headers_of_the_tutorial() {
    let starts = [(STARTS, AMQPValue::LongInt(1)), (UNKNOWN_SINCE, AMQPValue::LongLongInt(5))];
    let retried = Copy::of(&foreign(starts)).retried(3, &error("no route"), NOW).message();
    assert_eq!(retried.header(RETRY_COUNT), Some(&AMQPValue::LongInt(3)));
    assert_eq!(retried.header(LAST_ERROR), Some(&long("error: no route")));
    assert_eq!(retried.header(RETRY_TIMESTAMP), Some(&long(&NOW.to_string())));
    assert_eq!(names(&retried), [LAST_ERROR, RETRY_COUNT, RETRY_TIMESTAMP]);
}

#[test]
fn a_dead_letter_says_why_and_is_as_new_when_it_is_replayed() {
    let failure = Failure::new(FailureKind::TimedOut, "30s");
    let waiting = [(DUE_AT, AMQPValue::LongInt(1)), (RETRY_COUNT, AMQPValue::LongInt(2)), ("tenant", long("a"))];
    let dead = Copy::of(&foreign(waiting)).dead(&orders(), &failure, 3, DeathDate(1_700_000_000_000_001)).message();
    assert_eq!((dead.integer(ATTEMPTS), dead.text(QUEUE).as_deref()), (Some(3), Some("orders")));
    assert_eq!(dead.text(RETRY_TIMESTAMP).as_deref(), Some("2023-11-14T22:13:20.000Z"));
    assert_eq!((failure_of(&dead), death_date(&dead)), (failure, DeathDate(1_700_000_000_000_001)));
    assert_eq!(dead.header(DUE_AT), None);
    assert_eq!(names(&Copy::of(&dead).anew().message()), ["tenant"]);
}

#[test]
fn a_dead_letter_of_the_server_alone_has_a_reason_too() {
    let of = |reasons: &[&str]| {
        failure_of(&foreign([("x-death", deaths(reasons)), ("x-first-death-reason", long("expired"))]))
    };
    assert_eq!(of(&["delivery_limit", "expired"]).kind, FailureKind::Crashed, "the wait before was no death");
    assert_eq!(of(&["expired"]).kind, FailureKind::Expired);
    assert_eq!(of(&["rejected"]), error("dead-lettered by the server: rejected"));
    let told = foreign([("x-first-death-reason", long("maxlen")), (LAST_ERROR, long("no route"))]);
    assert_eq!(failure_of(&told), error("dead-lettered by the server: maxlen; no route"));
    assert_eq!(death_date(&foreign([("x-death", deaths(&["rejected"]))])), DeathDate(1_700_000_000_000_000));
    assert_eq!((failure_of(&foreign([])), death_date(&foreign([]))), (error(""), DeathDate(0)));
}
