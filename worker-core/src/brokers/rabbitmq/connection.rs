//! Keeps one connection alive: dials, watches, dials again.
//!
//! Each connection is an *epoch*. What belongs to one (channels, delivery tags,
//! confirms) is worth nothing in the next, so its users hold the [`Up`] they
//! got it from, and learn from its token that it is over. The supervisor goes
//! on for ever; how long to wait for it is its users' matter.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    brokers::rabbitmq::{
        link::{Dialer, Link, LinkError, LinkErrorKind, Purpose},
        redial::Redial,
    },
    telemetry::{RECONNECTS, TARGET},
    time::monotonic_now,
};

/// The first and the longest pause after a connection that lived, before it is made anew; for one that could not be
/// made see [`Redial`].
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A connection that lived this long was a good one: the pauses begin anew.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Why a connection that lives is given up.
pub(super) const SILENT: &str = "the server confirms nothing any more";

/// Where tasks run, who waits for them, and when they must end.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    pub(super) runtime: Handle,
    pub(super) tracker: TaskTracker,
    /// The broker is being closed: finish and let go.
    pub(super) closing: CancellationToken,
}

impl Tasks {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), closing: CancellationToken::new() }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn_on(task, &self.runtime));
    }
}

/// A connection that lives.
pub(super) struct Up {
    pub(super) link: Box<dyn Link>,
    /// Cancelled when the connection is gone.
    pub(super) lost: CancellationToken,
    /// When the server last confirmed something on it, or took messages again.
    heard: Mutex<Instant>,
    /// Whoever publishes on it has found it to be of no use.
    given_up: CancellationToken,
}

impl Up {
    fn new(link: Box<dyn Link>) -> Self {
        let (lost, given_up) = (CancellationToken::new(), CancellationToken::new());
        Self { link, lost, heard: Mutex::new(monotonic_now()), given_up }
    }

    /// The server has confirmed something.
    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = monotonic_now();
    }

    /// When the server last confirmed something on any channel, or took messages again.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing may be written on it any more, though it lives.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    /// Resolves when that is so.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Ends the connection though it lives: the next is made, to the next node where there are several.
    pub(super) fn give_up(&self) {
        self.given_up.cancel();
    }
}

/// How the connection is.
#[derive(Clone)]
enum State {
    Down(Option<LinkError>),
    Up(Arc<Up>),
    Closed,
}

/// A connection that is kept alive.
pub(super) struct Connection {
    purpose: Purpose,
    dialer: Arc<dyn Dialer>,
    redial: Arc<Redial>,
    tasks: Tasks,
    state: Mutex<State>,
    /// Wakes all who wait for another state, in the order in which they began: a simulation must not depend on chance,
    /// and a `watch` wakes in any.
    changed: Notify,
    started: Mutex<bool>,
    /// Let go of the connection itself, after everything that uses it.
    hang_up: CancellationToken,
}

impl Connection {
    /// Nothing is dialled before somebody asks for it.
    pub(super) fn new(purpose: Purpose, dialer: Arc<dyn Dialer>, redial: &Arc<Redial>, tasks: Tasks) -> Arc<Self> {
        let (state, changed) = (Mutex::new(State::Down(None)), Notify::new());
        let hang_up = CancellationToken::new();
        let redial = Arc::clone(redial);
        Arc::new(Self { purpose, dialer, redial, tasks, state, changed, started: Mutex::new(false), hang_up })
    }

