#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(queue = "emails" max_retries = 3)]
async fn no_comma() {}

#[job(queue = "emails",, max_retries = 3)]
async fn two_commas() {}

#[job(max_retries = 1 + 2)]
async fn sum() {}

fn main() {}
