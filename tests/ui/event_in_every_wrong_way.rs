//! An event, in every way in which it cannot be meant.

use serde::Serialize;
use worker_core::prelude::*;

#[derive(Serialize, Event)]
struct WithoutAnything {}

#[derive(Serialize, Event)]
#[event(exchange = "my events", key = "a")]
struct NoName {}

#[derive(Serialize, Event)]
#[event(exchange = "events")]
struct WithoutKey {}

#[derive(Serialize, Event)]
#[event(exchange = "events", key = "order.{country}")]
struct NoSuchField {
    land: String,
}

#[derive(Serialize, Event)]
#[event(exchange = "events", key = "order.{land")]
struct HalfABracket {
    land: String,
}

#[derive(Serialize, Event)]
#[event(exchange = "events", key = "a", kind = "headers")]
struct ByHeaders {}

#[derive(Serialize, Event)]
#[event(exchange = "events", routing_key = "a")]
struct UnknownOption {}

#[derive(Serialize, Event)]
#[event(exchange = "events", key = "a")]
enum NotAStruct {
    One,
}

fn main() {}
