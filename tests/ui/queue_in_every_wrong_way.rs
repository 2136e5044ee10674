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

#[job(x_max_priority = 10)]
async fn elsewhere() {}

fn main() {}
