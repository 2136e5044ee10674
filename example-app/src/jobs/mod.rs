//! The jobs of this application. Files are named by topic, never by job: a
//! module and a job of one name would collide.

mod images;
mod orders;
mod trouble;

pub(crate) use images::thumbnail;
pub(crate) use orders::{Order, process_order};
pub(crate) use trouble::{flaky, poison};
