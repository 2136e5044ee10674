//! The file by which a process proves that it lives, and says which jobs it has started.
//!
//! | bytes | content |
//! |---|---|
//! | 0 to 7 | the beat: a counter that the living process keeps raising |
//! | 16 to 31 | during which start of the machine that was; zeros where it does not say |
//! | from 32, 16 each | one started job: its `seq` and the fence of the hand-out; zeros for none yet |
//!
//! A job that has ended stays in its place until another starts there: its row
//! is gone or has no such fence any more, so that nobody is blamed for it.
//!
//! The process holds a lock on the file for as long as it lives; the kernel
//! frees it whatever the process dies of. Starts are written here and not into
//! the database because a `write` costs a microsecond where a commit costs a
//! disk access, and the page cache outlives the process, which is all a crash
//! needs. After a loss of power the disk may have some of them: another start
//! of the machine blames nobody for what it reads.
//!
//! Whoever takes over from a holder unlinks its file, so that a process that
//! was only frozen sees by a look at its own file that it owns nothing any more.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::time::monotonic_now;

const BOOT_AT: usize = 16;
const SLOTS_AT: usize = 32;
const SLOT_BYTES: usize = 16;

/// Slots that are written out at the start, so that beginning a job needs no disk space.
const SLOTS_AT_FIRST: usize = 1_024;

/// For so long a look at one's own file is good: a look costs as much as starting a job, and a lease is a thousand times
/// as long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// One hand-out of a job: `seq` and fence.
pub(super) type HandOut = (u64, u64);

/// This process's own file.
#[derive(Debug)]
pub(super) struct HolderFile {
    file: File,
    path: PathBuf,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<usize>,
    count: usize,
    /// When this process was last seen to be still the owner.
    looked: Option<Instant>,
}

/// Where in the file a started job stands.
#[derive(Debug)]
pub(super) struct Slot(usize);

impl HolderFile {
    /// Creates and locks the file of holder `id` in `folder`.
    pub(super) fn create(folder: &Path, id: i64) -> io::Result<Self> {
        let path = path(folder, id);
        // The folder vanishes with its last file, also between these two steps.
        let file = loop {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            match OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => break opened?,
            }
        };
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            // Numbers are never reused, so this is another database's process.
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("`{}` is locked: the database was replaced while a process still uses the old one; stop that process", path.display()),
            ),
        })?;
        let mut bytes = vec![0; SLOTS_AT + SLOTS_AT_FIRST * SLOT_BYTES];
        bytes[BOOT_AT..SLOTS_AT].copy_from_slice(&boot());
        file.write_all_at(&bytes, 0)?;
        let slots = Slots { free: (0..SLOTS_AT_FIRST).rev().collect(), count: SLOTS_AT_FIRST, looked: None };
        Ok(Self { file, path, slots: Mutex::new(slots) })
    }

    /// Shows that the process lives.
    pub(super) fn beat(&self, count: u64) -> io::Result<()> {
        self.file.write_all_at(&count.to_le_bytes(), 0)
    }

    /// Records that a job is about to start.
    pub(super) fn begin(&self, (seq, fence): HandOut) -> io::Result<Slot> {
        let slot = {
            let mut slots = self.slots();
            slots.free.pop().unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            })
        };
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&seq.to_le_bytes());
        bytes[8..].copy_from_slice(&fence.to_le_bytes());
        let written = self.file.write_all_at(&bytes, offset(slot));
        if written.is_err() {
            self.end(Slot(slot));
        }
        written.map(|()| Slot(slot))
    }

    /// It has ended, the database knows how: another may have its place.
    pub(super) fn end(&self, Slot(slot): Slot) {
        self.slots().free.push(slot);
    }

    /// Whether another process has taken over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// The same, as it was a moment ago: for each of many jobs that start together.
    ///
    /// Who stood still finds that the moment has passed. Who lost the file while it ran, to an operator's `rm` or by a
    /// keeper that stood still alone, may start jobs for a moment more; their settlements are too late all the same.
    pub(super) fn was_taken_over(&self) -> bool {
        let mut slots = self.slots();
        if slots.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN_AFTER) {
            return false;
        }
        // From before the look: who is stopped between the two looks again.
        let now = monotonic_now();
        let is_taken_over = self.is_taken_over();
        slots.looked = (!is_taken_over).then_some(now);
        is_taken_over
    }

    /// Removes the file, and the folder with the last one.
    pub(super) fn remove(&self) {
        remove(&self.path);
    }

    /// Frees the lock as the kernel does when a process dies.
    #[cfg(feature = "testing")]
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another process's file, as seen from outside.
#[derive(Debug)]
pub(super) enum Sighting {
    /// It is dead: its lock is free. The lock is ours for as long as this is kept.
    Dead(File),
    /// It is dead, or its file was removed by hand, which is taken for the same.
    Missing,
    /// It lives, and its beat is this.
    Lives { beat: u64 },
}

/// Looks at the file of holder `id`.
pub(super) fn sight(folder: &Path, id: i64) -> io::Result<Sighting> {
    let file = match OpenOptions::new().read(true).write(true).open(path(folder, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sighting::Missing),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Sighting::Dead(file)),
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => {
            let mut beat = [0; 8];
            // A file that was just created may still be empty.
            let read = file.read_at(&mut beat, 0)?;
            Ok(Sighting::Lives { beat: if read == beat.len() { u64::from_le_bytes(beat) } else { 0 } })
        }
    }
}

