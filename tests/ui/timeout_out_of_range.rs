#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(timeout = "0s")]
async fn zero() {}

#[job(timeout = "367d")]
async fn too_long() {}

#[job(timeout = "1500us")]
async fn too_fine() {}

fn main() {}
