//! What a person at a terminal sees and can answer.

use worker_core::FailureKind::{self, Error, TimedOut};

use super::program::{Printed, Program};

const DEAD: [(&str, &str, FailureKind, &str); 2] =
    [("a", "fail", Error, "no route to host, although there was one yesterday"), ("b", "fail", TimedOut, "too long")];

fn with_dead() -> Program {
    let program = Program::new();
    program.bury(&DEAD);
    program
}

/// What `script` shows: both streams on one screen.
fn at_terminal(program: &Program, columns: u16, args: &[&str]) -> Printed {
    program.start_at_terminal(columns, args).wait()
}

#[test]
fn a_table_is_aligned_and_cut_to_the_width() {
    let program = with_dead().with("NO_COLOR", "1");
    let screen = at_terminal(&program, 80, &["dlq", "list"]).exits(0).stdout.replace('\r', "");
    let lines: Vec<_> = screen.lines().collect();
    assert_eq!(lines[0], "ID  JOB   QUEUE    KIND       ATTEMPTS  AGE  ERROR");
    assert!(lines[1].starts_with("a   fail  trouble  error             1   "), "{screen}");
    assert!(lines[1].ends_with('…') && lines[1].chars().count() <= 80, "{screen}");
    assert!(lines[3].starts_with("hint: `fixture dlq show a` shows"), "{screen}");
    assert!(!screen.contains('\u{1b}'), "NO_COLOR: {screen}");
}

#[test]
fn a_heading_is_bold() {
    let screen = at_terminal(&with_dead(), 80, &["queues"]).exits(0).stdout;
    assert!(screen.contains("\u{1b}[1mQUEUE"), "{screen:?}");
    assert!(screen.contains(" `fixture dlq list` shows why 2 jobs failed for good"), "{screen}");
}

#[test]
fn a_watched_table_is_drawn_again_in_its_place_until_ctrl_c() {
    let program = with_dead().with("NO_COLOR", "1");
    let mut running = program.start_at_terminal(80, &["queues", "--watch", "100ms"]);
    running.stdout.wait_for("trouble      0        0        0         0     2          0");
    program.run(&["dlq", "replay", "--all", "--yes"]).exits(0);
    running.stdout.wait_for("trouble      2        0        0         0     0          0");
    running.write("\u{3}");
    let screen = running.wait().exits(0).stdout;
    assert!(screen.contains("2 dead  Ctrl-C ends") && screen.ends_with('\n'), "{screen:?}");
    // Up by the lines of the table, which is written over.
    assert!(screen.contains("\u{1b}[2A") || screen.contains("\u{1b}[1A"), "{screen:?}");
}

#[test]
fn a_change_is_asked_for_and_no_means_no() {
    let program = with_dead();
    let mut running = program.start_at_terminal(80, &["dlq", "drop", "--all"]);
    running.stdout.wait_for("drop 2 jobs for good? [y/N] ");
    running.write("\n");
    let screen = running.wait().exits(1).stdout;
    assert!(screen.contains("fail  timed_out     1") && screen.contains("nothing was changed"), "{screen}");
    assert_eq!(program.run(&["queues"]).row("trouble")[5], "2");
}

#[test]
fn a_change_that_is_confirmed_is_made_with_progress() {
    let program = with_dead();
    let mut running = program.start_at_terminal(80, &["dlq", "replay", "--all"]);
    running.stdout.wait_for("replay 2 jobs? [y/N] ");
    running.write("y\n");
    let screen = running.wait().exits(0).stdout;
    assert!(screen.contains("━ 2/2") && screen.contains("replayed 2 jobs"), "{screen}");
    assert_eq!(program.run(&["queues"]).row("trouble")[1], "2");
}

#[test]
fn an_enqueue_says_where_the_job_went() {
    let program = Program::new();
    let screen = at_terminal(&program, 80, &["enqueue", "echo", "text=a", "--in", "5m"]).exits(0).stdout;
    assert!(screen.contains("enqueued `echo` on queue `default`, due in 5m"), "{screen}");
}

#[test]
fn ctrl_c_stops_a_long_change_after_the_batch_at_work() {
    let program = Program::new();
    let ids: Vec<_> = (0..600).map(|n| format!("j{n}")).collect();
    program.bury(&ids.iter().map(|id| (id.as_str(), "fail", Error, "e")).collect::<Vec<_>>());
    let mut running = program.start_at_terminal(80, &["dlq", "replay", "--all"]);
    running.stdout.wait_for("replay 600 jobs? [y/N] ");
    // The first batch waits for this lock, so the signal comes while it is at work.
    let lock = rusqlite::Connection::open(program.path("jobs.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.write("y\n");
    running.stdout.wait_for("0/600");
    running.write("\u{3}");
    running.stdout.wait_for("^C");
    lock.execute_batch("ROLLBACK").unwrap();
    let screen = running.wait().exits(75).stdout;
    assert!(screen.contains("stopped: replayed 200 jobs, 400 left; the same command goes on"), "{screen}");
    program.run(&["dlq", "replay", "--all", "--yes"]).exits(0).says(&["replayed 400 jobs"]);
}

#[test]
fn the_log_of_a_worker_is_pretty() {
    let program = Program::new();
    let mut running = program.start_at_terminal(120, &["run"]);
    running.stdout.wait_for("worker started");
    running.write("\u{3}");
    let screen = running.wait().exits(0).stdout;
    assert!(screen.contains("SIGINT: shutting down") && screen.contains("\u{1b}[32m INFO"), "{screen:?}");
}
