//! A job as an AMQP message, and back. Pure.
//!
//! The body is the payload. The envelope's fields are the properties and
//! headers of the table in [`envelope`](crate::envelope); what a neighbour
//! wrote and we do not know is kept through every copy.
//!
//! A copy goes on with everything the original had, but for what brokers own
//! ([`BROKER_OWNED`]): on 3.x a republished `x-death` makes the next hop drop
//! the message as a cycle (measured on 3.10.8; celery#9867 is the same).

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    broker::STARTS_MAX,
    brokers::rabbitmq::{
        bundle::BUNDLE,
        headers::{DEPTH_MAX, from_amqp, integer, is_too_deep, text, to_amqp},
        link::DIRECT_REPLY_TO,
        mutant::{self, Mutant},
    },
    envelope::{
        Body, CALL_RETRIES, Caller, Envelope, HEADERS_BYTES_MAX, Headers, ORIGIN_EXCHANGE, ORIGIN_KEY, Priority,
    },
    exchange::Criterion,
    id::JobId,
    name::{JobName, QueueName},
    outcome::{Failure, FailureKind},
    reply::Reply,
    retry::MAX_RETRIES_LIMIT,
    time::Timestamp,
};

pub(super) const RETRY_COUNT: &str = "x-retry-count";
pub(super) const RETRY_TIMESTAMP: &str = "x-retry-timestamp";
pub(super) const LAST_ERROR: &str = "x-last-error";
pub(super) const STARTS: &str = "x-starts";
pub(super) const UNKNOWN_SINCE: &str = "x-unknown-since";
pub(super) const EXPIRES_AT: &str = "x-expires-at";
pub(super) const ENQUEUED_AT: &str = "x-enqueued-at";
pub(super) const FAILURE_KIND: &str = "x-failure-kind";
pub(super) const ATTEMPTS: &str = "x-attempts";
pub(super) const DIED_AT: &str = "x-died-at-us";
pub(super) const QUEUE: &str = "x-queue";
pub(super) const DUE_AT: &str = "x-due-at";

/// Not copied: what brokers write, and what tells RabbitMQ to send a message to other queues, too.
const BROKER_OWNED: [&str; 5] = ["x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"];
const BROKER_OWNED_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// Written by this framework about the job's course; not the application's headers.
const OURS: [&str; 15] = [
    RETRY_COUNT,
    RETRY_TIMESTAMP,
    LAST_ERROR,
    STARTS,
    UNKNOWN_SINCE,
    EXPIRES_AT,
    ENQUEUED_AT,
    FAILURE_KIND,
    ATTEMPTS,
    DIED_AT,
    QUEUE,
    DUE_AT,
    CALL_RETRIES,
    BUNDLE,
    "x-wire-version",
];

/// A message to be published: everything but where to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// A message that was delivered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Incoming {
    /// What the channel knows it by.
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    pub(super) message: Message,
}

/// What a job's message says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    pub(super) envelope: Box<Envelope>,
    pub(super) retries: u32,
    pub(super) starts: u32,
}

impl Message {
    pub(super) fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.header(name).and_then(integer)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.header(name).and_then(text)
    }

    pub(super) fn date(&self, name: &str) -> Option<Timestamp> {
        let ms = match self.header(name)? {
            // AMQP's own dates, as Python's pika writes a `datetime`, have whole seconds.
            AMQPValue::Timestamp(seconds) => seconds.saturating_mul(1_000),
            value => integer(value).and_then(|ms| u64::try_from(ms).ok())?,
        };
        Some(Timestamp::from_unix_ms(ms))
    }

    /// Returns that the server counts as failures; none where it does not count.
    pub(super) fn delivery_count(&self) -> i64 {
        self.integer("x-delivery-count").unwrap_or(0)
    }

    /// The id: the message's own, or a new one where it has none that can be a job's.
    pub(super) fn id(&self) -> JobId {
        self.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()).unwrap_or_else(JobId::new)
    }
}

