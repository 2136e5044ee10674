#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(queue = 7, max_retries = "8", priority = 1.5, aliases = "old_name", timeout = true)]
async fn literals() {}

#[job(crate = "worker_core")]
async fn path() {}

fn main() {}
