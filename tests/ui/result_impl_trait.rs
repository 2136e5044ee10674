#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
fn list() -> impl Iterator<Item = u8> {
    std::iter::empty()
}

#[job]
async fn nested() -> Result<impl ToString, String> {
    Ok(1)
}

fn main() {}
