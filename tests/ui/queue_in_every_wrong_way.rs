//! What a job asks of its queue, in every way in which it cannot be had.

use worker_core::prelude::*;

#[job(queue_type = "stream")]
async fn of_no_type() {}

#[job(queue_type = classic)]
async fn not_a_literal() {}

#[job(max_priority = 10)]
async fn of_the_usual_type() {}

#[job(queue_type = "quorum", max_priority = 10)]
async fn of_a_type_without() {}

#[job(queue_type = "classic", max_priority = 32)]
async fn too_many() {}

#[job(queue_type = "classic", max_priority = 0)]
async fn none() {}

#[job(queue_type = "classic", max_priority = 10, priority = 11)]
async fn above_the_highest() {}

#[job(queue_type = "classic", priority = 9)]
async fn ignored() {}

#[job(queue = "orders", dead_letter_queue = "orders")]
async fn run_again() {}

#[job(dead_letter_queue = "my letters")]
async fn no_name() {}

#[job(dead_letter_ttl = "0s")]
async fn gone_at_once() {}

#[job(dead_letter_ttl = 7)]
async fn without_unit() {}

#[job(shards = 0)]
async fn in_no_queue() {}

#[job(shards = 65)]
async fn in_too_many() {}

#[job(shards = "4")]
async fn not_a_number() {}

#[job(on = "events", shards = 4)]
async fn copied_into_each() {}

#[job(dlq = "orders_dead")]
async fn by_another_name() {}

#[job(x_max_priority = 10)]
async fn elsewhere() {}

fn main() {}
