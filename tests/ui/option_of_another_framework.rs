#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(retries = 3)]
async fn a() {}

#[job(retry = 3)]
async fn b() {}

#[job(max_attempts = 3)]
async fn c() {}

#[job(delay = "5s")]
async fn d() {}

#[job(retry_delay = "5s")]
async fn e() {}

#[job(time_limit = 30)]
async fn f() {}

#[job(routing_key = "emails")]
async fn g() {}

fn main() {}
