//! What is printed: data on standard output, everything else on standard error.
//!
//! Text from a job (its error, its headers, its payload) was written by
//! somebody else, so no control character of it reaches the terminal.

use std::{
    borrow::Cow,
    fmt::Arguments,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde::Serialize;

use crate::cli::{fail::Fail, table::Table};

/// Standard output, and what it is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    terminal: bool,
}

impl Out {
    /// As this process was started.
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal() }
    }

    /// Whether a person reads it.
    pub(super) const fn is_terminal(self) -> bool {
        self.terminal
    }

    /// Prints `text`, which must end with a line's end.
    pub(super) fn text(self, text: &str) -> Result<(), Fail> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Prints a table: aligned on a terminal, tab-separated in a pipe.
    pub(super) fn table(self, table: &Table) -> Result<(), Fail> {
        match self.terminal {
            true if table.is_empty() => Ok(()),
            true => self.text(&self.laid_out(table)),
            false => self.text(&table.separated()),
        }
    }

    /// A table as a terminal shows it.
    pub(super) fn laid_out(self, table: &Table) -> String {
        table.aligned(width(), wants_style())
    }

    /// Prints one JSON document.
    pub(super) fn json(self, document: &impl Serialize) -> Result<(), Fail> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Fail::new(super::exit::FAILURE, format_args!("cannot be written as JSON: {error}")))?;
        self.text(&format!("{}\n", escape_json(&text)))
    }

    /// Prints one line of JSON.
    pub(super) fn json_line(self, document: &impl Serialize) -> Result<(), Fail> {
        let text = serde_json::to_string(document)
            .map_err(|error| Fail::new(super::exit::FAILURE, format_args!("cannot be written as JSON: {error}")))?;
        self.text(&format!("{}\n", escape_json(&text)))
    }
}

/// Prints a message. When nobody can read it, there is nobody to tell.
pub(super) fn say(message: Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{message}"));
}

/// Prints what to do next, for a person at a terminal.
pub(super) fn hint(message: Arguments<'_>) {
    if io::stderr().is_terminal() {
        say(format_args!("{} {message}", bold("hint:")));
    }
}

/// `word` as a terminal on standard error shows it best.
pub(super) fn bold(word: &str) -> Cow<'_, str> {
    if io::stderr().is_terminal() && wants_style() { format!("\u{1b}[1m{word}\u{1b}[0m").into() } else { word.into() }
}

/// The width of the terminal on standard output.
fn width() -> Option<u16> {
    comfy_table::Table::new().width().filter(|width| *width > 0)
}

/// Whether output may be bold or coloured: <https://no-color.org>.
pub(super) fn wants_style() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a terminal would act on this character instead of showing it.
fn is_unprintable(c: char) -> bool {
    // C0, DEL and C1; line and paragraph separator; what changes the direction of what follows.
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` on one line, without anything that a terminal would act on.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    escape_but(text, |_| false)
}

/// `text` on its lines, otherwise as [`escape`].
pub(super) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_but(text, |c| c == '\n')
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let must_go = |c: char| is_unprintable(c) && !keep(c);
    if !text.contains(must_go) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if must_go(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped.into()
}

/// JSON that means the same and that a terminal does not act on.
///
/// Outside of strings JSON is ASCII, and inside of them serde_json has escaped
/// what is below U+0020; what is left to escape stands in a string.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    let must_go = |c: char| c != '\n' && is_unprintable(c);
    if !json.contains(must_go) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if must_go(c) { escaped.push_str(&format!("\\u{:04x}", u32::from(c))) } else { escaped.push(c) }
    }
    escaped.into()
}

/// The first `chars` characters, with `…` where something was cut off.
pub(super) fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => text.into(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect::<String>().into(),
    }
}

/// How long ago, in the largest unit: `12s`, `3m`, `5h`, `9d`.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `1 job`, `2 jobs`.
pub(super) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_of_a_job_reaches_the_terminal() {
        assert_eq!(escape("a\u{1b}[2Jb\n\t\u{9b}c\u{202e}d"), "a\\u{1b}[2Jb\\n\\t\\u{9b}c\\u{202e}d");
        assert_eq!(escape_lines("a\nb\r"), "a\nb\\r");
        assert!(matches!(escape("größer ✓"), Cow::Borrowed("größer ✓")));
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"text": "a\u{9b}b\u{202e}c\u{7f}\u{1b}"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escape_json(&text);
        assert!(!escaped.chars().any(|c| c != '\n' && is_unprintable(c)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let told = [59, 60, 7_200, 172_799, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(told, ["59s", "1m", "2h", "47h", "2d"]);
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "grö…");
    }
}
