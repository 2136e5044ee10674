#![allow(unused_variables)]

use worker_core::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Order<'a> {
    name: std::borrow::Cow<'a, str>,
}

#[job]
async fn ship(order: Order<'_>) {}

fn main() {}
