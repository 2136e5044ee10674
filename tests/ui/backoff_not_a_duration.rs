#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(backoff = "exponential")]
async fn word() {}

#[job(backoff = "2s..")]
async fn open() {}

fn main() {}
