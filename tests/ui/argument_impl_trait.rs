#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send(to: impl Into<String>) {}

fn main() {}
