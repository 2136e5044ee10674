//! What stands in for the admin server in a program that was built without it.

use std::net::SocketAddr;

use crate::{
    cli::{exit, fail::Fail},
    client::Client,
    worker::WorkerStatus,
};

/// There is none.
pub(super) enum Admin {}

impl Admin {
    #[expect(clippy::unused_async, reason = "the server's own waits")]
    pub(super) async fn listen(_: SocketAddr) -> Result<Self, Fail> {
        let message = "an admin server was asked for, and this program was built without it";
        Err(Fail::new(exit::CONFIG, message)
            .hint("build it with the feature `admin` of worker-core, or leave out `--admin` and WORKER_ADMIN"))
    }

    pub(super) fn record(&self) {
        match *self {}
    }

    pub(super) fn watch(&self, _: WorkerStatus, _: Client) {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the server's own waits")]
    pub(super) async fn stop(self) {
        match self {}
    }
}
