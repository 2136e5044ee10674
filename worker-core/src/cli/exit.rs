//! What the process ends with, so that a script can tell what to do next.
//!
//! The numbers are those of BSD's `sysexits.h` where that has one.

/// Everything that was asked for is done. `run`: every job that ran could finish.
pub const OK: u8 = 0;
/// It failed, and no other code says it better.
pub const FAILURE: u8 = 1;
/// The command line is wrong: an unknown command, job or option.
pub const USAGE: u8 = 2;
/// What the program needs in its broker is missing, or cannot be used: `topology check`, `run --topology check`.
pub const TOPOLOGY: u8 = 3;
/// The payload of a job is wrong; nothing was enqueued.
pub const BAD_PAYLOAD: u8 = 65;
/// No dead job matched what was asked for, or not every id did.
pub const NOTHING_MATCHED: u8 = 66;
/// The broker cannot be reached, or is not there yet.
pub const UNAVAILABLE: u8 = 69;
/// Part of it is done: some jobs were enqueued, replayed or dropped and some
/// not. `run`: the grace period passed, and jobs were cancelled and given back.
pub const PARTIAL: u8 = 75;
/// The configuration is wrong, or does not fit the command.
pub const CONFIG: u8 = 78;

/// The same for `--help`.
pub(super) const HELP: &str = "\
Exit codes:
   0  done; run: every running job finished
   1  failed
   2  the command line is wrong
   3  a queue or exchange that the program needs is missing or different
  65  a payload is wrong, nothing was enqueued
  66  nothing matched
  69  the broker cannot be reached or used: its database is not there yet, or a
      queue that `run` needs is different
  75  done in part; run: jobs were cancelled at the deadline and given back
  78  the configuration is wrong";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_code() {
        for code in [OK, FAILURE, USAGE, TOPOLOGY, BAD_PAYLOAD, NOTHING_MATCHED, UNAVAILABLE, PARTIAL, CONFIG] {
            assert!(HELP.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}");
        }
    }
}
