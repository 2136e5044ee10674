#![allow(unused_variables)]

use worker_core::prelude::*;

const QUEUE: &str = "emails";
const RETRIES: u32 = 3;

#[job(queue = QUEUE, max_retries = RETRIES)]
async fn constants() {}

#[job(queue = concat!("e", "mails"), aliases = QUEUE)]
async fn macros() {}

#[job(aliases = [QUEUE, "old_name"])]
async fn inside_a_list() {}

fn main() {}
