//! Opening the file: is it ours, is it whole, which version has it.
//!
//! The version is `user_version`, `1000 · major + minor`. A program works on
//! any file of its own major version: minor versions only add what older
//! programs need not know. A file of a newer major version is refused, also by
//! a program that had it open before, since every transaction looks.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::{
    error::{BrokerError, BrokerErrorKind},
    time::monotonic_now,
};

/// Marks the file as ours: "WJOB".
const APPLICATION_ID: i64 = 0x574A_4F42;

/// The version this program writes.
const VERSION: i64 = 1_002;

/// The script that makes each version from the one before, in order; the last is [`VERSION`].
const MIGRATIONS: [(i64, &str); 3] = [
    (1_000, include_str!("migrations/0001_first.sql")),
    (1_001, include_str!("migrations/0002_exchanges.sql")),
    (VERSION, include_str!("migrations/0003_calls.sql")),
];

/// The pause before opening is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// Up to this size the whole file is checked at the start; it takes about 0.1 s.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// Creates the file if it is missing, readable by its owner only.
pub(super) fn create(path: &Path) -> Result<(), BrokerError> {
    // SQLite gives its own files (-wal, -shm) the mode of this one.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
            // Or a loss of power could take the new name although SQLite synced the content.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| cannot_create(path, error))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(cannot_create(path, error)),
    }
}

fn cannot_create(path: &Path, error: io::Error) -> BrokerError {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "its folder does not exist; create it or choose another path",
        io::ErrorKind::PermissionDenied => "this user may not write there; choose another path",
        _ => "choose another path",
    };
    let message = format!("cannot create the database `{}`: {remedy}", path.display());
    BrokerError::new(BrokerErrorKind::Permanent, message).because(error)
}

/// Opens a connection with the settings that every one needs.
pub(super) fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, BrokerError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(busy_timeout)?;
        db.set_prepared_statement_cache_capacity(64);
        // The file may come from elsewhere: no code of its own is run, no malformed cell is trusted.
        db.pragma_update(None, "trusted_schema", false)?;
        db.pragma_update(None, "cell_size_check", true)?;
        db.pragma_update(None, "foreign_keys", true)?;
        Ok(db)
    };
    open().map_err(|error| failure(path, "open", &error))
}

/// Makes sure that the file is ours, whole and of a version we can work with.
pub(super) fn prepare(db: &mut Connection, path: &Path) -> Result<(), BrokerError> {
    let patience: u32 = db.pragma_query_value(None, "busy_timeout", |row| row.get(0)).unwrap_or(0);
    let deadline = monotonic_now() + Duration::from_millis(patience.into());
    loop {
        match prepare_once(db, path) {
            // SQLite does not wait where two change a new file to a write-ahead log at once: each
            // reads it already, and neither could go first. Whoever is told so begins again.
            Err(error) if error.kind() == BrokerErrorKind::Transient && monotonic_now() < deadline => {
                std::thread::park_timeout(AGAIN);
            }
            prepared => return prepared,
        }
    }
}

fn prepare_once(db: &mut Connection, path: &Path) -> Result<(), BrokerError> {
    let failed = |error: &rusqlite::Error| failure(path, "open", error);
    refuse_foreign(db, path)?;
    let mode: String =
        db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(|error| failed(&error))?;
    if mode != "wal" {
        let message = format!(
            "the database `{}` cannot use a write-ahead log (its journal mode stays `{mode}`); put it on a local file system",
            path.display()
        );
        return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
    }
    if std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX) {
        check(db, path)?;
    }
    migrate(db, path, &MIGRATIONS)
}

fn refuse_foreign(db: &mut Connection, path: &Path) -> Result<(), BrokerError> {
    let mut read = || {
        // In one transaction: of two processes that open a new file at once, the second
        // must not see no mark yet and then the tables of the first.
        let tx = db.transaction()?;
        let application: i64 = tx.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        tx.commit()?;
        Ok((application, tables))
    };
    match read().map_err(|error: rusqlite::Error| failure(path, "open", &error))? {
        (APPLICATION_ID, _) | (0, 0) => Ok(()),
        (_, tables) => {
            let message = format!(
                "the database `{}` belongs to another program ({tables} tables and indexes that are not ours); nothing was changed, choose another path",
                path.display()
            );
            Err(BrokerError::new(BrokerErrorKind::Permanent, message))
        }
    }
}

fn check(db: &Connection, path: &Path) -> Result<(), BrokerError> {
    let finding: String =
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| failure(path, "check", &error))?;
    if finding == "ok" {
        return Ok(());
    }
    Err(damaged(path).because(finding))
}

/// Brings the file to the last of `migrations`, or leaves it alone: in one
/// transaction, and not at all where a newer major version has it.
fn migrate(db: &mut Connection, path: &Path, migrations: &[(i64, &str)]) -> Result<(), BrokerError> {
    let ours = migrations.last().map_or(VERSION, |(version, _)| *version);
    let mut migrate = || {
        // Immediate: of two processes that find an old file, the second waits and then finds it new.
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = version(&tx)?;
        if found >= ours {
            return Ok(found);
        }
        for (_, script) in migrations.iter().filter(|(version, _)| *version > found) {
            tx.execute_batch(script)?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", ours)?;
        tx.commit()?;
        Ok(ours)
    };
    let now = migrate().map_err(|error: rusqlite::Error| failure(path, "migrate", &error))?;
    check_version(now, ours, path)
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))
}

/// Whether this program may go on with the file, looked at in every transaction.
pub(super) fn still_ours(db: &Connection, path: &Path) -> Result<(), BrokerError> {
    match version(db) {
        Ok(found) => check_version(found, VERSION, path),
        Err(error) => Err(failure(path, "read", &error)),
    }
}

