//! Messages made to hurt: the worker lives, each is done or dead with its reason, and no neighbour notices.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString},
};
use worker_core::{
    Client, FailureKind, QueueName, Registry, Worker,
    broker::{Page, Selection, Topology},
    prelude::*,
};
use worker_tests::{eventually::eventually_within, rabbit::shared_vhost};

use crate::{bench::Running, cli::program::Program};

const QUEUE: &str = "default";

/// Longer than 250 messages of up to 16 MiB take, also on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// What the victims are for; a neighbour is one that says so.
#[job(name = "echo", max_retries = 0)]
async fn hear(text: String, runs: State<Runs>) {
    let counter = if text == "neighbour" { &runs.0.neighbours } else { &runs.0.others };
    counter.fetch_add(1, Ordering::SeqCst);
}

#[derive(Default)]
struct Heard {
    neighbours: AtomicU64,
    others: AtomicU64,
}

struct Runs(Arc<Heard>);

/// What must become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is odd, and harmless.
    Runs,
    /// Dead, with this kind, and this among its reason.
    Dies(FailureKind, &'static str),
}

use Fate::{Dies, Runs as Harmless};

const UNDECODABLE: fn(&'static str) -> Fate = |reason| Dies(FailureKind::Undecodable, reason);

struct Case {
    what: String,
    properties: BasicProperties,
    body: Vec<u8>,
    fate: Fate,
}

fn good() -> Vec<u8> {
    br#"{"text":"odd"}"#.to_vec()
}

fn properties() -> BasicProperties {
    BasicProperties::default().with_type("echo".into()).with_delivery_mode(2)
}

fn with_header(name: &str, value: AMQPValue) -> BasicProperties {
    let mut table = FieldTable::default();
    table.insert(name.into(), value);
    properties().with_headers(table)
}

fn nested(levels: usize) -> AMQPValue {
    (0..levels).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()))
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Every type of AMQP's tables, at its limits; and whether a counter of ours reads it.
fn values() -> Vec<(&'static str, AMQPValue, bool)> {
    let table = |levels| {
        let mut table = FieldTable::default();
        table.insert("deep".into(), nested(levels));
        AMQPValue::FieldTable(table)
    };
    vec![
        ("void", AMQPValue::Void, false),
        ("true", AMQPValue::Boolean(true), false),
        ("-1", AMQPValue::LongInt(-1), false),
        ("the smallest number", AMQPValue::LongLongInt(i64::MIN), false),
        ("the largest number", AMQPValue::LongLongInt(i64::MAX), false),
        ("a number of another width", AMQPValue::ShortShortUInt(1), true),
        ("a number above the limit", AMQPValue::LongUInt(u32::MAX), false),
        ("a fraction", AMQPValue::Double(0.5), false),
        // What is no number or infinite, Erlang cannot read: the server ends the connection of whoever sends it.
        ("a large fraction", AMQPValue::Double(f64::MAX), false),
        ("a small fraction", AMQPValue::Float(f32::MIN_POSITIVE), false),
        ("a decimal", AMQPValue::DecimalValue(DecimalValue { scale: 255, value: u32::MAX }), false),
        ("a date", AMQPValue::Timestamp(u64::MAX), false),
        ("a text", text("often"), false),
        ("a number in a text", text(" 1 "), true),
        ("an empty text", text(""), false),
        ("terminal commands", text("\u{1b}]0;owned\u{7}\u{1b}[2J"), false),
        ("bytes that are no text", AMQPValue::LongString(vec![0xff, 0xfe, 0x00, 0xc3].into()), false),
        ("raw bytes", AMQPValue::ByteArray(ByteArray::from(vec![0xff; 64])), false),
        ("an empty array", AMQPValue::FieldArray(FieldArray::default()), false),
        ("a table", table(3), false),
    ]
}

