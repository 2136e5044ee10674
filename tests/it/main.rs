//! The tests of the framework as a whole, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod bench;
mod benchmark;
mod clauses;
mod cli;
mod client;
mod config;
mod deploy;
mod excerpts;
mod from_celery;
mod from_pika;
mod fuzz;
mod gate;
pub mod macros;
mod memory;
mod model;
mod python;
mod rabbit;
mod rabbit_faults;
mod rabbit_interop;
mod rabbitmq;
mod rabbitmq_settings;
mod readme;
mod secrets;
mod shutdown;
mod sim;
mod sqlite;
mod system;
mod tidy;
mod torture;
mod worker;
