#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send(to: String, #[cfg(test)] trace: bool, #[cfg_attr(test, serde(default))] n: u8) {}

fn main() {}
