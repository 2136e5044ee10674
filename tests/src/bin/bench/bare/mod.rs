//! The best loops we could write without the framework, with the same libraries and the same promises.

pub(crate) mod amqp;
pub(crate) mod sqlite;
