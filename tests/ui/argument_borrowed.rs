#![allow(unused_variables)]

use worker_core::prelude::*;

struct Order;
struct Mailer;

#[job]
async fn text(to: &str) {}

#[job]
async fn bytes(body: &[u8]) {}

#[job]
async fn own(order: &Order) {}

#[job]
async fn inside(to: Option<&str>, names: Vec<std::borrow::Cow<'_, str>>) {}

#[job]
async fn fixed(to: &'static str) {}

#[job]
async fn state(mailer: &State<Mailer>) {}

fn main() {}
