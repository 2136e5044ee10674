#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(backoff = "10m..2s")]
async fn reversed() {}

fn main() {}
