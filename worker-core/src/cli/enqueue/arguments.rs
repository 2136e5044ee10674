//! From `key=value` to the payload that the job takes.
//!
//! A shell knows text only, and the job's types are known to its decoder alone.
//! So each value is offered as text or as JSON, and where the decoder refuses
//! one, its error says which: that one is offered the other way. With `n`
//! arguments the decoder is asked at most `2n + 1` times.

use std::{collections::BTreeSet, ops::Range};

use serde_json::value::RawValue;

use crate::{
    cli::{exit, fail::Fail, jobs::arguments_text, out::cut},
    handler::{Argument, Arguments},
    registry::Entry,
    suggest::did_you_mean,
};

/// The most characters of a value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// Why there is no payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It was not written as an argument.
    Usage(String),
    /// What the job does not take, one line each.
    Payload(Vec<String>),
}

impl Wrong {
    /// The end of the command, with what the job does take.
    pub(super) fn into_fail(self, entry: &Entry) -> Fail {
        let takes = match entry.registration.arguments {
            Arguments::Named([]) => format!("job `{}` takes no arguments", entry.name),
            arguments => format!("job `{}` takes {}", entry.name, arguments_text(&arguments)),
        };
        match self {
            Self::Usage(problem) => Fail::usage(problem).hint(takes),
            Self::Payload(problems) => Fail::new(exit::BAD_PAYLOAD, listed(entry, &problems)).hint(takes),
        }
    }
}

fn listed(entry: &Entry, problems: &[String]) -> String {
    match problems {
        [problem] => problem.clone(),
        problems => format!("the arguments do not fit job `{}`:\n  - {}", entry.name, problems.join("\n  - ")),
    }
}

/// One argument as it was written, and how it is offered at present.
struct Given<'a> {
    name: &'a str,
    text: &'a str,
    reading: Reading,
    /// The other reading, while it has not been tried.
    other: Option<Reading>,
    /// Why the first reading was refused.
    refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Text,
    Json,
}

/// The payload of `entry` that these `key=value` make.
pub(super) fn payload(entry: &Entry, pairs: &[String]) -> Result<Vec<u8>, Wrong> {
    let declared = match entry.registration.arguments {
        Arguments::Named(arguments) => Some(arguments),
        Arguments::Whole(_) => None,
    };
    let mut given = Vec::new();
    for pair in pairs {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(Wrong::Usage(format!("`{pair}` is no argument; write `name=value`")));
        };
        given.push(Given::new(name, text, declared));
    }
    let problems = problems_of_names(&given, declared);
    if !problems.is_empty() {
        return Err(Wrong::Payload(problems));
    }
    agree(entry, &mut given, declared).map_err(|problem| Wrong::Payload(vec![problem]))
}

impl<'a> Given<'a> {
    fn new(name: &'a str, text: &'a str, declared: Option<&[Argument]>) -> Self {
        let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
        let is_text = declared.and_then(|all| find(all, name)).is_some_and(|argument| is_textual(argument.type_text));
        let (reading, other) = match (is_json, is_text) {
            (false, _) => (Reading::Text, None),
            (true, true) => (Reading::Text, Some(Reading::Json)),
            (true, false) => (Reading::Json, Some(Reading::Text)),
        };
        Self { name, text, reading, other, refusal: None }
    }

    fn flip(&mut self) -> bool {
        self.other.take().map(|other| self.reading = other).is_some()
    }
}

fn find<'a>(declared: &'a [Argument], name: &str) -> Option<&'a Argument> {
    declared.iter().find(|argument| argument.name == name)
}

/// Whether a value of this type is meant as text, even where it looks like JSON: `subject=42`.
fn is_textual(type_text: &str) -> bool {
    let compact: String = type_text.chars().filter(|c| !c.is_whitespace()).collect();
    let inner = compact.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(&compact);
    let inner = inner.rsplit_once("::").map_or(inner, |(_, last)| last);
    matches!(inner, "String" | "PathBuf" | "char" | "Box<str>" | "Arc<str>" | "Cow<'static,str>")
}

