//! What becomes of jobs when RabbitMQ, the way to it or a worker fails.
//!
//! Real nodes, real worker processes (`crew`), real signals. Nothing is lost in
//! any of these, and what runs twice is counted against its bound.

mod alarm;
mod blame;
mod cluster;
mod confirm;
mod connection;
mod crash;
mod delays;
mod exchanges;
mod freeze;
mod full;
mod kill;
mod neighbours;
mod queue;
mod refused;
mod restart;
mod scene;
mod shutdown;
