//! How far long work has come: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::Instant;

use crate::{cli::out::say, time::monotonic_now};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how many jobs are done. Gone from the terminal when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    /// `replayed`, say.
    done_word: &'static str,
    bar: ProgressBar,
    terminal: bool,
    last_line: Instant,
}

impl Progress {
    /// Begins; `total` where it is known.
    pub(super) fn new(done_word: &'static str, total: Option<u64>) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = match total {
            Some(_) => "{prefix} {bar:30} {pos}/{len}  {rate}/s  ETA {eta}",
            None => "{prefix} {pos}  {rate}/s",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, target);
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            write!(text, "{:.0}", state.per_sec()).unwrap_or_default()
        };
        bar.set_style(style.progress_chars("━╸ ").with_key("rate", rate));
        bar.set_prefix(done_word);
        Self { done_word, bar, terminal, last_line: monotonic_now() }
    }

    /// `jobs` more are done.
    pub(super) fn advance(&mut self, jobs: u64) {
        self.bar.inc(jobs);
        if !self.terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = monotonic_now();
            let done = self.bar.position();
            match self.bar.length() {
                Some(total) => say(format_args!("{} {done} of {total}", self.done_word)),
                None => say(format_args!("{} {done}", self.done_word)),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
