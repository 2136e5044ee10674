//! The torture ([`worker_tests::torture`]), in small. `tests/run.sh` runs these alone, after all others: each has
//! several processes and servers, and what disturbs them should be what the plan says.

use std::process::Command;

use worker_tests::disk::SmallDisk;

/// Runs `torture` with these arguments; it must say that all is valid.
fn torture(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).args(args).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "torture {args:?}: {}\n{said}\n{told}", output.status);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_server_and_processes_that_are_harmed_in_many_ways_lose_nothing() {
    // Without kills of the node: a queue that is declared in that moment is lost, which is the server's doing.
    // `rabbit_faults` has them, and `cargo torture run smoke`.
    let of_processes = "kill-worker=10,freeze-worker=1,restart-worker=2,kill-producer=2";
    let of_servers = "freeze-node=1,close-connections=3,reset=3,stall-to-client=1,stall-to-node=1,slow=1,corrupt=2,delete-queue=1,consumer-timeout=1";
    let faults = format!("{of_processes},{of_servers},memory-alarm=1,disk-alarm=1");
    torture(&["run", "smoke", "--faults", &faults]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn jobs_that_share_messages_are_lost_as_little() {
    // Without kills of the node, for the reason above.
    torture(&[
        "run",
        "bundles",
        "--faults",
        "kill-worker=6,restart-worker=3,kill-producer=1,close-connections=2,reset=1,consumer-timeout=1",
    ]);
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn processes_that_are_killed_and_frozen_on_one_file_lose_nothing() {
    torture(&["run", "smoke-sqlite"]);
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

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn a_disk_that_is_full_at_any_page_loses_nothing_and_all_goes_on_when_it_has_room() {
    match SmallDisk::mount(1 << 20) {
        Ok(_) => torture(&["full", "--pages", "60"]),
        Err(error) => eprintln!("skipped: {error}"),
    }
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn files_that_rot_make_no_worker_panic_or_hang() {
    torture(&["rotten", "--images", "60"]);
}
