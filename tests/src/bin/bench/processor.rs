//! What a process takes: its processor time and its memory, from `/proc` (proc(5)).

use std::{fs, time::Duration};

/// The kernel counts in these; `USER_HZ` is 100 on every machine that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// The processor time of a process so far, that of its threads which have ended included; exact to 20 ms.
pub(crate) fn time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field, the program's name, may have spaces.
    let fields = stat.rsplit_once(')').unwrap().1;
    let ticks: u32 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    TICK * ticks
}

/// The processor time of a process's living threads so far, exact to the nanosecond.
pub(crate) fn time_of_threads(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = threads.map(|thread| {
        let text = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// What a process has in memory now, in megabytes (10^6 bytes).
pub(crate) fn memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024.0 / 1e6
}
