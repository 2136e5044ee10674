//! The database file: whose it is, whether it is whole, which version has it, and a full disk.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use rusqlite::Connection;
use tempfile::TempDir;
use worker_core::{
    BrokerError, BrokerErrorKind, Client, EnqueueErrorKind,
    brokers::sqlite::{SqliteBroker, SqliteOptions},
};

use worker_tests::disk::SmallDisk;

use super::crew::{Crew, Mark};

async fn refused(path: &Path) -> BrokerError {
    SqliteBroker::open(path, SqliteOptions::default()).await.unwrap_err()
}

async fn client(path: &Path, options: SqliteOptions) -> Client {
    Client::new(Arc::new(SqliteBroker::open(path, options).await.unwrap()))
}

#[tokio::test]
async fn the_file_and_what_is_beside_it_are_readable_by_the_owner_only() {
    let crew = Crew::new().await;
    let worker = crew.worker(&[]);
    crew.enqueue([Mark { n: 1, millis: 60_000 }]).await;
    crew.wait_for(1, "start").await;
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        let mode = fs::metadata(crew.path(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file} has mode {mode:o}");
    }
    assert_eq!(fs::metadata(crew.path("jobs.db-workers")).unwrap().mode() & 0o777, 0o700);
    drop(worker);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("letter.txt");
    let text = "dear sir or madam, ".repeat(100);
    fs::write(&path, &text).unwrap();
    let error = refused(&path).await;
    assert_eq!(error.kind(), BrokerErrorKind::Permanent);
    assert!(error.to_string().contains("letter.txt` is not a SQLite database"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn another_programs_database_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("photos.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE photos (name TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    let error = refused(&path).await;
    assert!(error.to_string().contains("belongs to another program"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_database_is_refused_with_the_remedy() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    let client = client(&path, SqliteOptions::default()).await;
    for answer in client.enqueue_all((0..500).map(|n| Mark { n, millis: 0 })).await {
        answer.unwrap();
    }
    client.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4_096 * 4_096;
    bytes[middle..middle + 4_096].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let error = refused(&path).await;
    assert_eq!(error.kind(), BrokerErrorKind::Permanent);
    assert!(
        error.to_string().contains("is damaged: restore a backup") && error.to_string().contains(".recover"),
        "{error}"
    );
}

#[tokio::test]
async fn a_path_that_cannot_be_is_refused_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let error = refused(&folder.path().join("no/such/folder/jobs.db")).await;
    assert!(error.to_string().contains("its folder does not exist"), "{error}");
    let error = refused(folder.path()).await;
    assert_eq!(error.kind(), BrokerErrorKind::Permanent, "{error}");
}

/// Sets the version of the file, as a newer program would.
fn set_version(path: &Path, version: i64) {
    Connection::open(path).unwrap().pragma_update(None, "user_version", version).unwrap();
}

#[tokio::test]
async fn a_file_of_a_newer_minor_version_is_worked_on_together() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    client(&path, SqliteOptions::default()).await.close().await.unwrap();
    // What a minor version may do: add what older programs need not know.
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("ALTER TABLE jobs ADD COLUMN colour TEXT; CREATE TABLE palette (name TEXT)").unwrap();
    set_version(&path, 1_007);
    let client = client(&path, SqliteOptions::default()).await;
    client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap();
    client.close().await.unwrap();
    let version: i64 = newer.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1_007, "the older program does not turn it back");
}

#[tokio::test]
async fn a_file_of_a_newer_major_version_is_refused_also_by_a_program_that_has_it_open() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    let client = client(&path, SqliteOptions::default()).await;
    client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap();
    set_version(&path, 2_000);
    let error = client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Refused);
    let told = "has version 2.0, this program works with 1.x; update this program";
    assert!(error.to_string().contains(told), "{error}");
    assert!(refused(&path).await.to_string().contains(told));
    let count: i64 =
        Connection::open(&path).unwrap().query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1, "nothing was written into the newer file");
}