    fn start(self: &Arc<Self>) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *started, true) {
            let this = Arc::clone(self);
            self.tasks.spawn(async move { this.supervise().await });
        }
    }

    pub(super) fn is_started(&self) -> bool {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living connection, however long that takes; `None` when there will be none.
    pub(super) async fn up(self: &Arc<Self>) -> Option<Arc<Up>> {
        self.start();
        let is_decided = |state: &State| match state {
            State::Down(_) => false,
            State::Up(up) => !up.given_up.is_cancelled(),
            State::Closed => true,
        };
        match self.wait_for(is_decided).await {
            State::Up(up) => Some(up),
            _ => None,
        }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_waiters();
    }

    async fn wait_for(&self, wanted: impl Fn(&State) -> bool) -> State {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            changed.await;
        }
    }

    /// The living connection, or why there is none at `deadline`.
    pub(super) async fn up_until(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Up>, LinkError> {
        match timeout_at(deadline, self.up()).await {
            Ok(Some(up)) => Ok(up),
            Ok(None) => Err(closed()),
            Err(_) => Err(self.error().unwrap_or_else(|| LinkError::no_answer("connecting"))),
        }
    }

    /// Why there is no connection, if there is none and a try has failed.
    pub(super) fn error(&self) -> Option<LinkError> {
        match self.state() {
            State::Down(error) => error,
            State::Up(_) => None,
            State::Closed => Some(closed()),
        }
    }

    /// Resolves with the next failed try; at once where the last one failed.
    pub(super) async fn next_error(&self) -> LinkError {
        match self.wait_for(|state| matches!(state, State::Down(Some(_)) | State::Closed)).await {
            State::Down(Some(error)) => error,
            _ => closed(),
        }
    }

    pub(super) fn blocked(&self) -> Option<String> {
        match self.state() {
            State::Up(up) => up.link.blocked(),
            _ => None,
        }
    }

    /// Ends the connection, for good.
    pub(super) fn hang_up(&self) {
        self.hang_up.cancel();
        if !self.is_started() {
            self.set(State::Closed);
        }
    }

    async fn supervise(&self) {
        let mut pause = Duration::ZERO;
        let mut epoch = 0;
        while let Some(link) = self.unless_let_go(self.dial()).await {
            epoch += 1;
            let began = monotonic_now();
            let error = self.watch(link, epoch).await;
            if self.hang_up.is_cancelled() {
                break;
            }
            if began.elapsed() >= GOOD_AFTER {
                pause = Duration::ZERO;
            }
            let longest = match self.purpose {
                // It ends by the addresses of strangers, and others wait behind them.
                Purpose::Reply => PAUSE.0,
                _ => PAUSE.1,
            };
            pause = (pause * 2).clamp(PAUSE.0, longest);
            // Between half and all of it: workers that lost one server do not come back as one.
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tracing::warn!(target: TARGET, connection = %self.purpose, %error, pause = ?jittered, "the connection to RabbitMQ is gone; making it anew");
            if self.unless_let_go(sleep(jittered)).await.is_none() {
                break;
            }
        }
        self.set(State::Closed);
    }

    /// What `work` gives; `None` where the connection is let go of meanwhile.
    async fn unless_let_go<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.hang_up.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Dials until the server is reached.
    async fn dial(&self) -> Box<dyn Link> {
        let mut turn = None;
        let mut is_first = true;
        loop {
            let times_reached = self.redial.times_reached();
            let error = match self.dialer.dial(self.purpose).await {
                Ok(link) => {
                    self.redial.succeeded();
                    return link;
                }
                Err(error) => error,
            };
            // Before the next one has its turn: it must not dial without a pause.
            let failed = self.redial.failed(matches!(error.kind, LinkErrorKind::Refused | LinkErrorKind::Hopeless));
            drop(turn);
            if std::mem::take(&mut is_first) || failed.is_due {
                let (attempts, away) = (failed.attempts, failed.away);
                tracing::warn!(target: TARGET, connection = %self.purpose, %error, attempts, ?away, "no connection to RabbitMQ; trying again");
            }
            self.set(State::Down(Some(error)));
            turn = self.redial.turn(times_reached).await;
        }
    }

    /// Lets others use the connection until it is gone; why it went.
    async fn watch(&self, link: Box<dyn Link>, epoch: u64) -> LinkError {
        let up = Arc::new(Up::new(link));
        if epoch > 1 {
            metrics::counter!(RECONNECTS).increment(1);
            tracing::info!(target: TARGET, connection = %self.purpose, epoch, "connected to RabbitMQ again");
        }
        self.set(State::Up(Arc::clone(&up)));
        let error = tokio::select! {
            biased;
            error = up.link.gone() => error,
            () = self.hang_up.cancelled() => {
                up.link.close().await;
                closed()
            }
            () = up.given_up.cancelled() => LinkError::new(LinkErrorKind::Gone, SILENT),
        };
        self.set(State::Down(Some(error.clone())));
        up.lost.cancel();
        if up.given_up.is_cancelled() {
            up.link.close().await;
        }
        error
    }
}

pub(super) fn closed() -> LinkError {
    LinkError::new(LinkErrorKind::Gone, "the broker is closed")
}
