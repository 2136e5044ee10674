#![allow(unused_variables)]

use worker_core::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Order;

#[job]
async fn ship(a: Payload<Order>, Payload(b): Payload<Order>) {}

fn main() {}
