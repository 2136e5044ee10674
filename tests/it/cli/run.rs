//! `run`: a worker, its log, its signals, its exit code.

use super::program::{Program, Running};

fn started(program: &Program, args: &[&str]) -> Running {
    let running = program.start(&[&["run"], args].concat());
    running.stderr.wait_for("worker started");
    running
}

/// The line of a JSON log with this message.
fn line(log: &str, message: &str) -> serde_json::Value {
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.rfind(|line| line["message"] == message).unwrap_or_else(|| panic!("no `{message}` in:\n{log}"))
}

#[test]
fn jobs_run_until_a_signal_asks_for_the_end() {
    let program = Program::new();
    program.run(&["enqueue", "greet", "name=Ada"]).exits(0);
    program.run(&["enqueue", "fail", "message=on purpose", "--id", "f"]).exits(0);
    let running = started(&program, &[]);
    running.stderr.wait_for("job dead-lettered");
    running.signal("TERM");
    let log = running.end().exits(0).stderr;
    let dead = line(&log, "job dead-lettered");
    assert_eq!(
        (&dead["level"], &dead["kind"], &dead["error"]),
        (&"WARN".into(), &"error".into(), &"on purpose".into())
    );
    let span = &dead["span"];
    assert_eq!(
        (&span["job"], &span["job_id"], &span["queue"], &span["attempt"]),
        (&"fail".into(), &"f".into(), &"trouble".into(), &1.into())
    );
    assert!(log.contains("SIGTERM: shutting down; a second signal"), "{log}");
    assert_eq!(program.run(&["queues"]).row("emails")[1..6], ["0", "0", "0", "0", "0"]);
    program.run(&["dlq", "list"]).exits(0).prints(&["f\tfail\ttrouble\terror\t1\t", "\ton purpose\n"]);
}

#[test]
fn warnings_alone_say_which_job_they_are_about() {
    let program = Program::new().with("RUST_LOG", "warn");
    program.run(&["enqueue", "fail", "message=m", "--id", "f"]).exits(0);
    let running = program.start(&["run"]);
    running.stderr.wait_for("job dead-lettered");
    running.signal("INT");
    assert_eq!(line(&running.end().exits(0).stderr, "job dead-lettered")["span"]["job_id"], "f");
}

#[test]
fn one_event_closes_each_execution_and_no_payload_is_logged() {
    const CLOSING: [&str; 5] =
        ["job succeeded", "job will be retried", "job released", "job dead-lettered", "job lost"];
    let program = Program::new().with("RUST_LOG", "trace").with("WORKER_CONCURRENCY", "4");
    program.run(&["enqueue", "echo", "text=hunter2", "--id", "fine"]).exits(0);
    program.run(&["enqueue", "fail", "message=on purpose", "--id", "failing"]).exits(0);
    program.run(&["enqueue", "add", "a=1", "b=2", "--id", "unreadable"]).exits(0);
    program.run(&["enqueue", "wait", "ms=600000", "--id", "endless", "--header", "tenant=hunter2"]).exits(0);
    // What the decoder says about it quotes the payload.
    let file = rusqlite::Connection::open(program.path("jobs.db")).unwrap();
    let body = &br#"{"a": "hunter2", "b": 2}"#[..];
    assert_eq!(file.execute("UPDATE jobs SET body = ? WHERE id = 'unreadable'", [body]).unwrap(), 1);
    let running = program.start_with_running_job(&[]);
    for ended in ["job succeeded", "\"failing\"", "\"unreadable\""] {
        running.stderr.wait_for(ended);
    }
    running.signal("TERM");
    running.stderr.wait_for("draining");
    running.signal("TERM");
    let log = running.end().exits(75).stderr;
    let closed = |id: &str| {
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of_job = lines.filter(|line| line["span"]["job_id"] == id);
        let messages = of_job.filter_map(|line| line["message"].as_str().map(str::to_owned));
        messages.filter(|message| CLOSING.iter().any(|event| message.starts_with(event))).collect::<Vec<_>>()
    };
    assert_eq!(closed("fine"), ["job succeeded"]);
    assert_eq!(closed("failing"), ["job dead-lettered"]);
    assert_eq!(closed("unreadable"), ["job dead-lettered"]);
    assert_eq!(closed("endless"), ["job released"]);
    assert!(!log.contains("hunter2"), "{log}");
    program.run(&["dlq", "show", "unreadable"]).exits(0).prints(&["string \"hunter2\", expected i64"]);
}