/// Wrong types where we look for something, and where we do not.
fn headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (of_what, value, counts) in values() {
        for name in ["x-retry-count", "x-starts"] {
            let fate = if counts { Harmless } else { UNDECODABLE(name) };
            cases.push((name, of_what, value.clone(), fate));
        }
        // Dates, texts and marks: what cannot be read is as if it were not there.
        for name in ["x-enqueued-at", "x-last-error", "x-failure-kind", "x-due-at", "x-queue", "anything"] {
            cases.push((name, of_what, value.clone(), Harmless));
        }
    }
    let case = |(name, of_what, value, fate): (&str, &str, AMQPValue, Fate)| Case {
        what: format!("header {name} with {of_what}"),
        properties: with_header(name, value),
        body: good(),
        fate,
    };
    cases.into_iter().map(case).collect()
}

/// Headers that are too many, too large, too deep; and just not.
fn limits() -> Vec<Case> {
    let many = |count: usize| {
        let names = (0..count).map(|n| (ShortString::from(format!("h{n}")), AMQPValue::Boolean(true)));
        properties().with_headers(names.collect::<BTreeMap<_, _>>().into())
    };
    let case = |what: &str, properties, fate| Case { what: what.into(), properties, body: good(), fate };
    vec![
        case("1,024 headers", many(1_024), Harmless),
        case("1,025 headers", many(1_025), UNDECODABLE("1025 headers; the limit is 1024")),
        case("a header of 40 KiB", with_header("large", text(&"x".repeat(40 << 10))), Harmless),
        case("a header of 60 KiB", with_header("large", text(&"x".repeat(60 << 10))), UNDECODABLE("its headers have")),
        case("16 levels", with_header("deep", nested(16)), Harmless),
        case("17 levels", with_header("deep", nested(17)), UNDECODABLE("`deep` is nested deeper than 16 levels")),
        case("an empty name", with_header("", text("x")), Harmless),
        case("a long name", with_header(&"n".repeat(255), text("x")), Harmless),
        case("a name with commands", with_header("\u{1b}[31m\u{7}", text("x")), Harmless),
        case(
            "an old error that is long",
            with_header("x-last-error", text(&"e".repeat(10_000))),
            UNDECODABLE("its headers have"),
        ),
    ]
}

