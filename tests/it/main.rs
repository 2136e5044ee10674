//! The integration tests, linked once.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod cli;
mod config;
mod tidy;