/// Everything wrong with which arguments there are: twice, unknown, missing.
fn problems_of_names(given: &[Given<'_>], declared: Option<&[Argument]>) -> Vec<String> {
    let (mut problems, mut seen) = (Vec::new(), BTreeSet::new());
    for Given { name, .. } in given {
        if !seen.insert(*name) {
            problems.push(format!("argument `{name}` is given twice"));
        } else if let Some(declared) = declared
            && find(declared, name).is_none()
        {
            problems.push(unknown(name, declared));
        }
    }
    let missing = declared.unwrap_or_default().iter().filter(|wanted| wanted.required && !seen.contains(wanted.name));
    problems.extend(missing.map(|wanted| format!("argument `{}` (`{}`) is missing", wanted.name, wanted.type_text)));
    problems
}

fn unknown(name: &str, declared: &[Argument]) -> String {
    let meant = did_you_mean(name, declared.iter().map(|argument| argument.name));
    format!("there is no argument `{name}`{meant}")
}

/// Finds the readings that the job accepts.
fn agree(entry: &Entry, given: &mut [Given<'_>], declared: Option<&[Argument]>) -> Result<Vec<u8>, String> {
    let check = entry.registration.check;
    loop {
        let (body, places) = encode(given);
        let Err(error) = check(&body) else {
            return Ok(body);
        };
        let why = without_place(&error);
        let Some(index) = argument_at(&body, &places, &error) else {
            return one_flip(entry, given).ok_or_else(|| format!("the payload does not fit: {why}"));
        };
        let culprit = &mut given[index];
        // The first reading's error is told: it is the one a person would choose.
        let refusal = culprit.refusal.get_or_insert(why).clone();
        if !culprit.flip() {
            return Err(about(culprit, declared, &refusal));
        }
    }
}

/// For an error that names no place: the readings that differ from the present ones in one argument.
fn one_flip(entry: &Entry, given: &mut [Given<'_>]) -> Option<Vec<u8>> {
    for index in 0..given.len() {
        let before = given[index].reading;
        if !given[index].flip() {
            continue;
        }
        let (body, _) = encode(given);
        if (entry.registration.check)(&body).is_ok() {
            return Some(body);
        }
        given[index].reading = before;
    }
    None
}

/// The object, and where in it each argument stands.
fn encode(given: &[Given<'_>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut body, mut places) = (String::from("{"), Vec::new());
    for (index, Given { name, text, reading, .. }) in given.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        let start = body.len();
        body.push_str(&json_text(name));
        body.push(':');
        match reading {
            Reading::Text => body.push_str(&json_text(text)),
            Reading::Json => body.push_str(text.trim()),
        }
        places.push(start..body.len());
    }
    body.push('}');
    (body.into_bytes(), places)
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Which argument the decoder refused, where its error says a place.
fn argument_at(body: &[u8], places: &[Range<usize>], error: &serde_json::Error) -> Option<usize> {
    let line_start = match error.line() {
        0 => return None,
        1 => 0,
        // A value may hold line ends, as JSON may.
        line => body.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line - 2)?.0 + 1,
    };
    let at = (line_start + error.column()).saturating_sub(1);
    // An error at the closing brace is about the whole, a missing field say.
    if at + 1 >= body.len() {
        return None;
    }
    places.iter().rposition(|place| place.start <= at)
}

fn about(given: &Given<'_>, declared: Option<&[Argument]>, why: &str) -> String {
    let (name, text) = (given.name, cut(given.text, SHOWN_CHARS_MAX));
    let written_as = match why {
        why if why.contains("expected a sequence") => format!("; a list is written as JSON: `{name}='[…, …]'`"),
        why if why.contains("expected a map") || why.contains("expected struct") => {
            format!("; an object is written as JSON: `{name}='{{…}}'`")
        }
        _ => String::new(),
    };
    match declared.and_then(|declared| find(declared, name)) {
        Some(argument) => {
            format!("argument `{name}` wants `{}`, not `{text}`: {why}{written_as}", argument.type_text)
        }
        None => format!("argument `{name}` cannot be `{text}`: {why}{written_as}"),
    }
}

/// A decoder's error without the place in a text that the user never saw.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// `body` if the job takes it.
pub(super) fn checked(entry: &Entry, body: Vec<u8>) -> Result<Vec<u8>, Wrong> {
    match problems_of_json(entry, &body) {
        None => Ok(body),
        Some(problem) => Err(Wrong::Payload(vec![problem])),
    }
}

/// Why the job does not take this payload, if so.
pub(super) fn problems_of_json(entry: &Entry, body: &[u8]) -> Option<String> {
    let error = (entry.registration.check)(body).err()?;
    let missing = missing(entry, body);
    if missing.is_empty() {
        // A file's line is told by who knows it.
        return Some(format!(
            "the payload does not fit: {}",
            error.to_string().replace("at line 1 column", "at column")
        ));
    }
    let mut names = missing.iter().map(|argument| format!("`{}` ({})", argument.name, argument.type_text));
    let names = names.by_ref().collect::<Vec<_>>().join(", ");
    Some(format!("the payload lacks {names}"))
}

/// A note about the first field that the job would not read, if there is one.
///
/// It is no error: a worker ignores such fields too, so that producers can be newer.
pub(super) fn ignored(entry: &Entry, body: &[u8]) -> Option<String> {
    let Arguments::Named(declared) = entry.registration.arguments else {
        return None;
    };
    let name = fields(body)?.into_iter().find(|name| find(declared, name).is_none())?;
    Some(format!("job `{}`: {}; it may be ignored", entry.name, unknown(&name, declared)))
}

fn missing(entry: &Entry, body: &[u8]) -> Vec<&'static Argument> {
    let (Arguments::Named(declared), Some(fields)) = (entry.registration.arguments, fields(body)) else {
        return Vec::new();
    };
    declared.iter().filter(|argument| argument.required && !fields.contains(argument.name)).collect()
}

fn fields(body: &[u8]) -> Option<BTreeSet<String>> {
    let object: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    Some(object.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{Context, Handler, Job, JobResult, Registry, cli::enqueue::sample::Everything};

    /// An object whose decoder buffers, so that its errors name no place.
    #[derive(Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        inner: Untagged,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Named { name: String, count: u8 },
    }

    impl Job for Flat {
        const NAME: &'static str = "flat";
        type Return = ();
    }

    impl Handler for Flat {
        const ARGUMENTS: Arguments = Arguments::Whole("Flat");

        async fn run(self, _: Context) -> JobResult<()> {
            Ok(())
        }
    }

    fn body_of<J: Handler>(pairs: &[&str]) -> Result<String, Wrong> {
        let registry = Registry::new().with::<J>();
        let entry = registry.entries().next().unwrap();
        let pairs: Vec<_> = pairs.iter().map(ToString::to_string).collect();
        payload(entry, &pairs).map(|body| String::from_utf8(body).unwrap())
    }

    fn everything(pairs: &[&str]) -> Result<String, Wrong> {
        body_of::<Everything>(&[&["text=a", "number=1", "list=[]"], pairs].concat())
    }

    fn problems(pairs: &[&str]) -> Vec<String> {
        match body_of::<Everything>(pairs) {
            Err(Wrong::Payload(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_value_is_read_as_its_argument_wants_it() {
        let body = body_of::<Everything>(&["text=42", "number=42", r#"list=["a", "b"]"#, r#"nested={"ratio": 1}"#]);
        assert_eq!(body.unwrap(), r#"{"text":"42","number":42,"list":["a", "b"],"nested":{"ratio": 1}}"#);
    }

    #[test]
    fn a_text_that_looks_like_json_stays_text_where_the_type_is_text() {
        assert!(body_of::<Everything>(&["text=null", "number=1", "list=[]"]).unwrap().contains(r#""text":"null""#));
        assert!(everything(&["id=0123"]).unwrap().contains(r#""id":"0123""#));
        assert!(everything(&["id=123"]).unwrap().contains(r#""id":"123""#), "refused as a number, taken as text");
        assert!(everything(&["any=123"]).unwrap().contains(r#""any":123"#));
        assert!(everything(&["text=a=b"]).is_err(), "twice");
    }

    #[test]
    fn long_numbers_keep_their_digits() {
        assert!(everything(&["any=12345678901234567890123.10"]).unwrap().contains("12345678901234567890123.10"));
    }

    #[test]
    fn an_error_names_the_argument_its_type_and_what_was_wrong() {
        let problem = &problems(&["text=a", "number=4.5", "list=[]"])[0];
        assert_eq!(
            problem,
            "argument `number` wants `u64`, not `4.5`: invalid type: floating point `4.5`, expected u64"
        );
        let problem = &problems(&["number=x", "text=a", "list=[]"])[0];
        assert_eq!(problem, "argument `number` wants `u64`, not `x`: invalid type: string \"x\", expected u64");
        let problem = &problems(&["text=a", "number=1", "list=a,b"])[0];
        assert!(problem.contains("`list` wants `Vec<String>`") && problem.contains("`list='[…, …]'`"), "{problem}");
        let problem = &problems(&["text=a", "number=1", "list=[]", "nested={\"ratio\":\n\"x\"}"])[0];
        assert!(problem.contains("`nested`"), "{problem}");
        let problem = &problems(&["text=a", "number=1", "nested={}", "list=[]"])[0];
        assert!(problem.contains("`nested`") && problem.contains("missing field `ratio`"), "{problem}");
    }

    #[test]
    fn all_unknown_and_missing_arguments_are_named() {
        let problems = problems(&["txt=a", "colour=red"]);
        assert_eq!(
            problems,
            [
                "there is no argument `txt`; did you mean `text`?",
                "there is no argument `colour`",
                "argument `text` (`String`) is missing",
                "argument `number` (`u64`) is missing",
                "argument `list` (`Vec<String>`) is missing",
            ]
        );
        assert!(matches!(everything(&["flag"]), Err(Wrong::Usage(text)) if text.contains("name=value")));
    }

    #[test]
    fn an_error_without_a_place_is_met_by_trying() {
        assert_eq!(body_of::<Flat>(&["name=5", "count=5"]).unwrap(), r#"{"name":"5","count":5}"#);
        assert!(body_of::<Flat>(&["name=a", "count=x"]).is_err());
    }

    #[test]
    fn a_whole_payload_is_checked_as_the_worker_would() {
        let registry = Registry::new().with::<Everything>();
        let entry = registry.entries().next().unwrap();
        let problem = |json: &str| problems_of_json(entry, json.as_bytes());
        assert_eq!(problem(r#"{"text":"a","number":1,"list":[],"extra":1}"#), None);
        assert_eq!(problem(r#"{"text":"a"}"#).unwrap(), "the payload lacks `number` (u64), `list` (Vec<String>)");
        assert!(problem("{").unwrap().contains("EOF"));
        let note = ignored(entry, br#"{"text":"a","nmber":1}"#).unwrap();
        assert!(note.contains("`nmber`; did you mean `number`?"), "{note}");
    }
}
