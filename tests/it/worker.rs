//! The worker as an application meets it: what becomes of each job, and when.
//!
//! On the memory broker in virtual time, so that an hour passes at once and
//! every time can be compared exactly; `journeys` runs on all brokers.

mod calls;
mod events;
mod faults;
mod journeys;
mod limits;
mod many;
mod meter;
mod outcomes;
mod prefetch;
mod shards;
mod start;
mod status;
mod suspects;
mod timeouts;
mod unknown;
