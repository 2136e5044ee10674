//! What reads text and bytes of others, as functions of bytes: for a fuzzer, and for the tests of this project.
//!
//! Each takes any bytes and panics where something does not hold that must: beyond "no panic", that what was read keeps
//! its limits, that what is written is read as it was, and that no password is shown. They stand beside what they try.
//! `tests/fuzz` runs them under `cargo fuzz`, `tests/it/fuzz.rs` over the corpus that is kept and some thousands of its
//! mutations.

pub use crate::{
    brokers::{
        rabbitmq::fuzz::{counters, envelope, headers},
        sqlite::fuzz::row,
    },
    cli::enqueue::fuzz::arguments,
    config::fuzz::{amqp_url, durations, settings},
};

/// The name of a corpus, and what is tried with it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("amqp_url", amqp_url),
    ("arguments", arguments),
    ("counters", counters),
    ("durations", durations),
    ("envelope", envelope),
    ("headers", headers),
    ("row", row),
    ("settings", settings),
];
