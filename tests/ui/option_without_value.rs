#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(queue)]
async fn bare() {}

#[job(queue =, max_retries = 3)]
async fn empty() {}

#[job(aliases("old_name"))]
async fn in_parentheses() {}

#[job(timeout: "30s")]
async fn after_a_colon() {}

fn main() {}
