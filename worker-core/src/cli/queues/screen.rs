//! A table that is shown again and again: in place on a terminal, one below the other elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Document, table};
use crate::cli::{fail::Fail, out::Out};

/// Where the table is shown again and again.
pub(super) enum Screen {
    /// In place.
    Terminal(Out, ProgressBar),
    /// One block after the other, an empty line between them.
    Blocks(Out, bool),
    /// A line of JSON each.
    Lines(Out),
}

impl Screen {
    pub(super) fn new(out: Out, json: bool) -> Self {
        match (json, out.is_terminal()) {
            (true, _) => Self::Lines(out),
            (false, false) => Self::Blocks(out, true),
            (false, true) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
                let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
                bar.set_style(style);
                Self::Terminal(out, bar)
            }
        }
    }

    pub(super) fn show(&mut self, document: &Document) -> Result<(), Fail> {
        let table = table(document);
        match self {
            Self::Lines(out) => out.json_line(document),
            Self::Blocks(out, first) => {
                let gap = if std::mem::take(first) { "" } else { "\n" };
                out.text(&format!("{gap}{}{}", table.separated(), document.below()))
            }
            Self::Terminal(out, bar) => {
                let dead: u64 = document.queues.iter().map(|row| row.total.dead).sum();
                let line = format!("{}  {} dead  Ctrl-C ends", document.at_ms, dead);
                bar.set_message(format!("{}{}{line}", out.laid_out(&table), document.below()));
                Ok(())
            }
        }
    }

    /// The broker could not be asked this time.
    pub(super) fn fail(&self, fail: &Fail) {
        // Its code is for who ends with it.
        let _code = match self {
            Self::Terminal(_, bar) => bar.suspend(|| fail.report()),
            Self::Blocks(..) | Self::Lines(_) => fail.report(),
        };
    }
}

impl Drop for Screen {
    /// The last one stays.
    fn drop(&mut self) {
        if let Self::Terminal(out, bar) = self {
            bar.abandon();
            // Whoever comes next begins on a line of its own.
            drop(out.text("\n"));
        }
    }
}
