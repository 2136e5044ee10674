//! The brokers: each keeps the contract of [`broker`](crate::broker) by its own means.

pub mod memory;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "sqlite")]
pub mod sqlite;
