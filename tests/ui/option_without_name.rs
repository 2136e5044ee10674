#![allow(unused_variables)]

use worker_core::prelude::*;

#[job("emails")]
async fn text() {}

#[job(5)]
async fn number() {}

#[job(worker::queue = "emails")]
async fn path() {}

fn main() {}