/// The jobs that holder `id` had started, some that have ended among them; none where its file is gone, or is from before
/// the machine's last start.
pub(super) fn started(folder: &Path, id: i64) -> io::Result<Vec<HandOut>> {
    let bytes = match fs::read(path(folder, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    if bytes.get(BOOT_AT..SLOTS_AT) != Some(&boot()) {
        return Ok(Vec::new());
    }
    let slots = bytes.get(SLOTS_AT..).unwrap_or_default().as_chunks::<SLOT_BYTES>().0;
    let hand_out = |slot: &[u8; SLOT_BYTES]| {
        let (seq, fence) = slot.split_at(8);
        Some((u64::from_le_bytes(seq.try_into().ok()?), u64::from_le_bytes(fence.try_into().ok()?)))
    };
    Ok(slots.iter().filter_map(hand_out).filter(|(seq, _)| *seq != 0).collect())
}

/// Removes the file of holder `id`, whose jobs have been taken over.
pub(super) fn remove_other(folder: &Path, id: i64) {
    remove(&path(folder, id));
}

fn remove(path: &Path) {
    // Already gone is as good; a stray file of a dead process harms nobody.
    drop(fs::remove_file(path));
    if let Some(folder) = path.parent() {
        drop(fs::remove_dir(folder)); // Fails while another process has a file there.
    }
}

fn path(folder: &Path, id: i64) -> PathBuf {
    folder.join(id.to_string())
}

const fn offset(slot: usize) -> u64 {
    (SLOTS_AT + slot * SLOT_BYTES) as u64
}

/// What tells this start of the machine from others (random(4), `boot_id`); zeros where nothing does.
fn boot() -> [u8; SLOT_BYTES] {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    told.and_then(|text| text.trim().parse::<Uuid>().ok()).unwrap_or_default().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_holder_is_told_from_a_living_one_and_its_started_jobs_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("workers");
        let holder = HolderFile::create(&folder, 7).unwrap();
        holder.beat(41).unwrap();
        assert!(matches!(sight(&folder, 7).unwrap(), Sighting::Lives { beat: 41 }));
        let first = holder.begin((1, 10)).unwrap();
        let _second = holder.begin((2, 20)).unwrap();
        holder.end(first);
        assert_eq!(started(&folder, 7).unwrap(), [(1, 10), (2, 20)], "until another takes its place");
        let _third = holder.begin((3, 30)).unwrap();
        drop(holder);
        assert!(matches!(sight(&folder, 7).unwrap(), Sighting::Dead(_)));
        assert_eq!(started(&folder, 7).unwrap(), [(3, 30), (2, 20)]);
        assert!(matches!(sight(&folder, 8).unwrap(), Sighting::Missing));
    }

    #[test]
    fn slots_are_reused_and_grow_when_all_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let holder = HolderFile::create(folder.path(), 1).unwrap();
        let slots: Vec<_> = (1..=SLOTS_AT_FIRST as u64 + 5).map(|seq| holder.begin((seq, 1)).unwrap()).collect();
        assert_eq!(started(folder.path(), 1).unwrap().len(), SLOTS_AT_FIRST + 5);
        slots.into_iter().for_each(|slot| holder.end(slot));
        let _again: Vec<_> = (1..=SLOTS_AT_FIRST as u64 + 5).map(|seq| holder.begin((seq, 2)).unwrap()).collect();
        let started = started(folder.path(), 1).unwrap();
        assert!(started.len() == SLOTS_AT_FIRST + 5 && started.iter().all(|(_, fence)| *fence == 2));
    }

    #[test]
    fn what_a_holder_had_started_before_the_machine_did_is_nobodys_fault() {
        let folder = tempfile::tempdir().unwrap();
        let holder = HolderFile::create(folder.path(), 1).unwrap();
        let _slot = holder.begin((1, 10)).unwrap();
        assert_eq!(started(folder.path(), 1).unwrap(), [(1, 10)]);
        holder.file.write_all_at(&[7; SLOT_BYTES], BOOT_AT as u64).unwrap();
        assert_eq!(started(folder.path(), 1).unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_is_good_for_a_millisecond_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let holder = HolderFile::create(folder.path(), 1).unwrap();
        assert!(!holder.was_taken_over());
        fs::remove_file(path(folder.path(), 1)).unwrap();
        tokio::time::advance(LOOK_AGAIN_AFTER / 2).await;
        assert!(!holder.was_taken_over());
        tokio::time::advance(LOOK_AGAIN_AFTER / 2).await;
        assert!(holder.was_taken_over());
        assert!(holder.was_taken_over(), "it is not looked at once only");
    }

    #[test]
    fn a_frozen_process_sees_that_it_was_taken_over_from() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("workers");
        let holder = HolderFile::create(&folder, 1).unwrap();
        assert!(!holder.is_taken_over());
        remove_other(&folder, 1);
        assert!(holder.is_taken_over());
        assert!(!folder.exists(), "the folder goes with its last file");
    }
}
