//! What systemd is told about `run`, in the protocol of `sd_notify(3)`.
//!
//! Every message is preceded by an answer of the worker's event loop: a loop
//! that hangs gets neither a sign of life nor more time. Where nobody asks, by
//! `NOTIFY_SOCKET`, nothing runs.

use std::{env, mem, time::Duration};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    telemetry::TARGET,
    time::monotonic_now,
    worker::{WorkerPhase, WorkerStatus},
};

/// Where systemd listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How often more time is asked for, while the worker starts or drains.
const MORE_TIME_EVERY: Duration = Duration::from_secs(5);

/// How much: two messages that come late cost nothing.
const MORE_TIME: Duration = Duration::from_secs(15);

/// How often the status line may change: it is for people.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Characters of the status line; the log has the whole of an error.
const STATUS_MAX: usize = 300;

/// How long the event loop may take to answer before a warning says so.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the end may wait for its last message to be sent.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

/// Talks to systemd beside the worker. Dropping it ends the talk.
#[derive(Debug)]
pub(super) struct Notifier {
    talking: JoinSet<()>,
}

impl Notifier {
    /// Begins to tell how the worker of `status` is, if systemd has asked for it.
    pub(super) fn start(status: WorkerStatus) -> Self {
        let mut talking = JoinSet::new();
        if env::var_os(SOCKET).is_some() {
            // A task of its own: then each message also shows that the runtime still runs tasks.
            talking.spawn(talk(status, watchdog_enabled().filter(|limit| !limit.is_zero())));
        }
        Self { talking }
    }

    /// Waits until systemd knows of the end. Called when the worker has stopped.
    pub(super) async fn end(mut self) {
        // Somebody who does not listen is not waited for.
        drop(timeout(LAST_WORD_MAX, self.talking.join_next()).await);
    }
}

/// Tells until the worker has stopped; `watchdog` is the longest silence that is allowed.
async fn talk(status: WorkerStatus, watchdog: Option<Duration>) {
    let mut said = Said::nothing(watchdog, monotonic_now());
    let (mut stalled, mut deaf) = (false, false);
    loop {
        let phase = status.phase();
        tokio::select! {
            () = sleep_until(said.next_due()) => {}
            () = status.reached(later(phase)), if phase != WorkerPhase::Stopped => {}
        }
        while let Err(error) = status.progress(ANSWER_WITHIN).await {
            if !mem::replace(&mut stalled, true) {
                tracing::error!(target: TARGET, %error, "systemd is told nothing until it turns again");
            }
        }
        stalled = false;
        let phase = status.phase();
        let due = said.due(monotonic_now(), phase, status.has_served(), status_line(&status));
        if !due.is_empty()
            && let Err(error) = notify(&due)
            && !mem::replace(&mut deaf, true)
        {
            let socket = env::var_os(SOCKET).unwrap_or_default();
            tracing::warn!(target: TARGET, %error, ?socket, "systemd cannot be told how the worker is");
        }
        if phase == WorkerPhase::Stopped {
            return;
        }
    }
}

/// The next step in a worker's life.
const fn later(phase: WorkerPhase) -> WorkerPhase {
    match phase {
        WorkerPhase::Starting => WorkerPhase::Serving,
        WorkerPhase::Serving => WorkerPhase::Draining,
        WorkerPhase::Draining | WorkerPhase::Stopped => WorkerPhase::Stopped,
    }
}

/// What systemd knows already, and when the next is due.
#[derive(Debug)]
struct Said {
    ready: bool,
    stopping: bool,
    status: String,
    /// Half of the longest silence.
    sign_every: Option<Duration>,
    sign_due: Instant,
    status_due: Instant,
    more_time_due: Instant,
}

impl Said {
    fn nothing(watchdog: Option<Duration>, now: Instant) -> Self {
        Self {
            ready: false,
            stopping: false,
            status: String::new(),
            sign_every: watchdog.map(|limit| limit / 2),
            sign_due: now,
            status_due: now,
            more_time_due: now,
        }
    }

    fn next_due(&self) -> Instant {
        match self.sign_every {
            Some(_) if self.ready => self.sign_due.min(self.status_due),
            _ => self.status_due,
        }
    }

