//! The tests of the framework as a whole, in one binary, so that it is linked once.

mod cli;
mod config;
pub mod macros;
mod tidy;
