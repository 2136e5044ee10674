#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(queue = "emails", max_retries = 3, queue = "mails")]
async fn send() {}

fn main() {}
