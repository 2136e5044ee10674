#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send(to: String, #[serde(skip)] cache: Option<String>) {}

fn main() {}
