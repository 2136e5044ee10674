//! A beat that also comes where a job keeps the thread that the runtime's timers depend on.
//!
//! A multi-threaded runtime of tokio has its timers looked after by whichever of its threads was idle last. Where that
//! one is given a task that keeps it, no timer of the runtime is due until another thread has something to do
//! (<https://github.com/tokio-rs/tokio/issues/4730>). A thread that sleeps does not depend on it, and wakes one of them.
//! It is one of its own, since plain functions among the jobs may take all of the blocking pool.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::telemetry::TARGET;

/// Beats, while somebody waits for one.
pub(super) struct Ticker {
    every: Duration,
    by: By,
}

enum By {
    /// Where the runtime has one thread: if that is kept, nobody could act on the beat.
    Timer(Interval),
    /// Made when it is first needed; its thread ends with it.
    Thread(Option<Sleeper>),
}

/// A thread that sleeps when it is asked to.
struct Sleeper {
    asked: SyncSender<()>,
    woke: Arc<Notify>,
    /// Asked already, and not heard.
    is_asleep: bool,
}

impl Ticker {
    /// On this runtime, which whoever waits for the beat is on.
    pub(super) fn new(every: Duration) -> Self {
        let is_single = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        Self { every, by: if is_single { By::Timer(timer(every)) } else { By::Thread(None) } }
    }

    /// Resolves when it is so long since the last time, or longer where nobody waited for it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn tick(&mut self) {
        let every = self.every;
        if let By::Thread(none @ None) = &mut self.by {
            match Sleeper::start(every) {
                Ok(sleeper) => *none = Some(sleeper),
                Err(error) => {
                    tracing::warn!(target: TARGET, %error, "there is no thread to look after jobs that keep theirs; a timer does");
                    self.by = By::Timer(timer(every));
                }
            }
        }
        match &mut self.by {
            By::Timer(timer) => {
                timer.tick().await;
            }
            By::Thread(sleeper) => {
                if let Some(sleeper) = sleeper {
                    sleeper.sleep().await;
                }
            }
        }
    }
}

fn timer(every: Duration) -> Interval {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

impl Sleeper {
    fn start(every: Duration) -> io::Result<Self> {
        let (asked, ask) = sync_channel(1);
        let woke = Arc::new(Notify::new());
        let tell = Arc::clone(&woke);
        let run = move || {
            for () in ask {
                sleep(every);
                tell.notify_one();
            }
        };
        thread::Builder::new().name("worker-ticker".into()).spawn(run)?;
        Ok(Self { asked, woke, is_asleep: false })
    }

    async fn sleep(&mut self) {
        if !self.is_asleep {
            // There is room: it was heard of all that it was asked.
            self.is_asleep = self.asked.try_send(()).is_ok();
        }
        self.woke.notified().await;
        self.is_asleep = false;
    }
}

#[expect(clippy::disallowed_methods, reason = "the beat is the condition")]
fn sleep(every: Duration) {
    thread::sleep(every);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;
    use crate::time::monotonic_now;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_comes_though_every_thread_of_the_runtime_is_kept() {
        let (kept, keeps) = sync_channel(1);
        let (free, freed) = sync_channel::<()>(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            kept.send(()).unwrap();
            freed.recv().unwrap_err();
        });
        keeps.recv().unwrap();
        let mut ticker = Ticker::new(Duration::from_millis(1));
        ticker.tick().await;
        // Whoever gives up waiting for it has not used it up.
        assert!(ticker.tick().now_or_never().is_none());
        ticker.tick().await;
        drop(free);
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_single_thread_it_comes_by_the_clock_of_the_runtime() {
        let mut ticker = Ticker::new(Duration::from_secs(3_600));
        ticker.tick().await;
        let before = monotonic_now();
        ticker.tick().await;
        assert_eq!(before.elapsed(), Duration::from_secs(3_600));
    }
}
