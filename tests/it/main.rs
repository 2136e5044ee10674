//! All tests of the framework from outside, in one binary.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod clauses;
mod memory;
