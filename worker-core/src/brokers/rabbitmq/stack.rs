//! How deep the stack must be for what a message can hold.
//!
//! `amq-protocol-types` 10.6.3 reads nested headers by recursion without a limit, on a thread that `lapin` starts. A
//! stack overflow is no panic: it ends the process, and the server delivers the message to the next one. How much
//! stack such a thread has is asked by the standard library of one variable, at the first thread that is started.

use std::{env, ffi::OsStr};

use crate::telemetry::TARGET;

/// The variable.
///
/// Source: the documentation of `std::thread`, "Stack size".
pub(crate) const VARIABLE: &str = "RUST_MIN_STACK";

/// Enough for the 25,000 levels that fit into a frame of 128 KiB, in a build without optimisation; 64 MiB are enough
/// with. It reserves addresses: a page of it is memory once it was used.
pub(crate) const BYTES: usize = 512 << 20;

/// What is enough in a build like this one.
const NEEDED: usize = if cfg!(debug_assertions) { BYTES } else { 64 << 20 };

/// Whether the threads of this process survive the headers of every message.
pub(crate) fn is_enough() -> bool {
    suffices(env::var_os(VARIABLE).as_deref())
}

fn suffices(value: Option<&OsStr>) -> bool {
    value.and_then(OsStr::to_str).and_then(|value| value.parse().ok()).is_some_and(|bytes: usize| bytes >= NEEDED)
}

/// Says so where a message can end the process.
pub(super) fn warn() {
    if !is_enough() {
        tracing::warn!(
            target: TARGET,
            "a message whose headers are nested hundreds of levels deep would end this process: \
             set {VARIABLE}={BYTES} in its environment"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_suffices_where_the_variable_says_a_number_that_is_large_enough() {
        for (value, enough) in [
            (None, false),
            (Some(""), false),
            (Some("much"), false),
            (Some("2097152"), false),
            (Some("536870912"), true),
            (Some("1073741824"), true),
        ] {
            assert_eq!(suffices(value.map(OsStr::new)), enough, "{value:?}");
        }
    }
}
