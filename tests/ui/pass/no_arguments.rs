//! A job without arguments.

use worker_core::{Arguments, Handler, Job, job};

use serde_json::json;

#[job]
async fn ui_no_arguments() {}

#[test]
fn the_payload_is_an_empty_object() {
    let payload = ui_no_arguments::new().into_job();
    assert_eq!(serde_json::to_value(&payload).unwrap(), json!({}));
    assert_eq!(format!("{payload:?}"), "ui_no_arguments");
    // Both spellings of the payload are one type.
    let ui_no_arguments {} = serde_json::from_str("{}").unwrap();
}

#[test]
fn the_command_line_is_told_that_there_are_none() {
    assert_eq!(ui_no_arguments::ARGUMENTS, Arguments::Named(&[]));
    assert_eq!((ui_no_arguments::NAME, ui_no_arguments::SUMMARY), ("ui_no_arguments", ""));
}
