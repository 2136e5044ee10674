//! A file system that is soon full.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// What a file grows by, on a `tmpfs`.
const PAGE: usize = 4_096;

/// A small file system of its own. Part of it can be taken by a file that is removed later.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many bytes, a multiple of 4,096.
    ///
    /// # Errors
    ///
    /// It cannot be mounted, as for whoever is not root.
    pub fn mount(bytes: u64) -> io::Result<Self> {
        let folder = TempDir::new()?;
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output()?;
        if !mounted.status.success() {
            let told = String::from_utf8_lossy(&mounted.stderr);
            let told = format!("a small file system cannot be mounted here ({}); run as root", told.trim());
            return Err(io::Error::other(told));
        }
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all room but that for so many pages.
    ///
    /// # Errors
    ///
    /// It cannot be written to, for another reason than that it is full.
    pub fn fill_but(&self, pages: u64) -> io::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        let page = [0; PAGE];
        let mut taken = ballast.metadata()?.len();
        loop {
            match ballast.write_all(&page) {
                Ok(()) => taken += PAGE as u64,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        ballast.set_len(taken.saturating_sub(pages * PAGE as u64))
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub fn relieve(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it keeps it until it has ended.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
