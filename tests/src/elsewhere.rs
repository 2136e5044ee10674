//! A job in a library crate, which the programs that are linked with it find without a list.

use worker_core::job;

/// Is found by the tests of `#[job]`.
#[job(queue = "elsewhere")]
pub async fn of_another_crate(n: u64) -> bool {
    n > 0
}
