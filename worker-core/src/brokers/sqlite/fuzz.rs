//! What is fuzzed of the SQLite file: rows of any values, as they are handed out and as they are shown.

use std::iter;

use rusqlite::{
    Connection, Row, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use crate::{
    brokers::sqlite::{consume::job, inspect::dead_job},
    envelope::{Headers, Priority},
    id::JOB_ID_BYTES_MAX,
    name::QueueName,
    outcome::FAILURE_BYTES_MAX,
};

/// What a column holds where nobody has gone around its table, which is `STRICT`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Integer,
    IntegerOrNull,
    Text,
    TextOrNull,
    Blob,
}

use Holds::{Blob, Integer, IntegerOrNull, Text, TextOrNull};

/// The columns of `jobs` that are read, in the order of a claim's answer, and those of `dead_letters`.
const COLUMNS: [(&str, Holds); 18] = [
    ("id", Text),
    ("name", TextOrNull),
    ("priority", Integer),
    ("enqueued_ms", Integer),
    ("headers", TextOrNull),
    ("body", Blob),
    ("starts", Integer),
    ("retries", Integer),
    ("expires_ms", IntegerOrNull),
    ("unknown_since_ms", IntegerOrNull),
    ("reply_to", TextOrNull),
    ("correlation", TextOrNull),
    ("call_retries", IntegerOrNull),
    ("queue", Text),
    ("attempts", Integer),
    ("kind", Text),
    ("error", Text),
    ("died_ms", Integer),
];

/// A value of any type; its text need not be UTF-8.
struct Any<'a>(ValueRef<'a>);

impl ToSql for Any<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

impl Any<'_> {
    fn fits(&self, holds: Holds) -> bool {
        match self.0 {
            ValueRef::Null => matches!(holds, IntegerOrNull | TextOrNull),
            ValueRef::Integer(_) => matches!(holds, Integer | IntegerOrNull),
            ValueRef::Text(_) => matches!(holds, Text | TextOrNull),
            ValueRef::Blob(_) => holds == Blob,
            ValueRef::Real(_) => false,
        }
    }
}

thread_local! {
    static DB: Connection = Connection::open_in_memory().unwrap_or_else(|error| panic!("{error}"));
}

/// A row of the values that `input` is: a letter for the type, and what belongs to it.
///
/// | letter | then |
/// |---|---|
/// | `i`, `r` | the 8 bytes of an integer or a float |
/// | `t`, `b` | the length of a text or a blob in one byte, and its bytes |
/// | another | nothing, for NULL, as is what is missing at the end |
///
/// # Panics
///
/// A row that can be in the file cannot be read, or what is read of any row exceeds a limit.
pub fn row(input: &[u8]) {
    let mut rest = input;
    let values: Vec<_> = COLUMNS.iter().map(|_| value(&mut rest)).collect();
    let is_sound = iter::zip(&values, COLUMNS).all(|(value, (_, holds))| value.fits(holds));
    let select = COLUMNS.map(|(name, _)| format!("? AS {name}")).join(", ");
    let read = DB.with(|db| {
        let mut select = db.prepare_cached(&format!("SELECT {select}"))?;
        select.query_row(rusqlite::params_from_iter(&values), |row| {
            look(row, is_sound);
            Ok(())
        })
    });
    assert!(read.is_ok(), "the row could not be made: {read:?}");
}

fn value<'a>(rest: &mut &'a [u8]) -> Any<'a> {
    let Some((letter, after)) = rest.split_first() else { return Any(ValueRef::Null) };
    *rest = after;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count.min(rest.len()));
        *rest = after;
        taken
    };
    let mut word = || {
        let mut word = [0; 8];
        let bytes = take(8);
        word[..bytes.len()].copy_from_slice(bytes);
        word
    };
    Any(match letter {
        b'i' => ValueRef::Integer(i64::from_le_bytes(word())),
        b'r' => ValueRef::Real(f64::from_le_bytes(word())),
        b't' | b'b' => {
            let count = take(1).first().copied().unwrap_or_default();
            let bytes = take(count.into());
            if *letter == b't' { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
        }
        _ => ValueRef::Null,
    })
}

fn look(row: &Row<'_>, is_sound: bool) {
    let queue = QueueName::try_from("orders").unwrap_or_else(|problem| panic!("{problem}"));
    match job(row, &queue) {
        Ok((envelope, (attempt, _))) => {
            assert!(attempt >= 1);
            assert!((1..=JOB_ID_BYTES_MAX).contains(&envelope.id.to_string().len()));
            assert!(envelope.priority <= Priority::MAX);
            assert_eq!(again(&envelope.headers), Some(envelope.headers));
        }
        Err(error) => assert!(!is_sound, "a job that can be in the file is not handed out: {error}"),
    }
    match dead_job(row) {
        Ok(dead) => {
            assert!((1..=JOB_ID_BYTES_MAX).contains(&dead.id.to_string().len()));
            assert!(dead.priority <= Priority::MAX && dead.failure.message.len() <= FAILURE_BYTES_MAX);
            assert_eq!(again(&dead.headers), Some(dead.headers));
        }
        // Which queue it belongs to cannot be replaced by anything.
        Err(rusqlite::Error::InvalidColumnName(column)) => assert_eq!(column, "queue"),
        Err(error) => assert!(!is_sound, "a dead letter that can be in the file is not shown: {error}"),
    }
}

fn again(headers: &Headers) -> Option<Headers> {
    serde_json::from_str(&serde_json::to_string(headers).ok()?).ok()
}
