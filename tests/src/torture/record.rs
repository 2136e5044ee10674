//! What a process did, in records of one size that survive its SIGKILL.
//!
//! A record is appended by one `write(2)`: the kernel has it whole or not at all, and keeps it whatever becomes of the
//! process. Of a loss of power it knows nothing: the kernel lives as long as the run.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// How long a record is, in bytes: what happened (1), nothing (3), the attempt (4), which job (8), when (8).
const BYTES: usize = 24;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A producer is about to enqueue the job, or to try once more.
    Tried = 1,
    /// It was told that the broker has it.
    Acknowledged,
    /// It was told that nobody knows.
    Unknown,
    /// It was told that the broker does not have it.
    NotTaken,
    /// A worker has begun to run it.
    Started,
    /// It is about to say that the job is done.
    Succeeded,
    /// It is about to say that the job failed.
    Failed,
    /// It counted a job that may run twice, by `worker_duplicates_suspected_total`.
    Suspected,
}

impl Event {
    const ALL: [Self; 8] = [
        Self::Tried,
        Self::Acknowledged,
        Self::Unknown,
        Self::NotTaken,
        Self::Started,
        Self::Succeeded,
        Self::Failed,
        Self::Suspected,
    ];
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// In which attempt at the job; 0 where that does not matter.
    pub attempt: u32,
    /// To which job; of [`Event::Suspected`], how many.
    pub n: u64,
    /// When, in microseconds since 1970.
    pub at: u64,
}

impl Record {
    /// Of now.
    #[must_use]
    pub fn now(event: Event, n: u64, attempt: u32) -> Self {
        Self { event, attempt, n, at: now() }
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = self.event as u8;
        bytes[4..8].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.n.to_le_bytes());
        bytes[16..].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> io::Result<Self> {
        let event = Event::ALL.into_iter().find(|event| *event as u8 == bytes[0]);
        let event = event.ok_or_else(|| io::Error::other(format!("no event has the number {}", bytes[0])))?;
        let attempt = u32::from_le_bytes(std::array::from_fn(|i| bytes[4 + i]));
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Ok(Self { event, attempt, n: number(8), at: number(16) })
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Where one process puts its records.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Appends to a file.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn append(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().append(true).create(true).open(path)?))
    }

    /// Writes records with one system call.
    ///
    /// # Errors
    ///
    /// They could not all be written.
    pub fn write(&self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let bytes: Vec<u8> = records.into_iter().flat_map(Record::to_bytes).collect();
        (&self.0).write_all(&bytes)
    }
}

/// Reads a file of records while it grows.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    read: u64,
}

impl Reader {
    /// From the beginning of a file, which need not be there yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What has come since the last time.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else.
    pub fn more(&mut self) -> io::Result<Vec<Record>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A record that crosses a page of the file may be seen half-way.
        let (whole, _half) = bytes.as_chunks::<BYTES>();
        self.read += (whole.len() * BYTES) as u64;
        whole.iter().map(Record::from_bytes).collect()
    }
}

/// How many records are in the files of a folder whose names begin so; logs have none.
///
/// # Errors
///
/// The folder cannot be read.
pub fn count(folder: &Path, begins: &str) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(begins) && !name.ends_with(".log") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes / BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_while_the_file_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker-0");
        let mut reader = Reader::new(path.clone());
        assert_eq!(reader.more().unwrap(), []);
        let record = |n| Record { event: Event::Succeeded, attempt: u32::MAX, n, at: u64::MAX };
        let writer = Writer::append(&path).unwrap();
        writer.write([record(1), record(2)]).unwrap();
        assert_eq!(reader.more().unwrap(), [record(1), record(2)]);
        assert_eq!(reader.more().unwrap(), []);
        // Half a record is none yet.
        let bytes = record(u64::MAX).to_bytes();
        (&writer.0).write_all(&bytes[..10]).unwrap();
        assert_eq!(reader.more().unwrap(), []);
        (&writer.0).write_all(&bytes[10..]).unwrap();
        assert_eq!(reader.more().unwrap(), [record(u64::MAX)]);
        fs::write(folder.path().join("worker-0.log"), [b' '; 4 * BYTES]).unwrap();
        assert_eq!(count(folder.path(), "worker").unwrap(), 3);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        fs::write(&path, [0; BYTES]).unwrap();
        Reader::new(path).more().unwrap_err();
    }
}
