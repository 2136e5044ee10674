//! `#[derive(Event)]`: names, keys and kinds.

use serde::Serialize;
use worker_core::{exchange::ExchangeKind, prelude::*};

#[derive(Serialize, Event)]
#[event(exchange = "ui_events", key = "order.{country}.{order_id}.{country}")]
struct OrderPlaced {
    order_id: u64,
    country: &'static str,
}

#[derive(Serialize, Event)]
#[event(exchange = "ui_errors", kind = "direct", key = "error", name = "ui.failed", crate = worker_core)]
struct Failed;

#[derive(Serialize, Event)]
#[event(exchange = "ui_all", kind = "fanout")]
struct Everything<T: Serialize + Send + 'static> {
    what: T,
}

#[test]
fn an_event_has_the_name_the_exchange_and_the_key_that_were_written() {
    let placed = OrderPlaced { order_id: 7, country: "ch" };
    assert_eq!((OrderPlaced::NAME, OrderPlaced::EXCHANGE), ("order_placed", "ui_events"));
    assert_eq!((OrderPlaced::KIND, placed.key().as_str()), (ExchangeKind::Topic, "order.ch.7.ch"));
    assert_eq!((Failed::NAME, Failed::KIND, Failed.key().as_str()), ("ui.failed", ExchangeKind::Direct, "error"));
    let everything = Everything { what: 1 };
    assert_eq!((Everything::<u8>::NAME, everything.key().as_str()), ("everything", ""));
}
