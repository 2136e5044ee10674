#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(timeout = "soon")]
async fn word() {}

#[job(timeout = "30 parsecs")]
async fn unit() {}

#[job(timeout = "10M")]
async fn months() {}

fn main() {}
