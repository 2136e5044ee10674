//! What came of many jobs: counted as the answers come, told at the end.

use std::{io, path::Path};

use super::{Answer, bulk::Order};
use crate::{
    cli::{
        exit,
        fail::Fail,
        out::{Out, count, escape, say},
        progress::Progress,
    },
    client::Enqueued,
    error::{EnqueueError, EnqueueErrorKind},
};

/// The most failures that are listed.
const LISTED_MAX: usize = 10;

/// Why no more lines were read.
pub(super) enum End {
    Over,
    Wrong(String),
    Unreadable(io::Error),
    Cancelled,
}

/// What was answered so far.
pub(super) struct Tally<'a> {
    order: &'a Order<'a>,
    out: Out,
    answers: bool,
    progress: Option<Progress>,
    durable: u64,
    unknown: u64,
    failed: u64,
    /// The line after which nothing is known to be durable.
    durable_up_to: u64,
    listed: Vec<String>,
    code: u8,
}

impl<'a> Tally<'a> {
    pub(super) fn new(order: &'a Order<'a>, out: Out, total: Option<u64>) -> Self {
        Self {
            order,
            out,
            answers: order.answers,
            progress: Some(Progress::new("enqueued", total)),
            durable: 0,
            unknown: 0,
            failed: 0,
            durable_up_to: 0,
            listed: Vec::new(),
            code: exit::OK,
        }
    }

    /// Counts an answer; whether it makes no sense to go on.
    pub(super) fn count(&mut self, line: u64, answer: Result<Enqueued, EnqueueError>) -> bool {
        let mut document = Answer {
            line: Some(line),
            job: self.order.entry.name.as_str(),
            queue: self.order.entry.queue.as_str(),
            id: None,
            error: None,
        };
        let mut stop = false;
        match answer {
            Ok(enqueued) => {
                self.durable += 1;
                if self.failed == 0 {
                    self.durable_up_to = line;
                }
                document.id = Some(enqueued.id.to_string());
                self.progress.iter_mut().for_each(|progress| progress.advance(1));
            }
            Err(error) => {
                self.failed += 1;
                self.unknown += u64::from(error.kind() == EnqueueErrorKind::Indeterminate);
                // What is wrong with one job says nothing about the next; a broker that fails does.
                stop = error.kind() != EnqueueErrorKind::Invalid;
                if self.listed.len() < LISTED_MAX {
                    self.listed.push(format!("line {line}: {error}"));
                }
                document.id = error.id().map(ToString::to_string);
                document.error = Some(error.to_string());
                if self.code == exit::OK {
                    self.code = Fail::from(error).code;
                }
            }
        }
        // The jobs are what was asked for; a reader of the answers may go away.
        if self.answers && self.out.json_line(&document).is_err() {
            self.answers = false;
        }
        stop
    }

    /// Says how it ended; the exit code.
    pub(super) fn report(mut self, end: End, asked: bool) -> Result<u8, Fail> {
        self.progress = None;
        let (entry, jobs) = (self.order.entry, count(self.durable, "job"));
        let mut code = self.code;
        for problem in &self.listed {
            say(format_args!("{problem}"));
        }
        if self.failed > self.listed.len() as u64 {
            say(format_args!("… and {} more", self.failed - self.listed.len() as u64));
        }
        match end {
            End::Over | End::Cancelled => {}
            End::Wrong(problem) => {
                say(format_args!("{problem}"));
                code = exit::BAD_PAYLOAD;
            }
            End::Unreadable(error) => {
                say(format_args!("the input cannot be read any further: {error}"));
                code = exit::FAILURE;
            }
        }
        if asked && code == exit::OK {
            code = exit::PARTIAL;
        }
        if code == exit::OK {
            say(format_args!("enqueued {jobs} `{}` on queue `{}`", entry.name, entry.queue));
            return Ok(code);
        }
        let unknown = match self.unknown {
            0 => String::new(),
            unknown => format!(", {} may or may not be", count(unknown, "more")),
        };
        say(format_args!("stopped: {jobs} enqueued{unknown}"));
        if self.durable_up_to > 0 && self.order.file != Path::new("-") {
            let (file, next) = (shell_word(&self.order.file.to_string_lossy()), self.durable_up_to + 1);
            let (name, job) = (self.order.name, &entry.name);
            say(format_args!(
                "to go on, with the same options: tail -n +{next} {file} | {name} enqueue {job} --file -"
            ));
        }
        Ok(if self.durable > 0 { exit::PARTIAL } else { code })
    }
}

/// `text` as a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", escape(text).replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_one_word_for_a_shell() {
        assert_eq!(shell_word("data/jobs-1.ndjson"), "data/jobs-1.ndjson");
        assert_eq!(shell_word("it's; rm"), "'it'\\''s; rm'");
    }
}
