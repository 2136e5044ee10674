//! What is fuzzed of RabbitMQ's messages: headers, counters, and whole messages, in the bytes that the server sends.

use amq_protocol::{
    protocol::basic::parse_properties,
    types::parsing::{parse_field_table, parse_value},
};
use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::{
    broker::STARTS_MAX,
    brokers::rabbitmq::{
        bundle,
        course::{Alibi, Arrival, Line, Onward, arrival, onward},
        headers::{DEPTH_MAX, from_amqp, integer, is_too_deep, text, to_amqp, within},
        version::Server,
        wire::{self, Copy, DeathDate, Decoded, Incoming, Message},
    },
    envelope::{BUNDLE_MAX, Envelope, Priority, depth},
    id::JOB_ID_BYTES_MAX,
    name::{NAME_BYTES_MAX, QueueName},
    outcome::{FAILURE_BYTES_MAX, Failure, FailureKind},
    retry::MAX_RETRIES_LIMIT,
    time::Timestamp,
};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// More than an input can be nested.
const LEVELS: usize = 10_000;

/// The header table that `input` is without its length.
///
/// # Panics
///
/// A value is read deeper than the limit, cut without being refused, or written as another than it was read as.
pub fn headers(input: &[u8]) {
    let Ok(length) = u32::try_from(input.len()) else { return };
    let framed = [&length.to_be_bytes(), input].concat();
    let Ok((_, table)) = parse_field_table(&framed[..]) else { return };
    for value in table.inner().values() {
        let read = from_amqp(value);
        assert!(depth(&read) <= DEPTH_MAX, "read deeper than {DEPTH_MAX} levels");
        assert_eq!(from_amqp(&to_amqp(&read)), read, "read as something else than it was written as");
        let whole = within(value, LEVELS);
        assert_eq!(is_too_deep(value), depth(&whole) > DEPTH_MAX, "refused, or not, whatever its depth");
        assert!(is_too_deep(value) || whole == read, "cut, and not refused");
        if let Some(number) = integer(value) {
            assert!(text(value).is_none_or(|text| text.trim().parse() == Ok(number)));
        }
    }
    let message = message(table);
    if let Some(what) = wire::unreadable(&message) {
        assert_told(&what);
    } else if wire::excess(&message).is_none() {
        let copy = Copy::of(&message).message();
        assert_eq!(wire::excess(&copy), None, "grown too large by being copied");
        assert_eq!(wire::application_headers(&copy), wire::application_headers(&message));
    }
}

/// The value `input` as a count of retries and of starts, in its own bytes or as text.
///
/// # Panics
///
/// It is taken for a number that it is not, or that is out of range, or refused without being named.
pub fn counters(input: &[u8]) {
    let value = parse_value(input).map_or_else(|_| AMQPValue::LongString(input.into()), |(_, value)| value);
    let mut table = FieldTable::default();
    table.insert(wire::RETRY_COUNT.into(), value.clone());
    let (retries, said) = (decoded(&message(table.clone())), integer(&value));
    match retries {
        Ok(Decoded { retries, starts, .. }) => {
            assert_eq!((said, starts), (Some(retries.into()), 0));
            assert!(retries <= MAX_RETRIES_LIMIT);
            let again = decoded(&Copy::of(&message(table)).integer(wire::RETRY_COUNT, retries).message());
            assert_eq!(again.map(|again| again.retries), Ok(retries));
        }
        Err(what) => {
            assert!(said.is_none_or(|said| !(0..=MAX_RETRIES_LIMIT.into()).contains(&said)), "{what}");
            assert!(what.contains(wire::RETRY_COUNT), "{what}");
            assert_told(&what);
        }
    }
    let mut table = FieldTable::default();
    table.insert(wire::STARTS.into(), value);
    match decoded(&message(table)) {
        Ok(Decoded { retries, starts, .. }) => {
            assert_eq!((said, retries), (Some(starts.into()), 0));
            assert!(starts <= STARTS_MAX);
        }
        Err(what) => assert!(what.contains(wire::STARTS), "{what}"),
    }
}

