//! What the compiler says about the type of an argument it says about the function, and not again about what is generated.
#![deny(deprecated, private_interfaces, unused_qualifications)]

use serde::{Deserialize, Serialize};
use serde_json::json;
use worker_core::job;

#[derive(Serialize, Deserialize)]
struct Private;

#[deprecated]
#[derive(Serialize, Deserialize)]
pub(super) struct Deprecated;

#[job]
#[expect(private_interfaces, reason = "of the function")]
pub(super) async fn ui_private_type(_private: Private) {}

#[job]
#[expect(deprecated, reason = "of the function")]
async fn ui_deprecated_type(_deprecated: Deprecated) {}

#[job]
#[expect(unused_qualifications, reason = "of the function")]
async fn ui_qualified_type(_n: Option<serde_json::Value>, _private: self::Private) {}

#[test]
fn they_are_jobs_all_the_same() {
    assert_eq!(serde_json::to_value(ui_private_type::new(Private).into_job()).unwrap(), json!({"private": null}));
    assert!(serde_json::from_str::<ui_deprecated_type>(r#"{"deprecated": null}"#).is_ok());
    assert!(serde_json::from_str::<ui_qualified_type>(r#"{"private": null}"#).is_ok());
}
