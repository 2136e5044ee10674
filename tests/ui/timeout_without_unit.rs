#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(timeout = "30")]
async fn text() {}

#[job(timeout = 30)]
async fn number() {}

fn main() {}
