//! When somebody asks this program to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at Ctrl-C or SIGTERM; never where the system gives no handler.
pub(crate) async fn stop_requested() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
