#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(max_retires = 3)]
async fn misspelt() {}

#[job(colour = "red")]
async fn unheard_of() {}

fn main() {}
