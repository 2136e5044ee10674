//! Arguments of any owned type, with documentation and serde attributes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use worker_core::{Argument, Arguments, Handler, Job, job};

use serde_json::json;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair<A, B> {
    left: A,
    right: B,
}

type Amount = u64;

fn ten() -> u8 {
    10
}

/// Takes much.
#[job(name = "ui_arguments")]
#[expect(clippy::too_many_arguments, reason = "this is what is tested")]
pub(crate) fn arguments(
    /// Where the picture is.
    path: PathBuf,
    /** Over
    two lines. */
    pairs: Vec<Pair<u8, String>>,
    mut amount: Amount,
    note: Option<String>,
    text: Cow<'static, str>,
    table: HashMap<String, BTreeMap<u8, [(u8, bool); 2]>>,
    unit: (),
    #[serde(default)] colour: String,
    #[serde(default = "ten", rename = "howMany", alias = "count")]
    #[expect(unused_variables, reason = "other attributes stay on the argument")]
    how_many: u8,
    #[serde(flatten)] rest: BTreeMap<String, bool>,
) -> bool {
    amount += 1;
    let () = unit;
    amount == 8
        && path.is_absolute()
        && (pairs.len(), note, &*text, table.len(), &*colour, rest.len()) == (1, None, "t", 0, "", 1)
}

fn example() -> arguments {
    let pair = Pair { left: 1, right: "r".to_owned() };
    let rest = BTreeMap::from([("extra".to_owned(), true)]);
    // Text converts, whatever it comes as.
    arguments::new("/tmp/a.png", vec![pair], 7, None, "t".into(), HashMap::new(), (), "", 3, rest).into_job()
}

#[test]
fn the_payload_is_an_object_of_the_arguments() {
    let expected = json!({
        "path": "/tmp/a.png", "pairs": [{"left": 1, "right": "r"}], "amount": 7, "note": null, "text": "t",
        "table": {}, "unit": null, "colour": "", "howMany": 3, "extra": true,
    });
    assert_eq!(serde_json::to_value(example()).unwrap(), expected);
}

#[test]
fn what_is_optional_may_be_missing() {
    let body = json!({
        "path": "/tmp/a.png", "pairs": [], "amount": 7, "text": "t", "table": {"a": {"1": [[1, true], [2, false]]}},
        "unit": null, "count": 4, "other": false,
    });
    let payload: arguments = serde_json::from_value(body).unwrap();
    assert_eq!((payload.note, &*payload.colour, payload.how_many), (None, "", 4));
    assert_eq!(payload.rest, BTreeMap::from([("other".to_owned(), false)]));

    let refusal = serde_json::from_str::<arguments>("{}").unwrap_err();
    assert!(refusal.to_string().contains("missing field `path`"), "{refusal}");
}

#[test]
fn the_function_is_called_like_any_other() {
    let arguments { path, pairs, amount, note, text, table, unit, colour, how_many, rest } = example();
    assert!(arguments(path, pairs, amount, note, text, table, unit, colour, how_many, rest));
}

#[test]
fn the_command_line_is_told_the_keys_and_types() {
    const fn argument(name: &'static str, type_text: &'static str, required: bool) -> Argument {
        Argument { name, type_text, required }
    }
    const EXPECTED: &[Argument] = &[
        argument("path", "PathBuf", true),
        argument("pairs", "Vec<Pair<u8, String>>", true),
        argument("amount", "Amount", true),
        argument("note", "Option<String>", false),
        argument("text", "Cow<'static, str>", true),
        argument("table", "HashMap<String, BTreeMap<u8, [(u8, bool); 2]>>", true),
        argument("unit", "()", true),
        argument("colour", "String", false),
        argument("howMany", "u8", false),
    ];
    assert_eq!(arguments::ARGUMENTS, Arguments::Named(EXPECTED));
    assert_eq!(arguments::SUMMARY, "Takes much.");
    assert_eq!(arguments::NAME, "ui_arguments");
}
