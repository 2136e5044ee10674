#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
struct Order {
    id: u64,
}

#[job(queue = "orders")]
impl Order {}

#[job]
const LIMIT: u64 = 5;

#[job]
mod jobs {}

fn main() {}
