use worker_core::prelude::*;

#[job(bundle = 100, priority = 9)]
async fn ship(order_id: u64) {}

#[job(bundle = 1001)]
async fn pack(order_id: u64) {}

fn main() {}
