#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send(to: String, mailer: State) {}

fn main() {}
