//! The framework under another path, as a crate that re-exports it has it.

extern crate worker_core as renamed;

use self::facade::jobs::{Context, Job, job};

pub(crate) mod facade {
    pub(crate) use worker_core as jobs;
}

#[job(crate = facade::jobs)]
async fn ui_through_a_facade(_n: u8, _cx: Context) {}

#[job(crate = self::renamed)]
fn ui_renamed(_n: u8) {}

#[job(crate = ::worker_core)]
async fn ui_absolute() {}

#[test]
fn it_is_a_job_all_the_same() {
    assert_eq!(ui_through_a_facade::NAME, "ui_through_a_facade");
    assert_eq!(ui_renamed::NAME, "ui_renamed");
    assert_eq!(ui_through_a_facade::new(1).into_job().n, 1);
}