/// The message of a job that is enqueued.
pub(super) fn encode(envelope: &Envelope, app_id: &str) -> Message {
    let mut table = FieldTable::default();
    for (name, value) in envelope.headers.iter() {
        insert(&mut table, name, to_amqp(value));
    }
    // Not where the id says it: a table of headers costs a bare consumer an eighth of its rate (ADR 34).
    if envelope.id.made_at() != Some(envelope.enqueued_at) {
        insert(&mut table, ENQUEUED_AT, date(envelope.enqueued_at));
    }
    if let Some(expires_at) = envelope.expires_at {
        insert(&mut table, EXPIRES_AT, date(expires_at));
    }
    if let Some(since) = envelope.unknown_since {
        insert(&mut table, UNKNOWN_SINCE, date(since));
    }
    if envelope.caller.as_ref().is_some_and(|caller| caller.retries) {
        insert(&mut table, CALL_RETRIES, AMQPValue::Boolean(true));
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_priority(envelope.priority.level())
        .with_timestamp(envelope.enqueued_at.unix_ms() / 1_000);
    properties = with_headers(properties, table);
    if let Some(name) = &envelope.name {
        properties = properties.with_type(short(name.as_str()));
    }
    if let Some(Caller { address, correlation, .. }) = &envelope.caller {
        properties = properties.with_reply_to(short(address)).with_correlation_id(short(correlation));
    }
    properties = properties.with_message_id(short(&envelope.id.to_string())).with_app_id(short(app_id));
    Message { properties, body: envelope.body.0.clone() }
}

/// AMQP's delivery mode 2. A classic queue forgets the others when its node restarts.
const PERSISTENT: u8 = 2;

/// Reads the message of a job in `queue`.
///
/// # Errors
///
/// What is wrong with it: it can never be run.
pub(super) fn decode(message: &Message, queue: &QueueName, now: Timestamp) -> Result<Decoded, String> {
    let retries = count(message, RETRY_COUNT, MAX_RETRIES_LIMIT)?;
    let starts = count(message, STARTS, STARTS_MAX)?;
    let name = message.properties.kind().as_ref().map(|name| name.as_str().parse::<JobName>()).transpose();
    let name = name.map_err(|problem| format!("its property `type` is no job name: {problem}"))?;
    let id = message.id();
    let enqueued_at = enqueued_at(message, &id).unwrap_or(now);
    let envelope = Envelope::new(id, queue.clone(), name, message.body.clone(), enqueued_at);
    let mut envelope = Box::new(envelope);
    let level = message.properties.priority().unwrap_or(Priority::DEFAULT.level());
    envelope.priority = Priority::new(level).unwrap_or(Priority::MAX);
    envelope.expires_at = message.date(EXPIRES_AT);
    envelope.unknown_since = message.date(UNKNOWN_SINCE);
    envelope.headers = application_headers(message);
    envelope.caller = caller(message);
    Ok(Decoded { envelope, retries, starts })
}

/// When the job `id` was enqueued: as its header says; or when its id was made, where that is within the second that the
/// message's property has; or that second.
pub(super) fn enqueued_at(message: &Message, id: &JobId) -> Option<Timestamp> {
    message.date(ENQUEUED_AT).or_else(|| {
        let second = (*message.properties.timestamp())?;
        let made_at = id.made_at().filter(|made_at| made_at.unix_ms() / 1_000 == second);
        Some(made_at.unwrap_or_else(|| Timestamp::from_unix_ms(second.saturating_mul(1_000))))
    })
}

/// No headers are no table.
fn with_headers(properties: BasicProperties, table: FieldTable) -> BasicProperties {
    if table.inner().is_empty() { properties } else { properties.with_headers(table) }
}

/// Who waits for the reply, by the properties that AMQP has for it.
fn caller(message: &Message) -> Option<Caller> {
    let text = |property: &Option<ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
    let address = text(message.properties.reply_to()).filter(|address| !address.is_empty())?;
    let correlation = text(message.properties.correlation_id()).unwrap_or_default();
    let retries = matches!(message.header(CALL_RETRIES), Some(AMQPValue::Boolean(true)));
    Some(Caller { address, correlation, retries })
}

/// The message that answers a call.
pub(super) fn reply(caller: &Caller, reply: &Reply, id: &JobId, app_id: &str) -> Message {
    let mut table = FieldTable::default();
    if let Reply::Failed(failure) = reply {
        insert(&mut table, FAILURE_KIND, AMQPValue::LongString(failure.kind.as_str().into()));
    }
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_headers(table)
        // Only to tell it from others when it comes back as unroutable; callers go by `correlation_id`.
        .with_message_id(short(&id.to_string()))
        .with_app_id(short(app_id));
    if !caller.correlation.is_empty() {
        properties = properties.with_correlation_id(short(&caller.correlation));
    }
    Message { properties, body: reply.body().0 }
}

/// Which call a message answers, and how; none where it does not say which.
pub(super) fn read_reply(message: &Message) -> Option<(String, Reply)> {
    let correlation = message.properties.correlation_id().as_ref()?.as_str().to_owned();
    let reply = match message.text(FAILURE_KIND) {
        None => Reply::Returned(message.into()),
        Some(kind) => Reply::failed(FailureKind::parse(&kind).unwrap_or(FailureKind::Error), &message.body),
    };
    Some((correlation, reply))
}

/// A counter of ours, which a neighbour may have written too.
fn count(message: &Message, name: &str, max: u32) -> Result<u32, String> {
    let Some(value) = message.header(name) else { return Ok(0) };
    let counted = integer(value).and_then(|count| u32::try_from(count).ok()).filter(|count| *count <= max);
    counted.ok_or_else(|| {
        let shown: String = from_amqp(value).to_string().chars().take(40).collect();
        format!("its header `{name}` is {shown}; a whole number from 0 to {max} is expected")
    })
}

/// The headers that are neither ours nor a broker's.
pub(super) fn application_headers(message: &Message) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in message.properties.headers().iter().flat_map(|table| table.inner()) {
        let name = name.as_str();
        if !OURS.contains(&name) && !is_broker_owned(name) {
            headers.insert(name, from_amqp(value));
        }
    }
    headers
}

