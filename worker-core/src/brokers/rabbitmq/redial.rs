//! When a server that cannot be reached is dialled again: by one connection of a process at a time, which tells the
//! others when it gets through.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

use crate::time::monotonic_now;

/// The first pause, and the longest in the first moments. A server that restarts is found within half a second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));

/// The longest after those moments: with it, a minute without a server costs at most 40 connections.
const PAUSE_LATER: Duration = Duration::from_secs(5);

/// How long the first moments are: a restart takes 5 to 8 s.
const LATER: Duration = Duration::from_secs(10);

/// The same where the server said no: it must not lock the account, and a person must act.
const PAUSE_REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often it is said that there still is no server.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What the connections of one process know of their server.
pub(super) struct Redial {
    /// One: whoever has it may dial.
    turn: Semaphore,
    state: Mutex<State>,
    /// Wakes all in the order in which they came, as a simulation needs it.
    reached: Notify,
}

#[derive(Default)]
struct State {
    /// Counts the times that somebody got through.
    reached: u64,
    away: Option<Away>,
}

/// A server that cannot be reached.
struct Away {
    since: Instant,
    pause: Duration,
    attempts: u32,
    said: Instant,
}

/// What is known after a failure.
pub(super) struct Failed {
    /// Whether it is time to say so again.
    pub(super) is_due: bool,
    /// How often it was tried since the server is away.
    pub(super) attempts: u32,
    /// For how long it is.
    pub(super) away: Duration,
}

impl Redial {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), state: Mutex::default(), reached: Notify::new() }
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often somebody got through; to be asked before dialling.
    pub(super) fn times_reached(&self) -> u64 {
        self.state(|state| state.reached)
    }

    /// Somebody got through.
    pub(super) fn succeeded(&self) {
        self.state(|state| {
            state.reached += 1;
            state.away = None;
        });
        self.reached.notify_waiters();
    }

    /// A dial failed; `refused` says that the server was there and said no.
    pub(super) fn failed(&self, refused: bool) -> Failed {
        let now = monotonic_now();
        self.state(|state| {
            let away = state.away.get_or_insert(Away { since: now, pause: Duration::ZERO, attempts: 0, said: now });
            let lasts = now - away.since;
            let (shortest, longest) = match (refused, lasts < LATER) {
                (true, _) => PAUSE_REFUSED,
                (false, true) => PAUSE,
                (false, false) => (PAUSE.0, PAUSE_LATER),
            };
            away.pause = (away.pause * 2).clamp(shortest, longest);
            away.attempts += 1;
            let is_due = now - away.said >= SAY_EVERY;
            if is_due {
                away.said = now;
            }
            Failed { is_due, attempts: away.attempts, away: lasts }
        })
    }

    /// After a failure: waits until somebody else has got through, or until it is this connection's turn to dial once
    /// more; what it gets then it keeps while it does. `times_reached` was true before it dialled last.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the turn goes to another.
    pub(super) async fn turn(&self, times_reached: u64) -> Option<SemaphorePermit<'_>> {
        let mut somebody = pin!(self.after(times_reached));
        let turn = tokio::select! {
            biased;
            () = &mut somebody => return None,
            turn = self.turn.acquire() => turn.ok()?,
        };
        tokio::select! {
            biased;
            () = somebody => None,
            () = sleep(self.pause()) => Some(turn),
        }
    }

    /// Between half and all of the pause: workers that lost one server do not come back as one.
    fn pause(&self) -> Duration {
        let pause = self.state(|state| state.away.as_ref().map_or(PAUSE.0, |away| away.pause));
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    async fn after(&self, times_reached: u64) {
        loop {
            let mut reached = pin!(self.reached.notified());
            // From here on no call is missed.
            reached.as_mut().enable();
            if self.times_reached() > times_reached {
                return;
            }
            reached.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    /// How often `connections` dial within `lasts` a server that is never there.
    async fn dials(connections: u32, lasts: Duration, refused: bool) -> u32 {
        let redial = Arc::new(Redial::new());
        let dialled = Arc::new(Mutex::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (redial, dialled) = (Arc::clone(&redial), Arc::clone(&dialled));
            tasks.spawn(async move {
                loop {
                    let before = redial.times_reached();
                    *dialled.lock().unwrap() += 1;
                    redial.failed(refused);
                    drop(redial.turn(before).await);
                }
            });
        }
        sleep(lasts).await;
        tasks.shutdown().await;
        let dialled = dialled.lock().unwrap();
        *dialled
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_without_a_server_costs_at_most_forty_dials_however_many_connections_there_are() {
        for connections in [1, 4] {
            let dials = dials(connections, Duration::from_secs(60), false).await;
            assert!((15..=40).contains(&dials), "{connections} connections: {dials}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_dials_ever_less_often() {
        let dials = dials(3, Duration::from_secs(3_600), true).await;
        assert!((60..=140).contains(&dials), "{dials}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_restarts_is_found_within_a_second() {
        let redial = Redial::new();
        for _ in 0..30 {
            redial.failed(false);
        }
        let began = monotonic_now();
        assert!(redial.turn(0).await.is_some());
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gets_through_calls_all_others_at_once() {
        let redial = Arc::new(Redial::new());
        redial.failed(true);
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            let redial = Arc::clone(&redial);
            tasks.spawn(async move { redial.turn(0).await.is_some() });
        }
        // All wait, one of them with the turn.
        timeout(Duration::from_millis(1), tasks.join_next()).await.unwrap_err();
        let called = monotonic_now();
        redial.succeeded();
        let had_turns = tasks.join_all().await;
        assert_eq!((had_turns, called.elapsed()), (vec![false; 3], Duration::ZERO));
        // A success that came while one dialled counts too.
        assert!(redial.turn(0).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_server_is_said_now_and_then() {
        let redial = Redial::new();
        let mut said = 0;
        for _ in 0..120 {
            said += u32::from(redial.failed(false).is_due);
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(said, 5, "in a minute, beside what each connection says at first");
    }
}
