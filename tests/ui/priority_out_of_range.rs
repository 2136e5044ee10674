#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(priority = 32)]
async fn urgent() {}

#[job(priority = -1)]
async fn idle() {}

fn main() {}
