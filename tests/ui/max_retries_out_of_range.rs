#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(max_retries = -1)]
async fn negative() {}

#[job(max_retries = 1_001)]
async fn too_many() {}

#[job(max_retries = 99999999999999999999)]
async fn far_too_many() {}

fn main() {}
