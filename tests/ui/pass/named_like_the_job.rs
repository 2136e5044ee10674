//! Arguments with names that generated code might have wanted for itself.
#![expect(clippy::self_named_constructors, reason = "one job is called `new`")]

use worker_core::{Context, State, job};

use serde_json::json;

#[job(name = "ui_named_like_the_job")]
async fn order(order: u64, new: u8, cx: bool, job: char, self_: (), f: u8, field: u8) -> bool {
    let () = self_;
    order == 1 && new == 2 && cx && job == 'j' && f == 3 && field == 4
}

/// A job called like the context of its own wrapper.
#[job(name = "ui_cx")]
async fn cx(cx: u8, context: Context, state: State<u8>) -> bool {
    let _ = (context, state);
    cx == 1
}

/// A job called like what its payload type has.
#[job(name = "ui_new")]
fn new(new: u8) {
    let _ = new;
}

#[job(name = "ui_raw")]
async fn r#type(r#match: u8, _fn: u8) {
    let _ = r#match;
}

#[test]
fn each_is_a_key_of_its_own() {
    let payload = order::new(1, 2, true, 'j', (), 3, 4).into_job();
    let expected = json!({"order": 1, "new": 2, "cx": true, "job": "j", "self_": null, "f": 3, "field": 4});
    assert_eq!(serde_json::to_value(payload).unwrap(), expected);
    assert_eq!(serde_json::to_value(cx::new(1).into_job()).unwrap(), json!({"cx": 1}));
    assert_eq!(serde_json::to_value(new::new(1).into_job()).unwrap(), json!({"new": 1}));
}

#[test]
fn a_raw_name_is_raw_in_the_source_only() {
    let payload = r#type::new(1, 2).into_job();
    assert_eq!(format!("{payload:?}"), "type { match: 1, fn: 2 }");
    assert_eq!(serde_json::to_value(payload).unwrap(), json!({"match": 1, "fn": 2}));
}

#[tokio::test]
async fn the_function_is_still_the_function() {
    assert!(order(1, 2, true, 'j', (), 3, 4).await);
}