/// A whole message: two bytes that choose how it arrived, its properties as on the wire, and its body.
///
/// # Panics
///
/// What is handed to a worker exceeds a limit, or a copy does not say what it was made to say.
pub fn envelope(input: &[u8]) {
    let Some((&[how, alibi], rest)) = input.split_first_chunk() else { return };
    let Ok((body, properties)) = parse_properties(rest) else { return };
    let incoming = Incoming {
        tag: 1,
        redelivered: how & 1 != 0,
        message: Message { properties, body: Bytes::copy_from_slice(body) },
    };
    let server = Server::new("RabbitMQ", if how & 2 != 0 { "4.3.6" } else { "3.10.8" });
    let line = if how & 4 != 0 { Line::Suspects } else { Line::Main };
    let alibi = match alibi % 3 {
        0 => Alibi::None,
        1 => Alibi::Outlived,
        _ => Alibi::Shared,
    };
    let Incoming { message, .. } = &incoming;
    match arrival(&incoming, line, alibi, &queue(), &server, NOW) {
        Arrival::Deliver(decoded) => delivered(message, &decoded),
        Arrival::Unpack { jobs, retries } => unpacked(message, &jobs, retries),
        Arrival::Scatter { messages, .. } => {
            assert!(!messages.is_empty() && messages.len() <= usize::from(BUNDLE_MAX));
            assert!(messages.iter().all(|message| wire::excess(message).is_none() && decoded(message).is_ok()));
        }
        Arrival::Suspect { starts } => assert!((1..STARTS_MAX).contains(&starts), "{starts} starts"),
        Arrival::Unmark => {}
        Arrival::Bury { failure, attempts, starts } => {
            assert!(!failure.message.is_empty() && failure.message.len() <= FAILURE_BYTES_MAX);
            assert!(attempts <= MAX_RETRIES_LIMIT + 1 && starts <= STARTS_MAX + 1, "{attempts} and {starts}");
            let dead = Copy::of(message).dead(&queue(), &failure, attempts, DeathDate(7)).message();
            assert_eq!((wire::excess(&dead), wire::failure_of(&dead)), (None, failure));
        }
    }
    // What others have put among the dead, or onto the ladder, or sent as a reply.
    assert!(wire::failure_of(message).message.len() <= FAILURE_BYTES_MAX);
    assert!(wire::death_date(&Copy::of(message).dead(&queue(), &error(), 1, DeathDate(7)).message()).0 == 7);
    drop(wire::read_reply(message));
    if let Onward::Due(queue, target, copy, _) = onward(message, NOW) {
        assert!(target == queue.as_str() || target == format!("{queue}_suspects"), "{target}");
        assert_eq!((copy.header(wire::DUE_AT), copy.header(wire::QUEUE)), (None, None));
    }
}

/// What is left of a bundle says the same of its jobs, together and alone.
fn unpacked(bundle: &Message, jobs: &[Envelope], retries: u32) {
    assert!(!jobs.is_empty() && jobs.len() <= usize::from(BUNDLE_MAX) && retries <= MAX_RETRIES_LIMIT);
    let all: Vec<_> = jobs.iter().collect();
    match &*bundle::rest(bundle, &all) {
        [again] if jobs.len() > 1 => {
            let carrier = decoded(again).map(|decoded| decoded.envelope);
            assert_eq!(carrier.and_then(|carrier| bundle::unpack(again, &carrier)).as_deref(), Ok(jobs));
        }
        alone => assert_eq!(alone.len(), jobs.len()),
    }
    for job in jobs {
        let single = bundle::single(bundle, job).message();
        let read = decoded(&single).map(|decoded| decoded.envelope.id);
        assert_eq!((read, &single.body), (Ok(job.id.clone()), &job.body.0));
        assert!(job.headers.problem().is_none());
    }
}

fn delivered(message: &Message, Decoded { envelope, retries, starts }: &Decoded) {
    assert!(*retries <= MAX_RETRIES_LIMIT && *starts <= STARTS_MAX, "{retries} retries, {starts} starts");
    assert!((1..=JOB_ID_BYTES_MAX).contains(&envelope.id.to_string().len()));
    assert!(envelope.name.as_ref().is_none_or(|name| (1..=NAME_BYTES_MAX).contains(&name.as_str().len())));
    assert!(envelope.priority <= Priority::MAX);
    assert!(envelope.headers.iter().all(|(_, value)| depth(value) <= DEPTH_MAX));
    if let Some(caller) = &envelope.caller {
        assert!((1..=255).contains(&caller.address.len()) && caller.correlation.len() <= 255);
    }
    let attempt = retries + 1;
    let copy = Copy::of(message).id(&envelope.id);
    if attempt <= MAX_RETRIES_LIMIT {
        let retried = copy.clone().retried(attempt, &error(), NOW).message();
        assert_eq!(wire::excess(&retried), None, "grown too large by a retry");
        let again = decoded(&retried);
        assert_eq!(again.as_ref().map(|again| (again.retries, again.starts)), Ok((attempt, 0)));
        assert_eq!(again.map(|again| again.envelope.headers), Ok(envelope.headers.clone()));
    }
    let anew = decoded(&copy.anew().message());
    assert_eq!(anew.map(|anew| (anew.retries, anew.starts, anew.envelope.caller)), Ok((0, 0, None)));
    if envelope.headers.problem().is_none() {
        // As an application may have written it: then it arrives as it was.
        let again = decoded(&wire::encode(envelope, "fuzz"));
        assert_eq!(again.map(|again| again.envelope).as_ref(), Ok(envelope));
    }
}

fn queue() -> QueueName {
    QueueName::try_from("orders").unwrap_or_else(|problem| panic!("{problem}"))
}

fn error() -> Failure {
    Failure::new(FailureKind::Error, "busy")
}

fn message(table: FieldTable) -> Message {
    Message { properties: BasicProperties::default().with_headers(table), body: Bytes::new() }
}

fn decoded(message: &Message) -> Result<Decoded, String> {
    wire::decode(message, &queue(), NOW)
}

/// A refusal is short, whatever it is about.
fn assert_told(what: &str) {
    assert!(!what.is_empty() && what.len() <= 600, "{what}");
}
