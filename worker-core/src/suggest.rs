//! The name that was probably meant.

/// How alike two names must be, 0 to 1, to be worth a suggestion.
///
/// At 0.8 one or two slips in a word of six letters are found, and `orders` is
/// not suggested for `emails`.
const LIKENESS_MIN: f64 = 0.8;

/// The likeness of a name that has the wanted one as a part: `grace` for `shutdown_grace`.
const LIKENESS_OF_PART: f64 = 0.85;

/// Shorter words are part of too many names.
const PART_BYTES_MIN: usize = 4;

/// The one of `known` that is most like `wanted`, if any is.
pub(crate) fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_ascii_lowercase();
    let likeness = |name: &str| {
        let name = name.to_ascii_lowercase();
        let alike = strsim::jaro_winkler(&wanted, &name);
        let is_part = wanted.len() >= PART_BYTES_MIN && name.contains(&wanted);
        if is_part { alike.max(LIKENESS_OF_PART) } else { alike }
    };
    let rated = known.into_iter().map(|name| (likeness(name), name));
    let (_, name) = rated.filter(|(likeness, _)| *likeness >= LIKENESS_MIN).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(name)
}

#[cfg(feature = "cli")]
/// ``; did you mean `name`?``, or nothing.
pub(crate) fn did_you_mean<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: [&str; 4] = ["send_welcome", "process_order", "thumbnail", "shutdown_grace"];

    #[test]
    fn a_slip_finds_the_name() {
        for slip in ["send_welcom", "sendwelcome", "send_wlecome", "Send_Welcome"] {
            assert_eq!(nearest(slip, JOBS), Some("send_welcome"), "{slip}");
        }
        assert_eq!(nearest("grace", JOBS), Some("shutdown_grace"));
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_suggestion_ends_a_sentence() {
        assert_eq!(did_you_mean("thumbnial", JOBS), "; did you mean `thumbnail`?");
        assert_eq!(did_you_mean("invoice", JOBS), "");
    }

    #[test]
    fn something_else_finds_nothing() {
        for other in ["", "x", "invoice", "users"] {
            assert_eq!(nearest(other, JOBS), None, "{other}");
        }
    }
}
