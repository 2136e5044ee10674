//! `enqueue`: what is durable afterwards, and what is said about what is not.

use super::program::{Printed, Program};

fn ready(program: &Program, queue: &str) -> String {
    program.run(&["queues"]).exits(0).row(queue)[1].clone()
}

#[test]
fn the_id_is_printed_once_the_job_is_durable() {
    let program = Program::new();
    let printed = program.run(&["enqueue", "add", "a=1", "b=-2"]).exits(0);
    assert_eq!(printed.stdout.trim().len(), 36, "{printed}");
    assert_eq!(ready(&program, "calculator"), "1");
    assert_eq!(program.run(&["enqueue", "ping", "--id", "order-1"]).exits(0).stdout, "order-1\n");
}

#[test]
fn arguments_are_read_as_the_job_wants_them() {
    let program = Program::new();
    for line in [
        &["echo", "text=42"][..],
        &["echo", "text=null"],
        &["echo", "text=a=b"],
        &["greet", "name=Ada", "loud=true"],
        &["settings", "retries=3", "tags=[\"a\"]", "ratio=1"],
        &["whole", "id=17", "amount=5"],
        &["whole", "--json", "{\"id\": \"x\", \"amount\": 1}"],
        &["ping", "--json", "{}"],
    ] {
        program.run(&[&["enqueue"], line].concat()).exits(0);
    }
    assert_eq!(ready(&program, "orders"), "2");
}

#[test]
fn a_wrong_payload_is_refused_by_argument_and_type_before_anything_is_created() {
    let program = Program::new();
    let refused = |line: &[&str]| program.run(&[&["enqueue"], line].concat()).exits(65);
    refused(&["add", "a=1", "b=x"]).says(&["argument `b` wants `i64`, not `x`", "takes a: i64, b: i64"]);
    refused(&["echo", "txt=a"]).says(&["no argument `txt`; did you mean `text`?", "`text` (`String`) is missing"]);
    refused(&["add"]).says(&["`a` (`i64`) is missing", "`b` (`i64`) is missing"]);
    refused(&["settings", "retries=1", "tags=a,b", "ratio=1"]).says(&["`tags='[…, …]'`"]);
    refused(&["echo", "--json", "{\"text\": 1}"]).says(&["expected a string"]);
    refused(&["add", "--json", "{}"]).says(&["lacks `a` (i64), `b` (i64)"]);
    refused(&["whole", "id=17"]).says(&["missing field `amount`"]);
    assert!(!program.path("jobs.db").exists());
}

#[test]
fn a_mistake_on_the_command_line_is_told_with_the_way_out() {
    let program = Program::new();
    let refused = |line: &[&str]| program.run(&[&["enqueue"], line].concat()).exits(2);
    refused(&["ecko"]).says(&["no job `ecko`; did you mean `echo`?", "jobs: add, echo"]);
    refused(&["echo", "text"]).says(&["write `name=value`"]);
    refused(&["ping", "--in", "5"]).says(&["write `5s`"]);
    refused(&["ping", "--at", "tomorrow"]).says(&["2026-03-01T09:00:00+01:00"]);
    refused(&["ping", "--priority", "32"]).says(&["0..=31"]);
    refused(&["ping", "--header", "x-death=1"]).says(&["`x-death` is written by the framework"]);
    refused(&["ping", "--in", "400d"]).says(&["the limit is 366"]);
    assert!(!program.path("jobs.db").exists());
}

#[test]
fn a_date_that_has_passed_is_noted() {
    let program = Program::new();
    program.run(&["enqueue", "ping", "--at", "2020-01-01T00:00:00+01:00"]).exits(0).says(&["due at once"]);
}

#[test]
fn answers_are_lines_of_json() {
    let program = Program::new();
    let file = program.write("jobs.ndjson", "{\"text\":\"a\"}\n\n{\"text\":\"b\"}\n");
    let printed = program.run(&["enqueue", "echo", "--file", &file, "--answers"]).exits(0);
    let answers: Vec<serde_json::Value> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    assert!(answers.iter().all(|answer| answer["id"].is_string() && answer["error"].is_null()));
}

