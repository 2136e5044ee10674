//! What a job runs for, in every way in which it cannot be meant.

use worker_core::prelude::*;

#[job(bind = ["order.*"])]
async fn keys_of_nothing() {}

#[job(kind = "fanout")]
async fn a_kind_of_nothing() {}

#[job(on = "my events")]
async fn no_name() {}

#[job(on = "events", kind = "headers")]
async fn by_headers() {}

#[job(on = "events", kind = "queue")]
async fn of_no_kind() {}

#[job(on = "events", kind = "direct")]
async fn direct_without_a_key() {}

#[job(on = "events", kind = "fanout", bind = ["order.*"])]
async fn fanout_with_a_key() {}

#[job(on = "events", bind = ["order*"])]
async fn half_a_word() {}

#[job(on = "events", bind = "order.*")]
async fn not_a_list() {}

#[job(on = "events", bind = [order])]
async fn not_a_literal() {}

#[job(exchange = "events", binding_key = "order.*")]
async fn elsewhere() {}

fn main() {}