fn is_broker_owned(name: &str) -> bool {
    if mutant::is(Mutant::DeathCopied) && name == "x-death" {
        return false;
    }
    BROKER_OWNED.contains(&name) || BROKER_OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A copy of a message, to be changed and published.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) properties: BasicProperties,
    pub(super) table: FieldTable,
    pub(super) body: Bytes,
}

impl Copy {
    /// Without what brokers own, and persistent whatever the original was.
    pub(super) fn of(message: &Message) -> Self {
        let mut table = FieldTable::default();
        for (name, value) in message.properties.headers().iter().flat_map(|table| table.inner()) {
            if !is_broker_owned(name.as_str()) {
                table.insert(name.clone(), value.clone());
            }
        }
        let mut properties = kept(&message.properties);
        if let Some(reply_to) = reply_to(&message.properties) {
            properties = properties.with_reply_to(reply_to.clone());
        }
        Self { properties, table, body: message.body.clone() }
    }

    /// Under this id: a job that came without one keeps what it was given.
    pub(super) fn id(mut self, id: &JobId) -> Self {
        self.properties = self.properties.with_message_id(short(&id.to_string()));
        self
    }

    pub(super) fn integer(mut self, name: &str, value: u32) -> Self {
        // LongInt: pika shows a wider one as `3L`.
        insert(&mut self.table, name, AMQPValue::LongInt(i32::try_from(value).unwrap_or(i32::MAX)));
        self
    }

    pub(super) fn date(mut self, name: &str, value: Timestamp) -> Self {
        insert(&mut self.table, name, date(value));
        self
    }

    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        insert(&mut self.table, name, AMQPValue::LongString(value.into()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        if self.table.contains_key(name) {
            self.table = only(&self.table, |key, _| key != name);
        }
        self
    }

    /// As a retry: its count, why the last attempt failed, and when.
    pub(super) fn retried(self, retries: u32, failure: &Failure, now: Timestamp) -> Self {
        self.integer(RETRY_COUNT, if mutant::is(Mutant::AttemptsForgotten) { 1 } else { retries })
            .text(LAST_ERROR, &failure.to_string())
            .text(RETRY_TIMESTAMP, &now.to_string())
            .without(STARTS)
            .without(UNKNOWN_SINCE)
    }

    /// As a dead letter of `queue`.
    pub(super) fn dead(self, queue: &QueueName, failure: &Failure, attempts: u32, place: DeathDate) -> Self {
        let now = Timestamp::from_unix_ms(place.0 / 1_000);
        let mut copy = self
            .text(QUEUE, queue.as_str())
            .text(FAILURE_KIND, failure.kind.as_str())
            .text(LAST_ERROR, &failure.to_string())
            .text(RETRY_TIMESTAMP, &now.to_string())
            .integer(ATTEMPTS, attempts)
            .without(DUE_AT)
            .without(UNKNOWN_SINCE);
        insert(&mut copy.table, DIED_AT, AMQPValue::LongLongInt(i64::try_from(place.0).unwrap_or(i64::MAX)));
        copy
    }

    /// As a job that begins anew, and that nobody waits for any more.
    pub(super) fn anew(mut self) -> Self {
        const COURSE: [&str; 12] = [
            RETRY_COUNT,
            RETRY_TIMESTAMP,
            LAST_ERROR,
            STARTS,
            UNKNOWN_SINCE,
            EXPIRES_AT,
            FAILURE_KIND,
            ATTEMPTS,
            DIED_AT,
            QUEUE,
            DUE_AT,
            CALL_RETRIES,
        ];
        self.properties = kept(&self.properties);
        COURSE.into_iter().fold(self, Self::without)
    }

    /// The message; headers that are too large to travel on are left behind.
    pub(super) fn message(mut self) -> Message {
        let (foreign, ours) = weights(&self.table);
        if foreign > FOREIGN_BYTES_MAX {
            self.table = only(&self.table, |name, _| OURS.contains(&name));
        }
        if ours > OURS_BYTES_MAX {
            self.table = only(&self.table, |name, value| !OURS.contains(&name) || weight(value) <= OUR_BYTES_MAX);
        }
        Message { properties: with_headers(self.properties, self.table), body: self.body }
    }
}

/// Where a reply goes, if a copy may say so. The server refuses the word that a caller writes for its own channel
/// from a channel that has no replies, and closes that; who speaks AMQP 1.0 may have had it stored.
fn reply_to(properties: &BasicProperties) -> Option<&ShortString> {
    properties.reply_to().as_ref().filter(|reply_to| reply_to.as_str() != DIRECT_REPLY_TO)
}

/// The properties that travel on with every copy: all but two.
///
/// `expiration`: a copy in a delay queue would leave it when that is over. And `reply_to`, which is for
/// those copies that somebody waits for.
fn kept(original: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($get:ident => $with:ident),*) => {$(
            if let Some(value) = original.$get() {
                properties = properties.$with(value.clone());
            }
        )*};
    }
    keep!(content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, message_id => with_message_id, timestamp => with_timestamp,
        kind => with_type, app_id => with_app_id);
    properties
}

