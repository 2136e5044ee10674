#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn underscore(id: u64, _id: u64) {}

#[job]
async fn renamed(id: u64, #[serde(rename = "id")] other: u64) {}

fn main() {}
