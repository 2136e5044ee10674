#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn ship(#[serde(rename = "o")] order: Payload<u64>) {}

fn main() {}
