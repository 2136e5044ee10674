//! What one enqueue asks for, beside the payload.

use std::time::{Duration, SystemTime};

use clap::Args;

use crate::{cli::args::duration, id::JobId, job::Enqueue, time::Timestamp};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of the job")]
pub(super) struct OptionArgs {
    /// Not before this time has passed, `5m` say, at most 366 days [default: at once]
    #[arg(long = "in", value_name = "DURATION", value_parser = duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Not before this date, `2026-03-01T09:00:00+01:00` say, at most 366 days from now [default: at once]
    #[arg(long, value_name = "RFC 3339", value_parser = date)]
    at: Option<Timestamp>,
    /// Before those of a lower priority, 0 to 31 [default: that of the job's type]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=31))]
    priority: Option<u8>,
    /// An id of your own, by which a handler knows the job again; two jobs may have one [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<JobId>,
    /// A header, as text, which the job can read; can be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Into the shard of this key, where its queue has shards [default: into each in turn]
    #[arg(long, value_name = "KEY")]
    shard_key: Option<String>,
    /// Of a file, up to so many small jobs in one message, 1 to 1000 [default: as the job's type says, or 1]
    #[arg(long, value_name = "JOBS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    bundle: Option<u16>,
    /// Dead-letter it as expired when it has not been started within this time, `1h` say [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
}

impl OptionArgs {
    /// As the client takes them.
    pub(super) fn asked(&self) -> Enqueue<()> {
        let mut asked = Enqueue::new(());
        if let Some(delay) = self.delay {
            asked = asked.delay(delay);
        }
        if let Some(date) = self.at {
            asked = asked.at(SystemTime::from(date));
        }
        if let Some(level) = self.priority {
            asked = asked.priority(level);
        }
        if let Some(id) = &self.id {
            asked = asked.id(id.clone());
        }
        if let Some(key) = &self.shard_key {
            asked = asked.shard_key(key);
        }
        if let Some(most) = self.bundle {
            asked = asked.bundle(most);
        }
        if let Some(time) = self.expires_in {
            asked = asked.expires_in(time);
        }
        self.headers.iter().fold(asked, |asked, (name, value)| asked.header(name, value.as_str()))
    }

    /// Whether the job asks for a date before `now`.
    pub(super) fn is_past(&self, now: Timestamp) -> bool {
        self.at.is_some_and(|date| date < now)
    }

    /// The end of a sentence that says when the job is due.
    pub(super) fn when(&self) -> String {
        match (self.delay, self.at) {
            (Some(delay), _) => format!(", due in {}", humantime::format_duration(delay)),
            (None, Some(date)) => format!(", due at {date}"),
            (None, None) => String::new(),
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a header is written `name=value`")?;
    Ok((name.into(), value.into()))
}

/// A date with its offset from UTC: `humantime` reads `Z` alone.
fn date(text: &str) -> Result<Timestamp, String> {
    let wrong = || "it is no date; write `2026-03-01T09:00:00Z` or `2026-03-01T09:00:00+01:00`".to_owned();
    let text = text.trim();
    // After the date, whose own hyphens end at the tenth character.
    let offset_at = text.char_indices().skip(10).find(|(_, c)| matches!(c, '+' | '-')).map(|(at, _)| at);
    let Some(at) = offset_at else {
        let zulu = text.strip_suffix('z').map_or_else(|| text.to_owned(), |text| format!("{text}Z"));
        return humantime::parse_rfc3339(&zulu).map(Timestamp::from).map_err(|_| wrong());
    };
    let (local, offset) = text.split_at(at);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).map(Timestamp::from).map_err(|_| wrong())?;
    let (hours, minutes) = offset[1..].split_once(':').ok_or_else(wrong)?;
    let two_digits = |text: &str, max: u64| {
        let number = (text.len() == 2).then(|| text.parse().ok()).flatten();
        number.filter(|number: &u64| *number <= max)
    };
    let (Some(hours), Some(minutes)) = (two_digits(hours, 23), two_digits(minutes, 59)) else {
        return Err(wrong());
    };
    let ahead = Duration::from_secs(hours * 3_600 + minutes * 60);
    Ok(if offset.starts_with('+') { local - ahead } else { local + ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_with_its_offset() {
        let noon = "2026-03-01T12:00:00.000Z";
        for text in [
            "2026-03-01T12:00:00Z",
            "2026-03-01T12:00:00z",
            "2026-03-01T13:00:00+01:00",
            "2026-03-01T06:30:00-05:30",
            "2026-03-01T12:00:00.000+00:00",
        ] {
            assert_eq!(date(text).unwrap().to_string(), noon, "{text}");
        }
        for text in
            ["", "tomorrow", "2026-03-01", "2026-03-01T12:00:00", "2026-03-01T12:00:00+1", "2026-13-01T12:00:00Z"]
        {
            assert!(date(text).is_err(), "{text}");
        }
    }
}
