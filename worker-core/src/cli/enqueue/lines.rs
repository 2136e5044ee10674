//! Reading payloads, one a line, with a bound on how long a line may be.

use std::io::{self, BufRead, Read as _};

/// One line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// 1 for the first of the file.
    pub(super) number: u64,
    /// Without the line's end; `Err` with its length where that is beyond the bound.
    pub(super) payload: Result<Vec<u8>, u64>,
}

/// Splits what `reader` gives into lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: io::BufReader<R>,
    number: u64,
    bytes_max: usize,
}

impl<R: io::Read> Lines<R> {
    /// Lines of at most `bytes_max` bytes; of a longer one, no more than that is kept in memory.
    pub(super) fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader: io::BufReader::new(reader), number: 0, bytes_max }
    }

    /// Whether the next line may have to be waited for.
    pub(super) fn may_wait(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut line = Vec::new();
            let limit = self.bytes_max as u64 + 2; // a line's end may have two bytes
            let mut length = self.reader.by_ref().take(limit).read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            if length == limit && !line.ends_with(b"\n") {
                length += skip_line(&mut self.reader)?;
            }
            let payload = line.trim_ascii();
            if payload.is_empty() {
                continue;
            }
            let payload =
                if length > limit || payload.len() > self.bytes_max { Err(length) } else { Ok(payload.to_vec()) };
            return Ok(Some(Line { number: self.number, payload }));
        }
    }
}

impl<R: io::Read> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

/// Passes over the rest of a line; its length.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (taken, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(taken);
        skipped += taken as u64;
        if ended {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, bytes_max: usize) -> Vec<(u64, Result<String, u64>)> {
        let line = |line: io::Result<Line>| {
            let Line { number, payload } = line.unwrap();
            (number, payload.map(|payload| String::from_utf8(payload).unwrap()))
        };
        Lines::new(text.as_bytes(), bytes_max).map(line).collect()
    }

    #[test]
    fn blank_lines_count_but_are_no_jobs() {
        let lines = read("{}\r\n\n  \n[1]", 100);
        assert_eq!(lines, [(1, Ok("{}".into())), (4, Ok("[1]".into()))]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over() {
        let lines = read("1234\n12345\n1234567890123\n1\n", 4);
        assert_eq!(lines, [(1, Ok("1234".into())), (2, Err(6)), (3, Err(14)), (4, Ok("1".into()))]);
        assert_eq!(read("12345678", 4), [(1, Err(8))]);
    }
}
