//! The integration tests, linked once.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod clauses;
mod memory;
mod sqlite;
mod tidy;
