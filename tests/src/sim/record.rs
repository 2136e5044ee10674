//! What happened in a simulated world, line by line.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{fault::Fault, sim::clock::WorldClock};
use worker_core::{DrainReport, settlement::Settlement};

/// One line of the record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) at: Duration,
    /// The worker process it happened in; 0 for the producer.
    pub(super) process: u64,
    pub(super) what: What,
}

impl Entry {
    const fn subscription_end(&self) -> Option<u64> {
        if let What::Unsubscribed { subscription } = self.what { Some(subscription) } else { None }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} s  process {:<3} {:?}", self.at.as_secs_f64(), self.process, self.what)
    }
}

/// A delivery as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) tag: u64,
    pub(super) job: String,
    pub(super) attempt: u32,
    pub(super) starts: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// A job is durable.
    Stored { job: String, due_in: Duration },
    /// The producer was told that a job is durable.
    Acknowledged { job: String },
    /// A worker began, with these slots and this prefetch for each queue.
    Started { slots: usize, prefetch: usize },
    /// A subscription began.
    Subscribed { subscription: u64, queue: String },
    /// The last half of a subscription is about to be dropped.
    Unsubscribed { subscription: u64 },
    /// The broker handed out a delivery.
    Delivered { subscription: u64, handed: Handed },
    /// The broker was told that it starts.
    Began { handed: Handed },
    /// A handler runs.
    Ran { job: String, attempt: u32 },
    /// It came to its end: by itself, or it was dropped.
    Returned { job: String, attempt: u32, itself: bool },
    /// The broker made a settlement true.
    Settled { handed: Handed, settlement: Settlement },
    /// A settlement came too late.
    TooLate { handed: Handed },
    /// The script let something fail.
    Failed { call: &'static str, fault: Fault },
    /// Something was done to the server, or to the way there.
    Trouble { what: &'static str },
    /// A wall clock was set, which shows so much more than the time now.
    ClockSet { off_ms: i64, by_ms: i64 },
    /// The process died.
    Crashed,
    /// The process was silent for longer than others wait.
    Lapsed,
    /// The worker was asked to end, or its future was dropped.
    Asked { to: &'static str },
    /// The worker ended.
    Ended { report: Result<DrainReport, String> },
    /// From here on nothing fails any more.
    Healed,
}

/// All kinds of lines on the memory broker.
pub(super) const KINDS: [&str; 20] = [
    "acknowledged",
    "asked",
    "began",
    "cancelled",
    "clock set",
    "crashed",
    "delivered",
    "ended",
    "failed",
    "gave up",
    "healed",
    "too late",
    "lapsed",
    "ran",
    "returned",
    "settled",
    "started",
    "stored",
    "subscribed",
    "unsubscribed",
];

impl What {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Stored { .. } => "stored",
            Self::Acknowledged { .. } => "acknowledged",
            Self::Started { .. } => "started",
            Self::Subscribed { .. } => "subscribed",
            Self::Unsubscribed { .. } => "unsubscribed",
            Self::Delivered { .. } => "delivered",
            Self::Began { .. } => "began",
            Self::Ran { .. } => "ran",
            Self::Returned { itself: true, .. } => "returned",
            Self::Returned { itself: false, .. } => "cancelled",
            Self::Settled { .. } => "settled",
            Self::TooLate { .. } => "too late",
            Self::Failed { .. } => "failed",
            Self::Trouble { what } => what,
            Self::ClockSet { .. } => "clock set",
            Self::Crashed => "crashed",
            Self::Lapsed => "lapsed",
            Self::Asked { .. } => "asked",
            Self::Ended { report: Ok(_) } => "ended",
            Self::Ended { report: Err(_) } => "gave up",
            Self::Healed => "healed",
        }
    }
}

/// The record while it is written.
#[derive(Debug)]
pub(super) struct Record {
    clock: WorldClock,
    entries: Mutex<Vec<Entry>>,
    last: AtomicU64,
}

impl Record {
    pub(super) fn new(clock: WorldClock) -> Self {
        Self { clock, entries: Mutex::default(), last: AtomicU64::new(0) }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(super) fn write(&self, process: u64, what: What) {
        self.entries.lock().unwrap().push(Entry { at: self.now(), process, what });
    }

    /// A number that was not given before.
    pub(super) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries = self.entries.lock().unwrap().clone();
        // A worker whose future is dropped lets go of its deliveries in the order of a
        // hash map. Nothing can happen in between, so one order stands for all.
        for ends in
            entries.chunk_by_mut(|one, next| one.subscription_end().is_some() && next.subscription_end().is_some())
        {
            ends.sort_by_key(Entry::subscription_end);
        }
        entries
    }
}
