#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(backoff = "5")]
async fn text() {}

#[job(backoff = 5)]
async fn number() {}

#[job(backoff = "2..10m")]
async fn one_of_two() {}

fn main() {}
