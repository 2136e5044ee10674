#![allow(unused_variables)]

use worker_core::prelude::*;

struct Connection;

#[job]
async fn send(to: String, connection: Connection) {}

fn main() {}
