//! The harness of the RabbitMQ tests does what it says.

mod control;
mod nodes;
mod proxy;
mod vhosts;
