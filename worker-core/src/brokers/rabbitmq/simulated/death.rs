//! Which queues a message has left otherwise than by an acknowledgement, as the server writes it: `x-death`.

use lapin::types::{AMQPValue, FieldArray, FieldTable};

use super::queue::{Stored, text};
use crate::brokers::rabbitmq::{headers::integer, wire::Message};

/// The queues that a message has left in this way, and why.
pub(super) fn deaths(message: &Message) -> impl Iterator<Item = (String, String)> {
    let found = match message.header("x-death") {
        Some(AMQPValue::FieldArray(array)) => array.as_slice().to_vec(),
        _ => Vec::new(),
    };
    found.into_iter().filter_map(|death| match death {
        AMQPValue::FieldTable(table) => Some((text(&table, "queue")?, text(&table, "reason")?)),
        _ => None,
    })
}

/// The message of `stored`, with the death that it has died now.
pub(super) fn with_death(stored: &Stored, queue: &str, reason: &str) -> Message {
    let mut message = Message::clone(&stored.message);
    let mut table = message.properties.headers().clone().unwrap_or_default();
    let mut earlier = match table.inner().get("x-death") {
        Some(AMQPValue::FieldArray(array)) => array.as_slice().to_vec(),
        _ => Vec::new(),
    };
    let is_same = |death: &AMQPValue| match death {
        AMQPValue::FieldTable(death) => {
            text(death, "queue").as_deref() == Some(queue) && text(death, "reason").as_deref() == Some(reason)
        }
        _ => false,
    };
    let count = earlier.iter().position(is_same).map(|at| earlier.remove(at)).and_then(|death| match death {
        AMQPValue::FieldTable(death) => death.inner().get("count").and_then(integer),
        _ => None,
    });
    let long = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("queue".into(), long(queue));
    death.insert("reason".into(), long(reason));
    death.insert("exchange".into(), long(&stored.exchange));
    death.insert("count".into(), AMQPValue::LongLongInt(count.unwrap_or(0) + 1));
    let mut array = FieldArray::default();
    array.push(AMQPValue::FieldTable(death));
    earlier.into_iter().for_each(|death| array.push(death));
    table.insert("x-death".into(), AMQPValue::FieldArray(array));
    if !table.contains_key("x-first-death-queue") {
        table.insert("x-first-death-queue".into(), long(queue));
        table.insert("x-first-death-reason".into(), long(reason));
        table.insert("x-first-death-exchange".into(), long(&stored.exchange));
    }
    message.properties = message.properties.with_headers(table);
    message
}
