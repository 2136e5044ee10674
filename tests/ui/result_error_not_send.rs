#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn send() -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}

fn main() {}
