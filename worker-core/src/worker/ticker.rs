//! A beat that also comes where a job keeps the thread that the runtime's timers depend on.
//!
//! A multi-threaded runtime of tokio has its timers looked after by whichever of its threads was idle last. Where that
//! one is given a task that keeps it, no timer of the runtime is due until another thread has something to do
//! (<https://github.com/tokio-rs/tokio/issues/4730>). A thread that sleeps does not depend on it, and wakes one of them.

use std::{thread, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval},
};

pub(super) struct Ticker {
    every: Duration,
    by: By,
}

enum By {
    /// The runtime has one thread: if that is kept, nobody could act on the beat.
    Timer(Interval),
    /// A thread that sleeps now.
    Thread(Option<JoinHandle<()>>),
}

impl Ticker {
    /// On this runtime, which whoever waits for the beat is on.
    pub(super) fn new(every: Duration) -> Self {
        let by = match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => {
                let mut timer = interval(every);
                timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
                By::Timer(timer)
            }
            _ => By::Thread(None),
        };
        Self { every, by }
    }

    /// Resolves when it is so long since the last time, or longer where nobody waited for it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn tick(&mut self) {
        let every = self.every;
        match &mut self.by {
            By::Timer(timer) => {
                timer.tick().await;
            }
            By::Thread(asleep) => {
                // It cannot panic; where it was cancelled, the runtime ends.
                drop(asleep.get_or_insert_with(|| spawn_blocking(move || sleep(every))).await);
                *asleep = None;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the beat is the condition")]
fn sleep(every: Duration) {
    thread::sleep(every);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;
    use crate::time::monotonic_now;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_comes_though_every_thread_of_the_runtime_is_kept() {
        let (kept, keeps) = mpsc::sync_channel(1);
        let (free, freed) = mpsc::sync_channel::<()>(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            kept.send(()).unwrap();
            freed.recv().unwrap_err();
        });
        keeps.recv().unwrap();
        let mut ticker = Ticker::new(Duration::from_millis(1));
        ticker.tick().await;
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