#[test]
fn a_file_with_wrong_lines_enqueues_nothing() {
    let program = Program::new();
    let mut lines = "{\"text\":\"a\"}\n".to_owned();
    lines.push_str(&"{\"txt\":1}\n".repeat(12));
    let file = program.write("jobs.ndjson", &lines);
    let refused = program.run(&["enqueue", "echo", "--file", &file]).exits(65);
    let refused =
        refused.says(&["12 lines of 13 wrong; nothing was enqueued", "line 2: ", "lacks `text`", "and 2 more"]);
    assert!(!refused.stderr.contains("line 12"), "{refused}");
    assert!(!program.path("jobs.db").exists());
}

#[test]
fn a_line_beyond_the_limit_is_wrong() {
    let program = Program::new().with("WORKER_PAYLOAD_MAX", "20");
    let file = program.write("jobs.ndjson", "{\"text\":\"much too long\"}\n{\"text\":\"a\"}\n");
    program.run(&["enqueue", "echo", "--file", &file]).exits(65).says(&["line 1: ", "the limit is 20"]);
}

#[test]
fn a_long_file_is_enqueued_whole() {
    let program = Program::new();
    let lines = (0..3_000).map(|n| format!("{{\"text\":\"{n}\"}}\n")).collect::<String>();
    let file = program.write("jobs.ndjson", &lines);
    let done = program.run(&["enqueue", "echo", "--file", &file]).exits(0);
    done.says(&["enqueued 3000 jobs `echo` on queue `default`"]);
    assert_eq!(ready(&program, "default"), "3000");
}

#[test]
fn standard_input_stops_at_its_first_wrong_line_and_says_how_many_are_durable() {
    let program = Program::new();
    let input = "{\"text\":\"a\"}\n{\"text\":\"b\"}\noops\n{\"text\":\"c\"}\n";
    let stopped = program.run_with_input(&["enqueue", "echo", "--file", "-"], input).exits(75);
    stopped.says(&["line 3: ", "stopped: 2 jobs enqueued"]);
    assert_eq!(ready(&program, "default"), "2");
    program.run_with_input(&["enqueue", "echo", "--file", "-"], "oops").exits(65);
}

#[test]
fn jobs_from_standard_input_are_durable_as_they_come_and_a_signal_stops_between_two() {
    let program = Program::new();
    let mut running = program.start_with_input(&["enqueue", "echo", "--file", "-", "--answers"]);
    running.write("{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    running.stdout.wait_for("\"line\":2");
    running.signal("INT");
    running.wait().exits(75).says(&["stopped: 2 jobs enqueued"]);
    assert_eq!(ready(&program, "default"), "2");
}

#[test]
fn a_broker_that_fails_half_way_ends_it_with_the_number_of_durable_jobs() {
    let program = Program::new().with("WORKER_SQLITE_BUSY_TIMEOUT", "50ms");
    let mut running = program.start_with_input(&["enqueue", "echo", "--file", "-", "--answers"]);
    running.write("{\"text\":\"a\"}\n");
    running.stdout.wait_for("\"line\":1");
    let lock = rusqlite::Connection::open(program.path("jobs.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.write("{\"text\":\"b\"}\n");
    let stopped = running.wait().exits(75).says(&["line 2: job `echo`", "was not enqueued", "stopped: 1 job enqueued"]);
    assert!(stopped.stdout.lines().nth(1).unwrap().contains("\"error\":\"job `echo`"), "{stopped}");
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_jobs() {
    let program = Program::new();
    let lines = (0..3_000).map(|n| format!("{{\"text\":\"{n}\"}}\n")).collect::<String>();
    program.write("jobs.ndjson", &lines);
    let line = format!("{} enqueue echo --file jobs.ndjson --answers | head -n 1", env!("CARGO_BIN_EXE_fixture"));
    let printed: Printed = program.shell(&line).exits(0);
    assert_eq!(printed.stdout.lines().count(), 1, "{printed}");
    assert!(!printed.stderr.contains("panicked"), "{printed}");
    assert_eq!(ready(&program, "default"), "3000");
    let printed = program.shell(&format!("{} jobs | head -n 1", env!("CARGO_BIN_EXE_fixture"))).exits(0);
    assert_eq!(printed.stderr, "");
}
