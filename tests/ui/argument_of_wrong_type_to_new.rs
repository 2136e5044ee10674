#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send(user_id: u64, template: String) {}

fn wrong_type() {
    send::new("42", "v2");
}

fn too_few() {
    send::new(42);
}

fn main() {}
