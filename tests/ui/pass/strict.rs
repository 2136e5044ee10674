//! Every kind of job under every lint that an application may have chosen: none warns.

#![deny(warnings)]
#![deny(
    missing_docs,
    missing_debug_implementations,
    missing_copy_implementations,
    dead_code,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    let_underscore_drop,
    non_camel_case_types,
    private_bounds,
    private_interfaces,
    single_use_lifetimes,
    trivial_casts,
    unit_bindings,
    unnameable_types,
    unreachable_pub,
    unsafe_code,
    unused,
    unused_lifetimes,
    unused_qualifications,
    unused_results,
    variant_size_differences,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::missing_docs_in_private_items
)]

use std::path::PathBuf;

use worker_core::prelude::*;

/// Opaque.
#[expect(missing_debug_implementations, missing_copy_implementations, reason = "an application may choose so")]
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Opaque {
    /// A number.
    pub n: u8,
}

/// Welcomes.
///
/// # Errors
///
/// None.
#[job(queue = "emails", max_retries = 8, backoff = "2s..10m", timeout = "30s", priority = 1, concurrency = 1)]
pub async fn ui_strict_async(user_id: u64, template: String, mailer: State<Vec<u8>>, cx: Context) -> JobResult {
    std::future::ready(()).await;
    if cx.attempt() > 3 && mailer.is_empty() {
        return Err(JobError::discard(format!("{user_id} {template}")));
    }
    Ok(())
}

/// Draws.
///
/// # Errors
///
/// None.
#[job]
#[expect(clippy::needless_pass_by_value, reason = "a job owns its arguments")]
pub fn ui_strict_blocking(path: PathBuf, opaque: Opaque) -> JobResult<bool> {
    Ok(path.is_absolute() && opaque.n == 0)
}

/// Orders.
#[job]
pub async fn ui_strict_payload(Payload(orders): Payload<Vec<u8>>) -> bool {
    std::future::ready(()).await;
    orders.is_empty()
}

/// Private, and enqueued from elsewhere only: by a program in another language.
#[job]
fn ui_strict_private(n: u8) -> bool {
    n.to_string().is_empty()
}

/// Takes more than clippy likes in a function of one's own.
#[job]
#[expect(clippy::too_many_arguments, clippy::many_single_char_names, reason = "on the function, and nowhere else")]
fn ui_strict_many(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> bool {
    [a, b, c, d, e, f, g, h].iter().sum::<u8>() == 0
}

/// Nothing.
#[job]
pub async fn ui_strict_nothing() {
    std::future::ready(()).await;
}
