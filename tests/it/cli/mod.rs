//! The operator's binary as its user has it: the real program on a real file.
//!
//! Every test has a folder of its own and an environment with nothing in it but
//! what the test puts there. `fixture` is the program, `tests/src/bin/fixture.rs`.

mod admin;
mod dlq;
mod enqueue;
mod injection;
mod look;
mod management;
mod notify;
pub(crate) mod program;
mod rabbit;
mod rabbit_probes;
mod run;
mod shards;
mod site;
mod stack;
mod terminal;
mod tls;
mod topology;
