//! Durations in options, read at compile time: `"30s"`, `"1h 30m"`, `"2s..10m"`.

use std::time::Duration;

/// The longest duration of an option, in milliseconds: a leap year, the longest delay of a job.
const MS_MAX: u64 = 366 * 86_400 * 1_000;

/// The pauses between retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base_ms: u64,
    /// The longest pause; the default's when none was written.
    pub(crate) cap_ms: Option<u64>,
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    Garbage,
    NoUnit,
    UnknownUnit(String),
    /// `M` is a month to the parser, and a minute to who wrote it.
    Months,
    /// Not a whole number of milliseconds.
    TooFine,
    TooShort,
    TooLong,
    /// The longest pause is shorter than the first.
    Reversed {
        first: String,
        longest: String,
    },
}

impl Problem {
    /// What is wrong with `option`, whose value is written `literal`, and what to write; `example` is a good value.
    pub(crate) fn message(&self, option: &str, literal: &str, example: &str) -> (String, String) {
        let what = match self {
            Self::Garbage => "is not a duration",
            Self::NoUnit => "needs a unit",
            Self::UnknownUnit(unit) => &format!("has an unknown unit `{unit}`"),
            Self::Months => "is in months, which `M` means",
            Self::TooFine => "is not a whole number of milliseconds",
            Self::TooShort => "is too short",
            Self::TooLong => "is too long",
            Self::Reversed { .. } => "runs backwards",
        };
        let fix = match self {
            Self::Garbage | Self::NoUnit => format!("write {example}"),
            Self::UnknownUnit(_) => "use ms, s, m, h or d, as in \"90s\" or \"1h 30m\"".to_owned(),
            Self::Months => "write `m` for minutes".to_owned(),
            Self::TooFine => "the finest unit is ms".to_owned(),
            Self::TooShort => "the shortest is \"1ms\"".to_owned(),
            Self::TooLong => "the longest is \"366d\"".to_owned(),
            Self::Reversed { first, longest } => {
                format!("the first pause comes first, then the longest: write \"{longest}..{first}\"")
            }
        };
        (format!("`{option}` {what}: {literal}"), fix)
    }
}

/// Reads one duration, in milliseconds: `"30s"`, `"1h 30m"`.
pub(crate) fn millis(text: &str) -> Result<u64, Problem> {
    let text = text.trim();
    // `parse_duration` takes "0" alone without a unit.
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::NoUnit);
    }
    let duration = humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => Problem::NoUnit,
        humantime::DurationError::UnknownUnit { unit, .. } => Problem::UnknownUnit(unit),
        // Said of a fraction that is cut nowhere ("0.3333h") as well as of a huge number.
        humantime::DurationError::NumberOverflow if text.contains('.') => Problem::TooFine,
        humantime::DurationError::NumberOverflow => Problem::TooLong,
        _ => Problem::Garbage,
    })?;
    if text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M") {
        return Err(Problem::Months);
    }
    whole_millis(duration)
}

fn whole_millis(duration: Duration) -> Result<u64, Problem> {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms > MS_MAX {
        Err(Problem::TooLong)
    } else if duration.is_zero() {
        Err(Problem::TooShort)
    } else if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        Err(Problem::TooFine)
    } else {
        Ok(ms)
    }
}

/// Reads the pauses between retries: `"5s"`, or `"2s..10m"` from the first to the longest.
pub(crate) fn backoff(text: &str) -> Result<Backoff, Problem> {
    let Some((first, longest)) = text.split_once("..") else {
        return Ok(Backoff { base_ms: millis(text)?, cap_ms: None });
    };
    let (first, longest) = (first.trim(), longest.trim());
    let (base_ms, cap_ms) = (millis(first)?, millis(longest)?);
    if cap_ms < base_ms {
        return Err(Problem::Reversed { first: first.to_owned(), longest: longest.to_owned() });
    }
    Ok(Backoff { base_ms, cap_ms: Some(cap_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_in_milliseconds() {
        let cases = [
            ("1ms", 1),
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            (" 7d ", 604_800_000),
            ("366d", MS_MAX),
        ];
        for (text, ms) in cases {
            assert_eq!(millis(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_for_its_own_reason() {
        let cases = [
            ("", Problem::Garbage),
            ("soon", Problem::Garbage),
            ("-5s", Problem::Garbage),
            ("0", Problem::NoUnit),
            ("30", Problem::NoUnit),
            ("1h 30", Problem::NoUnit),
            ("30 parsecs", Problem::UnknownUnit("parsecs".into())),
            ("10M", Problem::Months),
            ("1h 10 M", Problem::Months),
            ("0s", Problem::TooShort),
            ("0ms", Problem::TooShort),
            ("5us", Problem::TooFine),
            ("1500us", Problem::TooFine),
            ("0.33333h", Problem::TooFine),
            ("367d", Problem::TooLong),
            ("2y", Problem::TooLong),
            ("99999999999999999999999s", Problem::TooLong),
        ];
        for (text, problem) in cases {
            assert_eq!(millis(text), Err(problem), "{text:?}");
        }
    }

    #[test]
    fn a_backoff_is_a_first_pause_with_or_without_a_longest() {
        assert_eq!(backoff("5s"), Ok(Backoff { base_ms: 5_000, cap_ms: None }));
        assert_eq!(backoff("2s..10m"), Ok(Backoff { base_ms: 2_000, cap_ms: Some(600_000) }));
        assert_eq!(backoff(" 2s .. 10m "), backoff("2s..10m"));
        assert_eq!(backoff("1m..60s"), Ok(Backoff { base_ms: 60_000, cap_ms: Some(60_000) }), "equal is steady");
    }

    #[test]
    fn a_backoff_is_refused_for_either_of_its_ends_or_their_order() {
        let reversed = Problem::Reversed { first: "10m".into(), longest: "2s".into() };
        let cases = [
            ("10m..2s", reversed),
            ("..10m", Problem::Garbage),
            ("2s..", Problem::Garbage),
            ("2s..=10m", Problem::Garbage),
            ("2s..5s..10m", Problem::Garbage),
            ("2..10m", Problem::NoUnit),
            ("2s..10", Problem::NoUnit),
            ("2s..400d", Problem::TooLong),
            ("0s..10m", Problem::TooShort),
        ];
        for (text, problem) in cases {
            assert_eq!(backoff(text), Err(problem), "{text:?}");
        }
    }
}
