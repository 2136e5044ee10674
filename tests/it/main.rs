//! The integration tests, linked once.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod bench;
mod clauses;
mod client;
mod gate;
mod memory;
mod shutdown;
mod sqlite;
mod tidy;
mod worker;
