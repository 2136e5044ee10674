//! The three files of a database, and whether they are still the ones that were opened.
//!
//! SQLite removes its `-wal` and `-shm` only with the last connection, so while
//! we have one, a missing or another file was removed or replaced from outside.
//! What is written then is seen by nobody else, and lost with this process.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::error::{BrokerError, BrokerErrorKind};

/// The files with their inodes. None can come again while a connection holds the old one.
#[derive(Debug)]
pub(super) struct Files([(PathBuf, u64); 3]);

impl Files {
    /// The files of the database at `path`, which has an open connection.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = |suffix| {
            let path = beside(path, suffix);
            fs::metadata(&path).map(|file| (path, file.ino()))
        };
        Ok(Self([file("")?, file("-wal")?, file("-shm")?]))
    }

    /// That all of them are there.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        let Some((path, _)) =
            self.0.iter().find(|(path, inode)| fs::metadata(path).map_or(0, |file| file.ino()) != *inode)
        else {
            return Ok(());
        };
        let message = format!(
            "the database's file `{}` was removed or replaced while this process had it open; restart the process",
            path.display()
        );
        Err(BrokerError::new(BrokerErrorKind::Permanent, message))
    }
}

/// The path with `suffix` at its end.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}
