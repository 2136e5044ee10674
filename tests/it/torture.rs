//! The torture ([`worker_tests::torture`]), in small. `tests/run.sh` runs these alone, after all others: each has
//! several processes and servers, and what disturbs them should be what the plan says.

use std::process::Command;

/// Runs `torture` with these arguments; it must say that all is valid.
fn torture(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).args(args).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "torture {args:?}: {}\n{said}\n{told}", output.status);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_server_and_processes_that_are_harmed_in_every_way_lose_nothing() {
    torture(&["run", "smoke"]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn processes_that_are_killed_and_frozen_on_one_file_lose_nothing() {
    torture(&["run", "smoke-sqlite"]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_job_that_kills_its_worker_is_a_dead_letter_after_three_starts_and_no_other_is() {
    torture(&["run", "poison", "--jobs", "2002"]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn workers_that_are_asked_to_end_finish_all_that_runs() {
    torture(&["shutdowns", "--rounds", "3", "--together", "4"]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn whatever_a_loss_of_power_leaves_of_a_file_has_all_that_was_acknowledged() {
    torture(&["torn", "--images", "300"]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_server_that_is_away_costs_a_worker_little() {
    torture(&["away", "--seconds", "30"]);
}

/// A harness that never fails proves nothing.
#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_variant_that_acknowledges_before_the_confirm_is_caught() {
    torture(&["mutants", "--only", "AckBeforeConfirm"]);
}