fn check_version(found: i64, ours: i64, path: &Path) -> Result<(), BrokerError> {
    if found / 1_000 == ours / 1_000 {
        return Ok(());
    }
    let message = format!(
        "the database `{}` has version {}.{}, this program works with {}.x; update this program",
        path.display(),
        found / 1_000,
        found % 1_000,
        ours / 1_000
    );
    Err(BrokerError::new(BrokerErrorKind::Permanent, message))
}

fn damaged(path: &Path) -> BrokerError {
    let path = path.display();
    BrokerError::new(
        BrokerErrorKind::Permanent,
        format!(
            "the database `{path}` is damaged: restore a backup, or save what is left with `sqlite3 '{path}' .recover | sqlite3 new.db`"
        ),
    )
}

/// What SQLite's error means for the one who asked, with the remedy.
pub(super) fn failure(path: &Path, operation: &str, error: &rusqlite::Error) -> BrokerError {
    let shown = path.display();
    let transient = |message| BrokerError::new(BrokerErrorKind::Transient, message);
    let permanent = |message| BrokerError::new(BrokerErrorKind::Permanent, message);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => transient(format!(
            "the database `{shown}` is locked: another process has been writing for too long; is one of them stopped?"
        )),
        Some(ErrorCode::DiskFull) => transient(format!("the disk of the database `{shown}` is full: free some space")),
        Some(ErrorCode::SystemIoFailure) => {
            transient(format!("cannot {operation} the database `{shown}`: the disk fails")).because(error.to_string())
        }
        Some(ErrorCode::NotADatabase) => {
            permanent(format!("the file `{shown}` is not a SQLite database; nothing was changed, choose another path"))
        }
        Some(ErrorCode::DatabaseCorrupt) => damaged(path).because(error.to_string()),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            permanent(format!("this user may not write the database `{shown}`"))
        }
        _ => permanent(format!("cannot {operation} the database `{shown}`")).because(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    /// Two versions to come.
    const NEXT: (i64, &str) = (1_900, "ALTER TABLE jobs ADD COLUMN colour TEXT");
    const MAJOR: (i64, &str) = (2_000, "ALTER TABLE jobs RENAME COLUMN colour TO color");

    fn then(later: &[(i64, &'static str)]) -> Vec<(i64, &'static str)> {
        MIGRATIONS.iter().chain(later).copied().collect()
    }

    fn columns(db: &Connection) -> Vec<String> {
        let mut columns = db.prepare("SELECT name FROM pragma_table_info('jobs')").unwrap();
        columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// A file of this version with one job in it.
    fn ours(folder: &Path) -> Connection {
        let path = folder.join("jobs.db");
        create(&path).unwrap();
        let mut db = connect(&path, Duration::from_secs(5)).unwrap();
        prepare(&mut db, &path).unwrap();
        db.execute_batch(
            "INSERT INTO jobs (queue, state, priority, retries, starts, id, enqueued_ms, body)
             VALUES ('q', 0, 4, 0, 0, 'a', 1, x'7b7d')",
        )
        .unwrap();
        db
    }

    #[test]
    fn an_older_file_is_brought_up_to_date_step_by_step_with_its_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = ours(folder.path());
        let path = folder.path().join("jobs.db");
        migrate(&mut db, &path, &then(&[NEXT])).unwrap();
        assert_eq!(version(&db).unwrap(), 1_900);
        assert!(columns(&db).contains(&"colour".to_owned()));
        // Also over a change of the major version, after which the older program is locked out.
        migrate(&mut db, &path, &then(&[NEXT, MAJOR])).unwrap();
        assert_eq!(version(&db).unwrap(), 2_000);
        assert!(columns(&db).contains(&"color".to_owned()));
        let id: String = db.query_row("SELECT id FROM jobs", [], |row| row.get(0)).unwrap();
        assert_eq!(id, "a");
        assert!(still_ours(&db, &path).unwrap_err().to_string().contains("has version 2.0"));
        let refused = migrate(&mut db, &path, &MIGRATIONS).unwrap_err();
        assert!(refused.to_string().contains("update this program"), "{refused}");
    }

    #[test]
    fn a_file_of_the_first_version_is_brought_to_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        create(&path).unwrap();
        let mut db = connect(&path, Duration::from_secs(5)).unwrap();
        migrate(&mut db, &path, &MIGRATIONS[..1]).unwrap();
        prepare(&mut db, &path).unwrap();
        assert_eq!(version(&db).unwrap(), VERSION);
        let tables: i64 = db
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('exchanges', 'bindings')", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(tables, 2);
    }

    #[test]
    fn a_migration_that_fails_half_way_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = ours(folder.path());
        let broken = (1_901, "CREATE TABLE palette (name TEXT); no such statement");
        migrate(&mut db, &folder.path().join("jobs.db"), &then(&[NEXT, broken])).unwrap_err();
        assert_eq!(version(&db).unwrap(), VERSION);
        assert!(!columns(&db).contains(&"colour".to_owned()));
    }

    #[test]
    fn the_versions_ascend_to_the_one_this_program_writes() {
        assert!(MIGRATIONS.is_sorted_by(|(before, _), (after, _)| before < after));
        assert_eq!(MIGRATIONS[MIGRATIONS.len() - 1].0, VERSION);
    }

    #[test]
    fn processes_that_open_a_new_file_at_once_all_find_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let together = Barrier::new(8);
        let open = || {
            together.wait();
            create(&path)?;
            let mut db = connect(&path, Duration::from_secs(5))?;
            prepare(&mut db, &path)
        };
        thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            opening.into_iter().for_each(|opened| opened.join().unwrap().unwrap());
        });
    }
}
