//! The whole body as one type, in both spellings.

use serde::{Deserialize, Serialize};
use worker_core::{Arguments, Context, Handler, Payload, job};

use serde_json::json;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    id: u64,
}

#[job]
pub(crate) async fn ui_payload_pattern(Payload(order): Payload<Order>, _cx: Context) -> bool {
    order.id == 7
}

#[job]
pub(crate) fn ui_payload_plain(mut order: Payload<Vec<Order>>) -> bool {
    order.0.pop().is_some_and(|order| order.id == 7)
}

#[job]
async fn ui_payload_mut(Payload(mut text): Payload<String>) {
    text.push('!');
}

#[test]
fn the_body_is_the_value_itself() {
    let payload = ui_payload_pattern::new(Order { id: 7 }).into_job();
    assert_eq!(payload.order, Order { id: 7 });
    assert_eq!(serde_json::to_value(&payload).unwrap(), json!({"id": 7}));
    let read: ui_payload_pattern = serde_json::from_value(json!({"id": 7, "unknown": true})).unwrap();
    assert_eq!(read.order, payload.order);

    let payload = ui_payload_plain::new(vec![Order { id: 7 }]).into_job();
    assert_eq!(serde_json::to_value(payload).unwrap(), json!([{"id": 7}]));
    assert_eq!(serde_json::to_value(ui_payload_mut::new("text").into_job()).unwrap(), json!("text"));
}

#[test]
fn the_command_line_is_told_the_type() {
    assert_eq!(ui_payload_pattern::ARGUMENTS, Arguments::Whole("Order"));
    assert_eq!(ui_payload_plain::ARGUMENTS, Arguments::Whole("Vec<Order>"));
}

#[test]
fn the_function_takes_the_payload() {
    assert!(ui_payload_plain(Payload(vec![Order { id: 7 }])));
}
