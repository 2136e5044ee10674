//! What is fuzzed of the command line: `key=value` arguments, and the payload that they become.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{
    arguments::{Wrong, payload},
    sample::Everything,
};
use crate::registry::Registry;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::new().with::<Everything>());

/// The arguments that `input` is, with a NUL between two, as the kernel hands them over.
///
/// # Panics
///
/// The payload is not what was written, or not what the job takes; or it is refused without a reason.
pub fn arguments(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let pairs: Vec<_> = text.split('\0').map(str::to_owned).collect();
    let Some(entry) = REGISTRY.entries().next() else { return };
    let body = match payload(entry, &pairs) {
        Ok(body) => body,
        Err(Wrong::Usage(problem)) => return assert!(pairs.iter().any(|pair| !pair.contains('=')), "{problem}"),
        Err(Wrong::Payload(problems)) => return assert!(!problems.is_empty() && !problems.contains(&String::new())),
    };
    assert!((entry.registration.check)(&body).is_ok(), "the job does not take its own payload");
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(&body) else { panic!("no object") };
    assert_eq!(fields.len(), pairs.len());
    for (name, text) in pairs.iter().filter_map(|pair| pair.split_once('=')) {
        let is_text = fields[name] == text;
        assert!(is_text || serde_json::from_str::<Value>(text).is_ok_and(|json| json == fields[name]), "{name}");
    }
}
