//! The integration tests, linked once.

mod cli;
mod config;
mod tidy;