#[test]
fn the_log_can_be_pretty_without_a_terminal() {
    let program = Program::new().with("WORKER_LOG_FORMAT", "pretty");
    let running = started(&program, &[]);
    running.signal("TERM");
    let log = running.end().exits(0).stderr;
    assert!(log.contains(" INFO worker: worker started") && !log.contains('{') && !log.contains('\u{1b}'), "{log}");
}

#[test]
fn a_second_signal_cancels_what_runs_and_gives_it_back() {
    let program = Program::new();
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let running = program.start_with_running_job(&[]);
    running.signal("TERM");
    running.stderr.wait_for("draining");
    running.signal("TERM");
    running.end().exits(75).says(&["second signal (SIGTERM)", "1 cancelled and given back"]);
    assert_eq!(program.run(&["queues"]).row("slow")[1], "1");
}

#[test]
fn a_thread_that_never_ends_does_not_hold_up_the_end() {
    let program = Program::new();
    program.run(&["enqueue", "stuck"]).exits(0);
    let running = program.start_with_running_job(&[]);
    running.signal("INT");
    running.stderr.wait_for("SIGINT: shutting down");
    running.signal("INT");
    running.end().exits(75).says(&["given back while their threads still run"]);
    assert_eq!(program.run(&["queues"]).row("slow")[1], "1");
}

#[test]
fn the_grace_period_ends_what_does_not_end() {
    let program = Program::new();
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let running = program.start_with_running_job(&["--shutdown-timeout", "10ms"]);
    running.signal("TERM");
    running.end().exits(75).says(&["1 cancelled and given back"]);
}

#[test]
fn flags_win_over_variables_and_those_over_the_application() {
    let concurrency = |program: &Program, args: &[&str]| {
        let running = started(program, args);
        running.signal("TERM");
        line(&running.end().exits(0).stderr, "worker started")["concurrency"].clone()
    };
    let program = Program::new().with("FIXTURE", "three-slots");
    assert_eq!(concurrency(&program, &[]), 3);
    let program = program.with("WORKER_CONCURRENCY", "4");
    assert_eq!(concurrency(&program, &[]), 4);
    assert_eq!(concurrency(&program, &["--concurrency", "5"]), 5);
}

#[test]
fn a_state_that_cannot_be_made_ends_the_start() {
    let program = Program::new().with("FIXTURE", "state-fails");
    program.run(&["run"]).exits(1).says(&["Greeting", "the mail server is away"]);
    assert!(!program.path("jobs.db").exists());
    program.run(&["jobs"]).exits(0);
}

#[test]
fn a_signal_ends_a_start_that_waits() {
    let program = Program::new().with("FIXTURE", "state-hangs").with("RUST_LOG", "debug");
    let running = program.start(&["run"]);
    running.stderr.wait_for("making the application's state");
    running.signal("TERM");
    running.end().exits(0).says(&["SIGTERM before the worker had started"]);
}

#[test]
fn a_state_that_nobody_gave_is_named_with_its_job() {
    let program = Program::new().with("FIXTURE", "no-state");
    program.run(&["run"]).exits(78).says(&["job `greet` (tests/src/bin/fixture.rs:", "Greeting"]);
    let running = started(&program, &["--queues", "default,calculator"]);
    running.signal("TERM");
    running.end().exits(0);
}

#[test]
fn a_worker_in_memory_says_that_its_jobs_end_with_it() {
    let program = Program::new();
    let running = started(&program, &["--broker", "memory:"]);
    running.signal("TERM");
    running.end().exits(0).says(&["the jobs of `memory:` end with this process"]);
}
