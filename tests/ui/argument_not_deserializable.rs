#![allow(unused_variables)]

use worker_core::prelude::*;

#[derive(serde::Serialize)]
struct Report;

#[job]
async fn print(reports: Vec<Report>) {}

fn main() {}
