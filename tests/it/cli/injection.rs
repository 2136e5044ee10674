//! Texts of others that would forge a line of the log or command a terminal: names, ids, errors, headers, payloads.

use rusqlite::params;

use super::program::Program;

/// An end of the line, a line as our own log has them, and what terminals act on: in one byte, in two, and in letters.
const HOSTILE: &str = "no\r\n2026-11-29T00:00:00Z  INFO worker: all is well\u{1b}[2J\u{9b}31m\u{7}\u{202e}\u{2028}";

/// Whether a terminal acts on it instead of showing it.
fn is_command(c: char) -> bool {
    let is_separator = matches!(c, '\n' | '\t');
    (c.is_control() && !is_separator) || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[track_caller]
fn assert_harmless(printed: &str) {
    assert!(!printed.contains(is_command), "{printed:?}");
    let forged = printed.lines().find(|line| line.starts_with("2026-11-29"));
    assert_eq!(forged, None, "{printed}");
}

/// A file with two jobs: one fails with hostile words, the other was written by somebody else, with such names.
fn with_hostile_jobs() -> Program {
    let program = Program::new();
    let (message, header) = (format!("message={HOSTILE}"), format!("tenant={HOSTILE}"));
    program.run(&["enqueue", "fail", &message, "--id", "words", "--header", &header]).exits(0);
    program.run(&["enqueue", "fail", "message=x", "--id", "names"]).exits(0);
    let file = rusqlite::Connection::open(program.path("jobs.db")).unwrap();
    let change = "UPDATE jobs SET id = ?1, name = ?1, headers = ?2 WHERE id = 'names'";
    let headers = serde_json::json!({HOSTILE: HOSTILE}).to_string();
    assert_eq!(file.execute(change, params![HOSTILE, headers]).unwrap(), 1);
    program
}

/// What a worker logs of both.
fn log(program: &Program) -> String {
    let running = program.start(&["run"]);
    running.stderr.wait_for("all is well");
    running.stderr.wait_for("job name");
    running.signal("TERM");
    running.end().exits(0).stderr
}

#[test]
fn an_event_of_the_log_is_one_line_whatever_is_in_it() {
    let patience = |program: Program| program.with("WORKER_UNKNOWN_JOB_PATIENCE", "0s").with("RUST_LOG", "debug");
    let pretty = log(&patience(with_hostile_jobs()).with("WORKER_LOG_FORMAT", "pretty"));
    assert_harmless(&pretty);
    assert!(pretty.lines().all(|line| line.starts_with("20")), "each begins with its date: {pretty}");
    let json = log(&patience(with_hostile_jobs()).with("WORKER_LOG_FORMAT", "json"));
    assert_harmless(&json);
    let mut events = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(events.any(|event| event["error"] == HOSTILE), "as JSON it is the same text: {json}");
}

#[test]
fn no_command_shows_a_terminal_what_it_would_act_on() {
    let program = with_hostile_jobs().with("WORKER_UNKNOWN_JOB_PATIENCE", "0s").with("NO_COLOR", "1");
    log(&program);
    let list = program.run(&["dlq", "list", "--json"]).exits(0);
    assert_eq!(list.json()["jobs"].as_array().map(Vec::len), Some(2));
    assert_harmless(&list.stdout);
    for args in [&["dlq", "list"][..], &["dlq", "show", "words"], &["queues"], &["dlq", "drop", "--all", "--dry-run"]] {
        assert_harmless(&program.run(args).exits(0).to_string());
        assert_harmless(&program.start_at_terminal(200, args).wait().exits(0).stdout.replace('\r', ""));
    }
    // What is typed is repeated by the messages about it, on its lines.
    for args in [&["enqueue", HOSTILE][..], &["enqueue", "fail", HOSTILE], &["run", "--queues", HOSTILE]] {
        let said = program.run(args).to_string();
        assert!(!said.contains(is_command), "{said:?}");
    }
}
