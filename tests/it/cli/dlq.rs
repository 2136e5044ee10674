//! `dlq`: what is listed, shown, replayed and dropped, and what is left alone.

use worker_core::FailureKind::{self, Discarded, Error, TimedOut};

use super::program::Program;

const DEAD: [(&str, &str, FailureKind, &str); 4] = [
    ("a", "fail", Error, "no route to\u{1b}[31m host"),
    ("b", "fail", TimedOut, "it ran too long"),
    ("c", "reject", Discarded, "line one\nline two\t."),
    ("d", "fail", Error, "no route to host"),
];

fn with_dead() -> Program {
    let program = Program::new();
    program.bury(&DEAD);
    program
}

fn ids(program: &Program) -> Vec<String> {
    let list = program.run(&["dlq", "list"]).exits(0);
    list.stdout.lines().skip(1).map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn dead_jobs_are_listed_oldest_first_and_their_text_is_harmless() {
    let list = with_dead().run(&["dlq", "list"]).exits(0);
    assert_eq!(list.stdout.lines().next().unwrap(), "ID\tJOB\tQUEUE\tKIND\tATTEMPTS\tAGE\tERROR");
    assert_eq!(list.row("a")[1..5], ["fail", "trouble", "error", "1"]);
    assert_eq!(list.row("a")[6], "no route to\\u{1b}[31m host");
    assert_eq!(list.row("c")[6], "line one\\nline two\\t.");
    assert_eq!(list.stdout.lines().count(), 5);
}

#[test]
fn what_is_not_listed_is_counted() {
    let program = with_dead();
    let list = program.run(&["dlq", "list", "--job", "fail", "--limit", "1"]).exits(0);
    assert_eq!(list.stdout.lines().count(), 2);
    list.says(&["2 more dead jobs: `fixture dlq list --job fail --limit 3` lists all"]);
    let json = program.run(&["dlq", "list", "--kind", "error", "--json", "--limit", "1"]).exits(0).json();
    assert_eq!((json["total"].as_u64(), json["jobs"].as_array().unwrap().len()), (Some(2), 1));
    assert_eq!(json["jobs"][0]["error"], "no route to\u{1b}[31m host");
}

#[test]
fn dead_jobs_are_grouped_by_what_they_have_in_common() {
    let program = with_dead();
    let groups = program.run(&["dlq", "list", "--group-by", "kind"]).exits(0);
    assert_eq!(groups.row("error")[1], "2");
    assert_eq!(groups.stdout.lines().nth(1).unwrap().split('\t').next(), Some("error"), "the largest first");
    let json = program.run(&["dlq", "list", "--group-by", "job", "--json"]).exits(0).json();
    assert_eq!(
        (&json["total"], &json["groups"][0]["value"], &json["groups"][0]["dead"]),
        (&4.into(), &"fail".into(), &3.into())
    );
}

#[test]
fn a_dead_job_is_shown_with_its_payload_and_an_unknown_id_is_named() {
    let program = with_dead();
    let shown = program.run(&["dlq", "show", "c", "nope"]).exits(66);
    let shown = shown.prints(&["id           c\n", "line one\n             line two\\t.", "\"message\": \"of c\""]);
    shown.says(&["no dead job has the id `nope`"]);
    let json = program.run(&["dlq", "show", "c", "--json"]).exits(0).json();
    assert_eq!(json["jobs"][0]["payload"]["message"], "of c");
}

#[test]
fn a_selection_must_be_made_and_confirmed() {
    let program = with_dead();
    program.run(&["dlq", "drop"]).exits(2).says(&["nothing is selected"]);
    program.run(&["dlq", "drop", "--all"]).exits(2).says(&["no terminal", "--yes", "--dry-run"]);
    program.run(&["dlq", "drop", "--all", "--job", "fail", "--yes"]).exits(2);
    program.run(&["dlq", "drop", "--kind", "eror", "--yes"]).exits(2).says(&["'error'"]);
    assert_eq!(ids(&program).len(), 4);
}

#[test]
fn a_dry_run_shows_what_would_be_done_and_does_nothing() {
    let program = with_dead();
    let dry = program.run(&["dlq", "replay", "--job", "fail", "--dry-run"]).exits(0).says(&["would replay 3 jobs"]);
    assert_eq!(dry.stdout, "JOB\tKIND\tJOBS\nfail\terror\t2\nfail\ttimed_out\t1\n");
    let json = program.run(&["dlq", "drop", "--all", "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&json["selected"], &json["done"], &json["dry_run"]), (&4.into(), &0.into(), &true.into()));
    assert_eq!(json["groups"].as_array().unwrap().len(), 3);
    assert_eq!(ids(&program).len(), 4);
}

#[test]
fn the_selected_ones_are_replayed_and_the_others_stay() {
    let program = with_dead();
    program.run(&["dlq", "replay", "--job", "fail", "--kind", "error", "--yes"]).exits(0).says(&["replayed 2 jobs"]);
    assert_eq!(ids(&program), ["b", "c"]);
    assert_eq!(program.run(&["queues"]).row("trouble")[1], "2");
}

#[test]
fn the_selected_ones_are_dropped_and_an_unknown_id_is_named() {
    let program = with_dead();
    let dropped = program.run(&["dlq", "drop", "a", "nope", "c", "--yes"]).exits(66);
    dropped.says(&["no dead job has the id `nope`", "dropped 2 jobs"]);
    assert_eq!(ids(&program), ["b", "d"]);
    let json = program.run(&["dlq", "drop", "--all", "--yes", "--json"]).exits(0).json();
    assert_eq!((&json["action"], &json["done"], &json["left"]), (&"drop".into(), &2.into(), &0.into()));
    assert_eq!(program.run(&["queues"]).row("trouble")[1..6], ["0", "0", "0", "0", "0"]);
}

#[test]
fn nothing_matched_is_an_exit_code_of_its_own() {
    let program = with_dead();
    program.run(&["dlq", "replay", "nope", "--yes"]).exits(66).says(&["no dead job has the id `nope`"]);
    program
        .run(&["dlq", "replay", "--job", "fial", "--yes"])
        .exits(66)
        .says(&["no job is called `fial`; did you mean `fail`?"]);
    program.run(&["dlq", "drop", "--queue", "other", "--yes"]).exits(66).says(&["no dead job matches"]);
    program.run(&["dlq", "list", "--queue", "other"]).exits(0).says(&["no dead jobs match"]);
}
