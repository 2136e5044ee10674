#![allow(unused_variables)]

use worker_core::prelude::*;

struct Db;

#[job]
async fn send(to: String, #[supplied] db: Db) {}

fn main() {}
