//! Other attributes, above and below.
#![deny(deprecated)]

use worker_core::{Handler, Job, job};

use serde_json::json;

#[cfg(not(windows))]
#[job]
#[cfg(not(any(windows, target_os = "none")))]
async fn ui_cfg_true(_n: u8) {}

#[job]
#[cfg(target_os = "none")]
async fn ui_cfg_false(n: NoSuchType) {}

#[cfg(target_os = "none")]
#[job]
async fn ui_cfg_false_above(n: NoSuchType) {}

/// The one that is not left out.
#[cfg(target_os = "none")]
#[job]
async fn ui_either(n: u8) {}

#[job]
#[cfg(not(target_os = "none"))]
async fn ui_either(_text: String) {}

/// Reports.
///
/// More than this is not the summary.
#[deprecated(note = "enqueue `ui_cfg_true`")]
#[job]
#[must_use = "the result says whether it is still there"]
async fn ui_deprecated_above(n: u8) -> bool {
    n == 1
}

#[doc = "  "]
#[doc = " Counts. "]
#[job]
#[deprecated]
#[inline(never)]
#[expect(unused_variables, reason = "lints are the function's")]
fn ui_deprecated_below(n: u8) {}

#[test]
fn a_job_that_is_left_out_leaves_nothing_behind() {
    assert_eq!(ui_cfg_true::new(1).into_job().n, 1);
    assert_eq!(serde_json::to_value(ui_either::new("t").into_job()).unwrap(), json!({"text": "t"}));
}

#[test]
#[expect(deprecated, reason = "enqueueing a deprecated job warns, and so does calling it")]
fn a_deprecated_job_warns_where_it_is_used() {
    drop(ui_deprecated_above(1));
    assert_eq!(ui_deprecated_above::new(1).into_job().n, 1);
}

#[test]
#[expect(deprecated, reason = "`new` alone")]
fn enqueueing_a_deprecated_job_warns() {
    assert_eq!(ui_deprecated_below::new(1).into_job().n, 1);
}

#[test]
fn the_summary_is_the_first_line_of_the_documentation() {
    assert_eq!(ui_deprecated_above::SUMMARY, "Reports.");
    assert_eq!(ui_deprecated_below::SUMMARY, "Counts.");
    assert_eq!(ui_deprecated_below::NAME, "ui_deprecated_below");
}
