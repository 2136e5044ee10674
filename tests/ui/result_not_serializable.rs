#![allow(unused_variables)]

use worker_core::prelude::*;

struct Report;

#[job]
async fn report() -> JobResult<Report> {
    Ok(Report)
}

fn main() {}
