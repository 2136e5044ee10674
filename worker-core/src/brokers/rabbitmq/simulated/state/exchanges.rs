//! Exchanges, what is bound to them, and where a message goes.

use std::collections::BTreeSet;

use lapin::types::FieldTable;

use super::State;
use crate::{
    brokers::rabbitmq::{
        headers::from_amqp,
        lapin_link::GUARD_EXCHANGE,
        link::{DeclareExchange, LinkError},
        simulated::{queue::text, refusal},
        wire::Message,
    },
    envelope::Headers,
    exchange::{Binding, Criterion},
};

impl State {
    pub(in super::super) fn declare_exchange(&mut self, name: &str, how: DeclareExchange) -> Result<(), LinkError> {
        match (how, self.exchanges.get(name)) {
            (DeclareExchange::Passive, Some(_)) => Ok(()),
            (DeclareExchange::Passive, None) => Err(refusal::no_exchange(name)),
            (DeclareExchange::Durable(kind) | DeclareExchange::Compared(kind), Some(there)) if kind != *there => {
                Err(refusal::other_kind(name, kind, *there))
            }
            (DeclareExchange::Compared(_), there) => {
                Err(refusal::exchange_guard(GUARD_EXCHANGE, name, there.is_some()))
            }
            (DeclareExchange::Durable(kind), _) => {
                self.exchanges.insert(name.to_owned(), kind);
                Ok(())
            }
        }
    }

    pub(in super::super) fn bind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &FieldTable,
    ) -> Result<(), LinkError> {
        if !self.exchanges.contains_key(exchange) {
            return Err(refusal::no_exchange(exchange));
        }
        let known = self.queues.contains_key(queue).then(|| queue.parse().ok()).flatten();
        let Some(queue) = known else { return Err(refusal::no_queue(queue)) };
        let Ok(exchange) = exchange.parse() else { return Err(refusal::no_exchange(exchange)) };
        let on = match text(arguments, "x-match").as_deref() {
            Some("any") => Criterion::AnyOf(headers(arguments)),
            Some(_) => Criterion::AllOf(headers(arguments)),
            None => Criterion::Key(key.to_owned()),
        };
        let binding = Binding { exchange, queue, on };
        if !self.bindings.contains(&binding) {
            self.bindings.push(binding);
        }
        Ok(())
    }

    /// The queues that a message goes to.
    pub(super) fn targets(&self, exchange: &str, key: &str, message: &Message) -> Result<BTreeSet<String>, LinkError> {
        if exchange.is_empty() {
            return Ok(self.queues.contains_key(key).then(|| key.to_owned()).into_iter().collect());
        }
        let Some(kind) = self.exchanges.get(exchange) else { return Err(refusal::no_exchange(exchange)) };
        let headers = message.properties.headers().as_ref().map(headers).unwrap_or_default();
        let bound = self.bindings.iter().filter(|binding| binding.exchange.as_str() == exchange);
        let fitting = bound.filter(|binding| binding.takes(*kind, key, &headers));
        Ok(fitting.map(|binding| binding.queue.to_string()).collect())
    }
}

fn headers(table: &FieldTable) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in table.inner() {
        headers.insert(name.as_str(), from_amqp(value));
    }
    headers
}
