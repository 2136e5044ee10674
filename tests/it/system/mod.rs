//! Real worker processes on one real file, with real signals.
//!
//! `crew` is the program, `tests/src/bin/crew.rs`. Its jobs write every start
//! and end into a journal, from which the tests know what really ran.

mod crash;
mod crew;
mod file;
mod freeze;
mod idle;
mod kill;
mod retry;
mod shutdown;
