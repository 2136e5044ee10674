#![allow(unused_variables)]

use worker_core::prelude::*;

struct Mailer;

#[job]
async fn send(#[serde(default)] mailer: State<Mailer>) {}

fn main() {}
