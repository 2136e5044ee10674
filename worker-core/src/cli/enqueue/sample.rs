//! A job whose arguments are tested and fuzzed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    handler::{Argument, Arguments, Context, Handler},
    job::Job,
    outcome::JobResult,
};

/// A job that takes something of each kind.
#[derive(Serialize, Deserialize)]
pub(super) struct Everything {
    text: String,
    number: u64,
    list: Vec<String>,
    nested: Option<Inner>,
    any: Option<Value>,
    id: Option<Id>,
}

#[derive(Serialize, Deserialize)]
struct Inner {
    ratio: f64,
}

/// A text whose type does not say so.
#[derive(Serialize, Deserialize)]
struct Id(String);

const fn argument(name: &'static str, type_text: &'static str, required: bool) -> Argument {
    Argument { name, type_text, required }
}

impl Job for Everything {
    const NAME: &'static str = "everything";
    type Return = ();
}

impl Handler for Everything {
    const ARGUMENTS: Arguments = Arguments::Named(&[
        argument("text", "String", true),
        argument("number", "u64", true),
        argument("list", "Vec<String>", true),
        argument("nested", "Option<Inner>", false),
        argument("any", "Option<serde_json::Value>", false),
        argument("id", "Option<Id>", false),
    ]);

    async fn run(self, _: Context) -> JobResult<()> {
        Ok(())
    }
}
