//! Connections: few, short, and each with one answer.
//!
//! A client that is slow, silent or never reads is cut off after a bound. When
//! all places are taken, the oldest connection has to go: a probe's request is
//! answered in a millisecond, so the oldest is one that does nothing good.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Seen, pages::pages};
use crate::telemetry::TARGET;

/// The most connections at once: three probes, a scraper and a few people, with room.
const CONNECTIONS_MAX: usize = 32;

/// The longest life of a connection: the longest answer takes [`LIVE_WITHIN`](super::pages::LIVE_WITHIN).
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the head of a request may take to arrive.
const HEAD_TIME_MAX: Duration = Duration::from_secs(3);

/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How often recorded values are condensed, so that they take no more memory than a few seconds' worth.
const TIDY_UP_EVERY: Duration = Duration::from_secs(5);

/// The pause after the system could not accept a connection: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `stop`, and then lets the open connections end.
pub(super) async fn serve(listener: TcpListener, seen: Arc<Seen>, stop: CancellationToken) {
    let pages = pages(Arc::clone(&seen));
    let mut connections = Connections::default();
    let mut tidy_up = interval(TIDY_UP_EVERY);
    tidy_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.tasks.join_next() => {}
            _ = tidy_up.tick() => {
                if let Some(page) = seen.metrics.get() {
                    page.tidy_up();
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.take(stream, pages.clone()),
                Err(error) => {
                    tracing::debug!(target: TARGET, %error, "the admin server could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.tasks.join_next().await.is_some() {}
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    ages: VecDeque<AbortHandle>,
}

impl Connections {
    fn take(&mut self, stream: TcpStream, pages: Router) {
        self.ages.retain(|connection| !connection.is_finished());
        while self.ages.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.ages.pop_front()
        {
            oldest.abort();
        }
        self.ages.push_back(self.tasks.spawn(answer(stream, pages)));
    }
}

/// Reads one request and answers it.
async fn answer(stream: TcpStream, pages: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    match timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(target: TARGET, %error, "a client of the admin server broke off"),
        Err(_) => tracing::debug!(target: TARGET, "a client of the admin server took too long"),
    }
}
