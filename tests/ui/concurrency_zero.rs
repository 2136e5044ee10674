#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(concurrency = 0)]
async fn never() {}

fn main() {}
