//! A leading underscore says that an argument is not used, and is not part of its key.

use worker_core::{Argument, Arguments, Handler, job};

use serde_json::json;

#[job]
async fn ui_underscores(_user_id: u64, __id: u64, _type: String) {}

#[test]
fn the_key_has_no_underscore() {
    let payload = ui_underscores::new(1, 2, "t").into_job();
    assert_eq!((payload.user_id, payload._id, &*payload.r#type), (1, 2, "t"));
    assert_eq!(serde_json::to_value(payload).unwrap(), json!({"user_id": 1, "_id": 2, "type": "t"}));
}

#[test]
fn nor_has_the_name_on_the_command_line() {
    let Arguments::Named(arguments) = ui_underscores::ARGUMENTS else { panic!("named arguments") };
    let names: Vec<_> = arguments.iter().map(|Argument { name, .. }| *name).collect();
    assert_eq!(names, ["user_id", "_id", "type"]);
}
