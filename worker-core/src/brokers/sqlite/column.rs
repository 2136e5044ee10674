//! Reading columns that somebody may have changed by hand.
//!
//! The tables are `STRICT`, so a column has its type, but not the range that we
//! wrote. One such row must not stop its queue, so the nearest value is taken.

use rusqlite::{Row, RowIndex};

use crate::envelope::Priority;

/// Text, with a sign in place of what is no UTF-8.
pub(super) fn text(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// A number that is not below 0.
pub(super) fn count(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u32> {
    let number: i64 = row.get(column)?;
    Ok(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// A priority; the usual one where it is none.
pub(super) fn priority(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Priority> {
    let level: i64 = row.get(column)?;
    Ok(u8::try_from(level).ok().and_then(Priority::new).unwrap_or_default())
}
