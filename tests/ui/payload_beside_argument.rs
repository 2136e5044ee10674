#![allow(unused_variables)]

use worker_core::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Order;

#[job]
async fn ship(Payload(order): Payload<Order>, express: bool) {}

fn main() {}
