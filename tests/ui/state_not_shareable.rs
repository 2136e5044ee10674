#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn count(counter: State<std::cell::RefCell<u64>>) {}

fn main() {}
