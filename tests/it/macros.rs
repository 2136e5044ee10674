//! `#[job]`: what it makes of a good function.

#[path = "../ui/pass/mod.rs"]
pub mod pass;
