//! SIGTERM and SIGINT, counted: the first asks, the second insists.

use std::{io, thread};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals as Iterator},
};
use tokio::sync::watch;

/// Counts the signals that this process gets from now on; they no longer end it.
#[derive(Debug)]
pub(super) struct Signals {
    received: watch::Receiver<Received>,
    handle: Handle,
}

/// How many there were, and the last one's name.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    count: u32,
    last: &'static str,
}

impl Signals {
    /// Begins to listen, on a thread that ends when this is dropped.
    pub(super) fn listen() -> io::Result<Self> {
        let mut signals = Iterator::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let (sender, received) = watch::channel(Received::default());
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let last = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                sender.send_modify(|received| *received = Received { count: received.count + 1, last });
            }
        })?;
        Ok(Self { received, handle })
    }

    /// Whether there was one.
    pub(super) fn any(&self) -> bool {
        self.received.borrow().count > 0
    }

    /// Waits for the `n`-th, 1 for the first; the name of the last one.
    pub(super) fn nth(&self, n: u32) -> impl Future<Output = &'static str> + Send + use<> {
        let mut received = self.received.clone();
        async move {
            let name = received.wait_for(|received| received.count >= n).await.map(|received| received.last);
            match name {
                Ok(name) => name,
                // The thread ends only after `self` was dropped: there will be no more.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}