/// Bodies.
fn bodies() -> Vec<Case> {
    let case = |what: &str, body: &[u8], fate| Case {
        what: format!("body: {what}"),
        properties: properties(),
        body: body.to_vec(),
        fate,
    };
    let deep = |open: &str, close: &str, levels: usize| {
        format!("{{\"text\":{}{}}}", open.repeat(levels), close.repeat(levels)).into_bytes()
    };
    let sized = |bytes: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes - 11)).into_bytes();
    vec![
        case("nothing", b"", UNDECODABLE("EOF")),
        case("a blank", b" ", UNDECODABLE("EOF")),
        case("null", b"null", UNDECODABLE("null")),
        case("a number", b"1e999", UNDECODABLE("number")),
        case("a text", b"\"text\"", UNDECODABLE("string")),
        case("an array", b"[]", UNDECODABLE("")),
        case("an empty object", b"{}", UNDECODABLE("`text`")),
        case("another argument", br#"{"texts":"x"}"#, UNDECODABLE("`text`")),
        case("another type", br#"{"text":1}"#, UNDECODABLE("string")),
        case("the same key twice", br#"{"text":"a","text":"b"}"#, UNDECODABLE("duplicate")),
        case("half a document", br#"{"text":"a"#, UNDECODABLE("EOF")),
        case("two documents", br#"{"text":"a"}{"text":"b"}"#, UNDECODABLE("trailing")),
        case("a mark of byte order", b"\xef\xbb\xbf{\"text\":\"a\"}", UNDECODABLE("")),
        case("no UTF-8", b"{\"text\":\"\xff\xfe\"}", UNDECODABLE("")),
        case("half a surrogate", br#"{"text":"\ud800"}"#, UNDECODABLE("")),
        case("UTF-16", b"{\0\"\0t\0", UNDECODABLE("")),
        case("NUL", b"\0\0\0\0", UNDECODABLE("")),
        case("a NUL in a text", br#"{"text":"\u0000"}"#, Harmless),
        case("terminal commands", "{\"text\":\"\u{202e}\\u001b[2J\"}".as_bytes(), Harmless),
        case("compressed", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", UNDECODABLE("")),
        case("a pickle", b"\x80\x04\x95\x10cos\nsystem\n", UNDECODABLE("")),
        case("XML", b"<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"a\">]>", UNDECODABLE("")),
        case("127 levels", &deep("[", "]", 127), UNDECODABLE("")),
        case("100,000 levels", &deep("[", "]", 100_000), UNDECODABLE("")),
        case("100,000 objects", &deep("{\"a\":", "}", 100_000), UNDECODABLE("")),
        case("a number of 100,000 digits", format!("{{\"text\":{}}}", "9".repeat(100_000)).as_bytes(), UNDECODABLE("")),
        case("exactly 1 MiB", &sized(1 << 20), Harmless),
        case("a byte more", &sized((1 << 20) + 1), UNDECODABLE("1048577 bytes; this worker takes up to 1048576")),
        // What RabbitMQ 4 takes at most is 16 MiB.
        case("almost 16 MiB", &vec![b'['; (16 << 20) - 1], UNDECODABLE("WORKER_PAYLOAD_MAX")),
    ]
}

/// Properties.
fn odd_properties() -> Vec<Case> {
    let case = |what: &str, properties: BasicProperties, fate| Case {
        what: format!("property: {what}"),
        properties,
        body: good(),
        fate,
    };
    let typed = |name: &str| BasicProperties::default().with_type(name.into());
    let long = "x".repeat(255);
    vec![
        case("no type, in a queue with one job", BasicProperties::default(), Harmless),
        case("an empty type", typed(""), UNDECODABLE("`type` is no job name")),
        case("a type with a blank", typed("no such name"), UNDECODABLE("`type` is no job name")),
        case("a type with commands", typed("\u{1b}[2J"), UNDECODABLE("`type` is no job name")),
        case("a type of 255 bytes", typed(&long), UNDECODABLE("`type` is no job name")),
        case("a path as type", typed("../../etc/passwd"), UNDECODABLE("`type` is no job name")),
        case("markup as type", typed("<img src=x onerror=alert(1)>"), UNDECODABLE("`type` is no job name")),
        case("an empty id", properties().with_message_id("".into()), Harmless),
        case("an id of 255 bytes", properties().with_message_id((&*long).into()), Harmless),
        case("an id with commands", properties().with_message_id("\u{1b}[2J\n".into()), Harmless),
        case("an id with quotes", properties().with_message_id("'; DROP TABLE jobs; --".into()), Harmless),
        case("a priority of 255", properties().with_priority(255), Harmless),
        case("a delivery mode that does not last", properties().with_delivery_mode(1), Harmless),
        case("the last date", properties().with_timestamp(u64::MAX), Harmless),
        case("an encoding that is none", properties().with_content_encoding("x-none".into()), Harmless),
        case("a type of content that is none", properties().with_content_type("\u{7f}/\u{1b}".into()), Harmless),
        case("a reply to a queue that is not", properties().with_reply_to("nobody".into()), Harmless),
        case("a reply to its own queue", properties().with_reply_to(QUEUE.into()), Harmless),
        case("a reply to the dead", properties().with_reply_to("default_dlq".into()), Harmless),
        case("a reply to a caller that is not", properties().with_reply_to("amq.rabbitmq.reply-to.x".into()), Harmless),
        case("a correlation that is long", properties().with_correlation_id((&*long).into()), Harmless),
        case("a program that is long", properties().with_app_id((&*long).into()), Harmless),
        case(
            "a job that has expired",
            with_header("x-expires-at", AMQPValue::LongLongInt(1)),
            Dies(FailureKind::Expired, ""),
        ),
        case("one that expires at no date", with_header("x-expires-at", text("never")), Harmless),
        case("a job that nobody has known for long", typed_unknown(), Dies(FailureKind::UnknownJob, "`nobody_knows`")),
    ]
}

fn typed_unknown() -> BasicProperties {
    let mut table = FieldTable::default();
    table.insert("x-unknown-since".into(), AMQPValue::LongLongInt(1));
    BasicProperties::default().with_type("nobody_knows".into()).with_headers(table)
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

async fn publish(channel: &Channel, what: &str, properties: BasicProperties, body: &[u8]) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await.unwrap();
    let confirmed = sent.await;
    assert!(matches!(confirmed, Ok(Confirmation::Ack(None))), "{what}: {confirmed:?}");
}

#[tokio::test]
async fn two_hundred_and_more_messages_made_to_hurt_harm_neither_the_worker_nor_a_neighbour() {
    let vhost = shared_vhost();
    let cases: Vec<Case> = [headers(), limits(), bodies(), odd_properties()].into_iter().flatten().collect();
    assert!(cases.len() >= 200, "{}", cases.len());
    let client = Client::connect(vhost.url()).await.unwrap();
    client.declare(&Topology::queues([QUEUE.parse().unwrap()])).await.unwrap();
    let heard = Arc::new(Heard::default());
    let worker = Worker::builder(&client).registry(Registry::new().with::<hear>()).state(Runs(Arc::clone(&heard)));
    let running = Running::start(worker);

    let (connection, channel) = channel(vhost.url()).await;
    for (n, case) in cases.iter().enumerate() {
        // Where the case is not about ids, one by which its fate is found.
        let named = match case.properties.message_id() {
            Some(_) => case.properties.clone(),
            None => case.properties.clone().with_message_id(format!("case-{n}").into()),
        };
        publish(&channel, &case.what, named, &case.body).await;
        publish(&channel, "a neighbour", properties(), br#"{"text":"neighbour"}"#).await;
    }
    let (count, dying) = (cases.len() as u64, cases.iter().filter(|case| case.fate != Harmless).count() as u64);
    let inspector = client.broker().inspector().unwrap();
    let queue: QueueName = QUEUE.parse().unwrap();
    let done = async || {
        let stats = inspector.queues(std::slice::from_ref(&queue)).await.unwrap();
        let (neighbours, others) = (heard.neighbours.load(Ordering::SeqCst), heard.others.load(Ordering::SeqCst));
        (neighbours, others, stats[0].dead)
    };
    let all = (count, count - dying, dying);
    eventually_within(PATIENCE, "each has come to its end, and so has each neighbour", async || {
        (done().await == all).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(done().await, all, "and to no other");

    let page = inspector.dead(&Selection::default(), Page::first(1_000)).await;
    let dead: BTreeMap<String, _> =
        page.unwrap().jobs.into_iter().map(|job| (job.id.to_string(), job.failure)).collect();
    for (n, case) in cases.iter().enumerate() {
        let found = dead.get(&format!("case-{n}"));
        match case.fate {
            Harmless => assert!(found.is_none(), "{}: {found:?}", case.what),
            Dies(kind, reason) => {
                let failure = found.unwrap_or_else(|| panic!("{} is not dead", case.what));
                assert_eq!(failure.kind, kind, "{}: {failure}", case.what);
                assert!(failure.message.contains(reason), "{}: {failure}", case.what);
            }
        }
    }

    // Whoever looks at them survives it, too, and so does the terminal.
    let program = Program::new().with("WORKER_BROKER_URL", vhost.url()).with("WORKER_QUEUES", QUEUE);
    let listed = program.run(&["dlq", "list", "--limit", "1000"]).exits(0);
    let json = program.run(&["dlq", "list", "--limit", "1000", "--json"]).exits(0).json();
    assert_eq!(json["jobs"].as_array().unwrap().len() as u64, dying);
    let mut printed = vec![listed];
    // Each look reads all of them; one of each sort is enough.
    for what in ["terminal commands", "no UTF-8", "100,000 levels", "a type with commands", "17 levels", "a byte more"]
    {
        let dying = |case: &Case| case.fate != Harmless && case.what.contains(what);
        let n = cases.iter().position(dying).unwrap_or_else(|| panic!("{what}"));
        printed.push(program.run(&["dlq", "show", &format!("case-{n}")]).exits(0));
    }
    for printed in printed {
        let controls = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!printed.stdout.contains(controls), "{:?}", printed.stdout);
    }
    connection.close(200, "done".into()).await.unwrap();
    client.close().await.unwrap();
}