/// `message`, with by which exchange and key it came, unless it says so already: the first is what counts,
/// and a copy goes through the default one.
pub(super) fn came_by(message: Message, exchange: &str, key: &str) -> Message {
    let says_so = |table: &FieldTable| table.contains_key(ORIGIN_EXCHANGE);
    if exchange.is_empty() || message.properties.headers().as_ref().is_some_and(says_so) {
        return message;
    }
    let mut table = message.properties.headers().clone().unwrap_or_default();
    insert(&mut table, ORIGIN_EXCHANGE, AMQPValue::LongString(exchange.into()));
    insert(&mut table, ORIGIN_KEY, AMQPValue::LongString(key.into()));
    Message { properties: message.properties.with_headers(table), ..message }
}

/// The same message without the count of its deliveries, and persistent; all else stays, also what
/// tells of its death.
pub(super) fn renewed(message: Message) -> Message {
    let table = message.properties.headers().clone().unwrap_or_default();
    let left = ["x-delivery-count", "x-acquired-count", "CC", "BCC"];
    let table = only(&table, |name, _| !left.contains(&name));
    let mut properties = kept(&message.properties).with_headers(table);
    if let Some(reply_to) = reply_to(&message.properties) {
        properties = properties.with_reply_to(reply_to.clone());
    }
    Message { properties, ..message }
}

/// What a binding by headers asks for, as AMQP has it.
pub(super) fn binding_arguments(on: &Criterion) -> FieldTable {
    let mut table = FieldTable::default();
    let (how, headers) = match on {
        Criterion::Key(_) => return table,
        Criterion::AllOf(headers) => ("all", headers),
        Criterion::AnyOf(headers) => ("any", headers),
    };
    headers.iter().for_each(|(name, value)| insert(&mut table, name, to_amqp(value)));
    insert(&mut table, "x-match", AMQPValue::LongString(how.into()));
    table
}

/// The most bytes of headers that are not ours: what an application may write,
/// 16 KiB of JSON, has up to 2.5 times as many in AMQP (`1,` is a number of five bytes).
///
/// Near `frame_max` (128 KiB) a table closes the connection, and what a broker
/// adds to it later makes it undeliverable: an endless loop (measured).
const FOREIGN_BYTES_MAX: usize = 3 * HEADERS_BYTES_MAX;

/// The most bytes of our headers, and of one of them: what we write has less.
const OURS_BYTES_MAX: usize = 8 << 10;
const OUR_BYTES_MAX: usize = 3 << 10;

/// The size of the headers of `message` in bytes, if they are too large for a copy.
///
/// What a broker has added does not count, for it is not copied; ours and those
/// of others count apart, so that what was not too large at first never becomes so.
pub(super) fn excess(message: &Message) -> Option<usize> {
    let (foreign, ours) = weights(message.properties.headers().as_ref()?);
    (foreign > FOREIGN_BYTES_MAX || ours > OURS_BYTES_MAX).then_some(foreign + ours)
}

/// The most headers of one message that brokers have not written: far above what programs write.
const COUNT_MAX: usize = 1_024;