    /// What is due of a worker that is alive, for one message.
    fn due(&mut self, now: Instant, phase: WorkerPhase, has_served: bool, status: String) -> Vec<NotifyState<'_>> {
        let mut due = Vec::new();
        if has_served && !self.ready {
            self.ready = true;
            due.push(NotifyState::Ready);
        }
        if phase >= WorkerPhase::Draining && !self.stopping {
            self.stopping = true;
            self.more_time_due = now;
            due.push(NotifyState::Stopping);
        }
        let is_step = !due.is_empty() || phase == WorkerPhase::Stopped;
        if phase != WorkerPhase::Serving && now >= self.more_time_due {
            self.more_time_due = now + MORE_TIME_EVERY;
            due.push(NotifyState::ExtendTimeoutUsec(u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX)));
        }
        // systemd watches from READY=1 on.
        if let Some(every) = self.sign_every
            && self.ready
            && now >= self.sign_due
        {
            self.sign_due = now + every;
            due.push(NotifyState::Watchdog);
        }
        if is_step || now >= self.status_due {
            self.status_due = now + STATUS_EVERY;
            if self.status != status {
                self.status = status;
                due.push(NotifyState::Status(&self.status));
            }
        }
        due
    }
}

/// What the worker does, in one line.
fn status_line(status: &WorkerStatus) -> String {
    let (running, settled) = (status.running(), status.settled());
    let mut line = match status.phase() {
        WorkerPhase::Stopped => "stopped".into(),
        WorkerPhase::Draining => format!("draining: {running} jobs may finish, {settled} settled"),
        WorkerPhase::Starting | WorkerPhase::Serving => {
            format!("{running} of {} slots at work, {settled} settled", status.slots()) + &problems(status)
        }
    };
    // A line end would begin another message: what a broker says is not trusted that far.
    line = line.chars().take(STATUS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line
}

/// The first problem and how many others there are, beside the phase itself.
fn problems(status: &WorkerStatus) -> String {
    let checks = status.checks();
    let mut problems = checks.iter().filter(|check| check.name != "serving").filter_map(|check| {
        let problem = check.problem.as_ref()?;
        Some(format!("; {}: {problem}", check.name))
    });
    let first = problems.next().unwrap_or_default();
    match problems.count() {
        0 => first,
        more => format!("{first} (and {more} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after so many milliseconds, one line for each.
    fn said(said: &mut Said, begin: Instant, ms: u64, phase: WorkerPhase, status: &str) -> Vec<String> {
        let now = begin + Duration::from_millis(ms);
        let has_served = phase >= WorkerPhase::Serving;
        said.due(now, phase, has_served, status.into()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn more_time_is_asked_for_while_it_starts_and_drains_and_not_in_between() {
        let begin = monotonic_now();
        let mut state = Said::nothing(None, begin);
        let mut say = |ms, phase| said(&mut state, begin, ms, phase, "s");
        let more = "EXTEND_TIMEOUT_USEC=15000000";
        assert_eq!(say(0, WorkerPhase::Starting), [more, "STATUS=s"]);
        assert_eq!(say(4_999, WorkerPhase::Starting), [""; 0]);
        assert_eq!(say(5_000, WorkerPhase::Starting), [more]);
        assert_eq!(say(6_000, WorkerPhase::Serving), ["READY=1"]);
        assert_eq!(say(60_000, WorkerPhase::Serving), [""; 0]);
        assert_eq!(say(60_001, WorkerPhase::Draining), ["STOPPING=1", more]);
        assert_eq!(say(65_001, WorkerPhase::Draining), [more]);
        assert_eq!(say(65_002, WorkerPhase::Stopped), [""; 0], "and no more after the end");
    }

    #[test]
    fn a_sign_of_life_comes_at_half_of_the_longest_silence_once_it_is_ready() {
        let begin = monotonic_now();
        let mut state = Said::nothing(Some(Duration::from_secs(1)), begin);
        let mut say = |ms, phase| said(&mut state, begin, ms, phase, "");
        assert!(!say(0, WorkerPhase::Starting).contains(&"WATCHDOG=1".into()));
        assert_eq!(say(700, WorkerPhase::Serving), ["READY=1", "WATCHDOG=1"]);
        assert_eq!(say(1_199, WorkerPhase::Serving), [""; 0]);
        assert_eq!(say(1_200, WorkerPhase::Serving), ["WATCHDOG=1"]);
        assert_eq!(state.next_due(), begin + Duration::from_millis(1_700));
    }

    #[test]
    fn the_status_changes_once_a_second_but_at_once_with_a_step() {
        let begin = monotonic_now();
        let mut state = Said::nothing(None, begin);
        let serving = WorkerPhase::Serving;
        assert_eq!(said(&mut state, begin, 0, serving, "a"), ["READY=1", "STATUS=a"]);
        assert_eq!(said(&mut state, begin, 999, serving, "b"), [""; 0]);
        assert_eq!(said(&mut state, begin, 1_000, serving, "b"), ["STATUS=b"]);
        let last = said(&mut state, begin, 1_001, WorkerPhase::Stopped, "stopped");
        assert_eq!(last, ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000", "STATUS=stopped"]);
    }
}
