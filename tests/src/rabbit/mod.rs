//! RabbitMQ nodes of the tests' own, and everything that can be done to them.
//!
//! A [`Node`] is a real server with its own name, ports and folder; any number
//! run side by side, and none has to do with a server of the machine. It dies
//! with what started it: with its `Node`, or with the test process however
//! that ends. A node takes several seconds to start, so that tests which only
//! need a place of their own take a [`Vhost`] on the one [`shared_node`] of
//! their process, and only those that kill or freeze it start their own.
//!
//! | environment | what |
//! |---|---|
//! | `TEST_RABBITMQ_VERSION=3.10`, or unset | the Debian package `rabbitmq-server` of this machine |
//! | `TEST_RABBITMQ_VERSION=4.0`, `4.3` | the one that `tests/rabbitmq.sh 4.0` (`4.3`) installs into a folder |

mod alarm;
mod api;
mod cluster;
mod connection;
mod definitions;
mod erlang;
mod folder;
mod guard;
mod message;
mod node;
mod partition;
mod ports;
mod proxy;
mod queue;
mod release;
mod shared;
mod tls;
mod user;
mod vhost;

pub use alarm::Alarm;
pub use connection::ConsumerInfo;
pub use message::Message;
pub use node::Node;
pub use partition::Ways;
pub use proxy::{Direction, Proxy};
pub use queue::QueueInfo;
pub use shared::{shared_node, shared_vhost, shared_vhost_for};
pub use tls::{Authority, Identity, ServerTls};
pub use vhost::Vhost;
