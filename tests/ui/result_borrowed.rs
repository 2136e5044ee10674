#![allow(unused_variables)]

use worker_core::prelude::*;

static NAME: &str = "name";

#[job]
async fn name(_id: u64) -> Result<&str, String> {
    Ok(NAME)
}

fn main() {}
