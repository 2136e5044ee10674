#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn ship(#[supplied] order: Payload<u64>) {}

fn main() {}
