//! What the simulated server says no with, in RabbitMQ's words: who asks reads them.

use lapin::types::{AMQPValue, FieldTable};

use crate::{
    brokers::rabbitmq::{
        headers::integer,
        lapin_link::CONSUMER_TIMEOUT,
        link::{LinkError, LinkErrorKind},
    },
    exchange::ExchangeKind,
};

pub(super) fn no_queue(name: &str) -> LinkError {
    LinkError::new(LinkErrorKind::NotFound, format!("NOT_FOUND - no queue '{name}' in vhost '/'"))
}

pub(super) fn no_exchange(name: &str) -> LinkError {
    LinkError::new(LinkErrorKind::NotFound, format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))
}

pub(super) fn locked(name: &str) -> LinkError {
    let text = format!("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'");
    LinkError::new(LinkErrorKind::Locked, text)
}

fn mismatch(text: String) -> LinkError {
    LinkError::new(LinkErrorKind::Mismatch, format!("PRECONDITION_FAILED - {text}"))
}

/// A queue that is compared with the guard of `lapin_link` and is not there.
pub(super) fn invalid_guard(guard: &str, queue: &str) -> LinkError {
    mismatch(format!("invalid arg '{guard}' for queue '{queue}' in vhost '/': invalid_max_age"))
}

pub(super) fn unknown_tag(tag: u64) -> LinkError {
    mismatch(format!("unknown delivery tag {tag}"))
}

/// What a channel hears that has held a message for longer than the server waits.
pub(super) fn too_late() -> LinkError {
    mismatch("delivery acknowledgement on channel 1 timed out".into())
}

/// A classic queue does not let its consumers say how long they hold what they have.
pub(super) fn no_hold(queue: &str) -> LinkError {
    mismatch(format!(
        "invalid arg '{CONSUMER_TIMEOUT}' for queue '{queue}' in vhost '/' of queue type rabbit_classic_queue"
    ))
}

pub(super) fn no_reply_consumer() -> LinkError {
    mismatch("fast reply consumer does not exist".into())
}

pub(super) fn other_kind(exchange: &str, received: ExchangeKind, current: ExchangeKind) -> LinkError {
    mismatch(format!(
        "inequivalent arg 'type' for exchange '{exchange}' in vhost '/': received '{received}' but current is '{current}'"
    ))
}

/// An exchange that is compared with the guard of `lapin_link`.
pub(super) fn exchange_guard(guard: &str, exchange: &str, is_there: bool) -> LinkError {
    mismatch(match is_there {
        false => format!("invalid type 'signedint' for arg '{guard}' in exchange '{exchange}' in vhost '/'"),
        true => format!(
            "inequivalent arg '{guard}' for exchange '{exchange}' in vhost '/': received the value '1' of type \
             'signedint' but current is none"
        ),
    })
}

/// The first argument that differs, in their order; none where all are the same.
pub(super) fn difference(queue: &str, received: &FieldTable, current: &FieldTable) -> Option<LinkError> {
    let names = received.inner().keys().chain(current.inner().keys());
    let mut names: Vec<_> = names.map(|name| name.as_str()).collect();
    // What kind of queue it is comes first, and the others after it.
    names.sort_by_key(|name| (*name != "x-queue-type", *name));
    names.dedup();
    names.into_iter().find_map(|name| {
        let (asked, there) = (received.inner().get(name), current.inner().get(name));
        let told = match (asked, there) {
            (Some(asked), Some(there)) if same(asked, there) => return None,
            (Some(asked), Some(there)) => format!("received '{}' but current is '{}'", shown(asked), shown(there)),
            (Some(asked), None) => format!("received {} but current is none", typed(asked)),
            (None, Some(there)) => format!("received none but current is {}", typed(there)),
            (None, None) => return None,
        };
        Some(mismatch(format!("inequivalent arg '{name}' for queue '{queue}' in vhost '/': {told}")))
    })
}

fn same(one: &AMQPValue, other: &AMQPValue) -> bool {
    match (integer(one), integer(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::Boolean(yes) => yes.to_string(),
        value => integer(value).map_or_else(|| format!("{value:?}"), |number| number.to_string()),
    }
}

fn typed(value: &AMQPValue) -> String {
    let kind = match value {
        AMQPValue::LongString(_) => "longstr",
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::LongLongInt(_) => "long",
        _ => "signedint",
    };
    format!("the value '{}' of type '{kind}'", shown(value))
}
