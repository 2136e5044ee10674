//! The operator's binary: an application's jobs as a command-line program.
//!
//! Data goes to standard output: tables on a terminal, tab-separated columns
//! with a header in a pipe, one JSON document with `--json` (each command's
//! `--help` has its shape, which only ever grows). Everything else goes to
//! standard error. Nothing is asked where nobody can answer.

#[cfg(feature = "admin")]
mod admin;
#[cfg(not(feature = "admin"))]
#[path = "admin_absent.rs"]
mod admin;
mod app;
mod args;
mod broker;
mod completions;
mod config;
mod dlq;
pub(crate) mod enqueue;
pub mod exit;
mod fail;
mod health;
mod invocation;
mod jobs;
mod logs;
mod notify;
mod out;
mod pretty;
mod progress;
mod queues;
mod run;
mod shards;
mod signals;
mod stack;
mod table;
mod topology;

pub use app::App;
