#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn option() -> Option<()> {
    None
}

#[job]
fn number() -> u64 {
    7
}

fn main() {}