/// What is wrong with the headers of `message` as a whole, that are not too large.
pub(super) fn unreadable(message: &Message) -> Option<String> {
    let table = message.properties.headers().as_ref()?.inner();
    let mut read = table.iter().filter(|(name, _)| !is_broker_owned(name.as_str()));
    let count = read.clone().count();
    if count > COUNT_MAX {
        return Some(format!("it has {count} headers; the limit is {COUNT_MAX}"));
    }
    let (name, _) = read.find(|(_, value)| is_too_deep(value))?;
    let shown: String = name.as_str().escape_debug().take(40).collect();
    Some(format!("its header `{shown}` is nested deeper than {DEPTH_MAX} levels"))
}

/// The bytes of the headers that are not ours, and of ours.
fn weights(table: &FieldTable) -> (usize, usize) {
    let mut bytes = (0, 0);
    for (name, value) in table.inner() {
        let weight = 1 + name.as_str().len() + weight(value);
        if OURS.contains(&name.as_str()) {
            bytes.1 += weight;
        } else if !is_broker_owned(name.as_str()) {
            bytes.0 += weight;
        }
    }
    bytes
}

/// The bytes of a value in a frame.
fn weight(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(weight).sum::<usize>(),
        AMQPValue::FieldTable(table) => {
            4 + table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + weight(value)).sum::<usize>()
        }
    }
}

/// The headers of `table` that `keep` wants.
fn only(table: &FieldTable, keep: impl Fn(&str, &AMQPValue) -> bool) -> FieldTable {
    let kept = table.inner().iter().filter(|(name, value)| keep(name.as_str(), value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>().into()
}

/// When a job died, in microseconds since 1970: the place of a dead letter among the others.
///
/// Finer than a date, and never the same twice in one process, so that a
/// listing has the order in which they died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeathDate(pub(super) u64);

/// What a dead letter says of its death.
pub(super) fn failure_of(message: &Message) -> Failure {
    let last_error = message.text(LAST_ERROR).unwrap_or_default();
    match message.text(FAILURE_KIND).and_then(|kind| FailureKind::parse(&kind)) {
        Some(kind) => {
            // The kind is the first word of the text for neighbours, and a field of its own for us.
            let prefix = format!("{kind}: ");
            Failure::new(kind, last_error.strip_prefix(&prefix).unwrap_or(&last_error).to_owned())
        }
        None => {
            // The newest death stands first in `x-death`. `x-first-death-reason` is often the end of a wait.
            let newest = || first_death(message, "reason").as_ref().and_then(text);
            let reason = newest().or_else(|| message.text("x-first-death-reason"));
            match reason.as_deref() {
                Some("delivery_limit") => {
                    let text = "the server returned it more often than its queue's delivery limit allows";
                    Failure::new(FailureKind::Crashed, text)
                }
                Some("expired") => Failure::new(FailureKind::Expired, "it was not delivered before its expiration"),
                Some(reason) if last_error.is_empty() => {
                    Failure::new(FailureKind::Error, format!("dead-lettered by the server: {reason}"))
                }
                Some(reason) => {
                    Failure::new(FailureKind::Error, format!("dead-lettered by the server: {reason}; {last_error}"))
                }
                None => Failure::new(FailureKind::Error, last_error),
            }
        }
    }
}

/// A field of the first entry that a broker wrote into `x-death`.
fn first_death(message: &Message, field: &str) -> Option<AMQPValue> {
    let AMQPValue::FieldArray(deaths) = message.header("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    death.inner().get(field).cloned()
}

/// When a dead letter died: as we wrote it, as a broker did (whole seconds), or when it was enqueued.
pub(super) fn death_date(message: &Message) -> DeathDate {
    let ours = message.integer(DIED_AT).and_then(|us| u64::try_from(us).ok());
    let brokers = || first_death(message, "time").as_ref().and_then(integer).and_then(|s| u64::try_from(s).ok());
    let seconds = || brokers().or_else(|| *message.properties.timestamp()).unwrap_or(0);
    DeathDate(ours.unwrap_or_else(|| seconds().saturating_mul(1_000_000)))
}

fn date(date: Timestamp) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(date.unix_ms()).unwrap_or(i64::MAX))
}

pub(super) fn insert(table: &mut FieldTable, name: &str, value: AMQPValue) {
    if let Ok(name) = ShortString::try_new(name) {
        table.insert(name, value);
    }
}

/// A property's text; every one we write has at most 255 bytes ([`JobId`], [`JobName`], the program's name).
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

/// The body as the envelope has it.
impl From<&Message> for Body {
    fn from(message: &Message) -> Self {
        Self(message.body.clone())
    }
}

#[cfg(test)]
mod tests;
