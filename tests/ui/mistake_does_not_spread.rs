//! The lints too are silent about what stands in for a job that was refused.
#![allow(unused_variables)]
#![deny(missing_docs, non_camel_case_types, unreachable_pub)]

use worker_core::prelude::*;

#[job(quue = "emails")]
async fn option(user_id: u64) -> JobResult<f64> {
    Ok(0.0)
}

/// With a borrowed argument.
#[job]
pub async fn argument(user_id: u64, to: &str, cx: Context) -> JobResult<f64> {
    let _ = cx.attempt();
    Ok(to.len() as f64)
}

fn reply<J: Job>(_: worker_core::Enqueue<J>) -> J::Return {
    unimplemented!()
}

fn elsewhere() {
    let _: JobResult<f64> = reply(option::new(1).delay(minutes(5)));
    let _: JobResult<f64> = reply(argument::new(1, "to").priority(3));
    let _ = worker_core::Registry::new().with::<argument>();
    let _ = option { user_id: 7 }.clone();
}

fn main() {}
