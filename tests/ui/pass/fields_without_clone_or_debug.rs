//! A payload can be cloned and shown where its fields can, and is a payload where they cannot.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use worker_core::job;

use serde_json::json;

#[derive(Serialize, Deserialize)]
pub(crate) struct Opaque {
    n: u8,
}

#[job]
pub(crate) async fn ui_opaque(opaque: Opaque, plain: u8) -> bool {
    opaque.n == plain
}

#[job]
async fn ui_clear(_text: String, _n: Option<u8>) {}

fn cloned_and_shown<T: Clone + Debug>(payload: &T) -> String {
    format!("{:?}", payload.clone())
}

#[test]
fn an_opaque_field_keeps_nothing_from_working() {
    let payload = ui_opaque::new(Opaque { n: 1 }, 2).into_job();
    assert_eq!(serde_json::to_value(payload).unwrap(), json!({"opaque": {"n": 1}, "plain": 2}));
}

#[test]
fn a_clear_payload_can_be_cloned_and_shown() {
    let shown = cloned_and_shown(&ui_clear::new("t", Some(1)).into_job());
    assert_eq!(shown, r#"ui_clear { text: "t", n: Some(1) }"#);
}
