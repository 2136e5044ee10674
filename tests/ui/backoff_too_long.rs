#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(backoff = "1s..400d")]
async fn longest() {}

fn main() {}
