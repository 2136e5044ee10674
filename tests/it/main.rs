//! The tests of the framework as a whole, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod clauses;
mod cli;
mod config;
pub mod macros;
mod memory;
mod readme;
mod sqlite;
mod system;
mod tidy;