#[tokio::test]
async fn a_file_that_was_replaced_under_us_is_noticed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    let client = client(&path, SqliteOptions::default()).await;
    client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap();
    fs::rename(&path, folder.path().join("moved.db")).unwrap();
    let error = client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Refused);
    assert!(error.to_string().contains("was removed or replaced while this process had it open"), "{error}");
}

#[tokio::test]
async fn a_worker_whose_log_or_shared_memory_was_removed_stops_and_says_so() {
    for file in ["jobs.db-wal", "jobs.db-shm"] {
        let crew = Crew::new().await;
        let mut idle = crew.worker(&[]);
        crew.enqueue([Mark { n: 1, millis: 0 }]).await;
        crew.wait_until_done().await;
        fs::remove_file(crew.path(file)).unwrap();
        // Another process would begin a new one, and neither would see the other's jobs.
        assert_eq!(idle.ended().await.code(), Some(69), "{file}: {}", idle.log());
        let told = format!("{file}` was removed or replaced while this process had it open");
        assert!(idle.log().contains(&told), "{}", idle.log());
        let error = crew.client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap_err();
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[tokio::test]
async fn closing_again_completes_a_close_that_was_given_up() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    let client = client(&path, SqliteOptions::default()).await;
    client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap();
    assert!(client.close().now_or_never().is_none(), "it takes a while");
    client.close().await.unwrap();
    assert!(!folder.path().join("jobs.db-wal").exists(), "SQLite removes its log with the last connection");
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_does_not_stop_its_queue() {
    let crew = Crew::new().await;
    let changes = [
        "priority = 999",
        "retries = -1",
        "starts = -1",
        "id = CAST(x'FF' AS TEXT)",
        "name = CAST(x'FF' AS TEXT)",
        "headers = CAST(x'FF' AS TEXT)",
    ];
    crew.enqueue((0..=changes.len() as u64).map(|n| Mark { n, millis: 0 })).await;
    let by_hand = Connection::open(crew.path("jobs.db")).unwrap();
    for (n, change) in changes.iter().enumerate() {
        let body = format!(r#"{{"n":{n},"millis":0}}"#);
        let changed = by_hand.execute(&format!("UPDATE jobs SET {change} WHERE CAST(body AS TEXT) = ?1"), [body]);
        assert_eq!(changed, Ok(1), "{change}");
    }
    let _worker = crew.worker(&[]);
    // All but the one without a name that is one.
    crew.wait_for(changes.len(), "end").await;
}

#[tokio::test]
async fn a_lock_that_another_program_keeps_is_a_bounded_wait_and_a_clear_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jobs.db");
    let mut options = SqliteOptions::default();
    options.busy_timeout = Duration::from_millis(300);
    let client = client(&path, options).await;
    client.enqueue(Mark { n: 1, millis: 0 }).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = client.enqueue(Mark { n: 2, millis: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), EnqueueErrorKind::Unavailable);
    assert!(error.to_string().contains("is locked: another process has been writing for too long"), "{error}");
    other.execute_batch("COMMIT").unwrap();
    client.enqueue(error.into_job().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_a_clear_error_and_nothing_is_lost() {
    let disk = match SmallDisk::mount(1 << 20) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let path = disk.path().join("jobs.db");
    let client = client(&path, SqliteOptions::default()).await;
    disk.fill_but(64).unwrap();
    let mut durable = 0;
    let error = loop {
        match client.enqueue(Mark { n: durable, millis: 0 }).await {
            Ok(_) => durable += 1,
            Err(error) => break error,
        }
        assert!(durable < 100_000, "the disk is never full");
    };
    assert_eq!(error.kind(), EnqueueErrorKind::Unavailable);
    assert!(error.to_string().contains("is full: free some space"), "{error}");
    let ready = client.broker().inspector().unwrap().queues(&[]).await.unwrap()[0].ready;
    assert_eq!(ready, durable, "what was said to be durable is there, and nothing else");
    disk.relieve().unwrap();
    client.enqueue(error.into_job().unwrap()).await.unwrap();
    client.close().await.unwrap();
}
