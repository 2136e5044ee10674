//! The commands that only look: `jobs`, `queues`, `health`, `config`, `completions`, help.

use worker_core::FailureKind;

use super::program::Program;

#[test]
fn help_has_the_programs_name_its_commands_and_the_exit_codes() {
    let program = Program::new();
    let help = program.run(&["--help"]).exits(0);
    let help =
        help.prints(&["Runs the jobs of the tests", "hello        Say hello", "fixture dlq list", "Exit codes:"]);
    assert!(!help.stdout.contains("myapp"), "{help}");
    for command in ["run", "enqueue", "jobs", "queues", "dlq", "topology", "health", "config", "completions"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help}");
        program.run(&[command, "--help"]).exits(0).prints(&["Usage: fixture"]);
    }
    program.run(&["--version"]).exits(0).prints(&["fixture 1.2.3 (worker-core "]);
}

#[test]
fn every_option_says_its_default_or_needs_none() {
    let lines: [&[&str]; 9] = [
        &["run"],
        &["enqueue"],
        &["queues"],
        &["health"],
        &["dlq", "list"],
        &["dlq", "replay"],
        &["topology", "show"],
        &["topology", "check"],
        &["topology", "export"],
    ];
    for line in lines {
        let help = Program::new().run(&[line, &["-h"]].concat()).exits(0).stdout;
        let options = help.split("\n\n").filter(|part| part.starts_with("Options"));
        // A long one is broken into lines, of which the first begins with its name.
        let options = options.collect::<Vec<_>>().join("\n").replace("\n      -", "\n\0-").replace("\n  -", "\n\0-");
        for option in options.split('\0').filter(|option| option.contains(" <")) {
            let is_selection =
                ["--queue <", "--job <", "--kind <", "--group-by <", "--header <", "--json <", "--file <"];
            let has_default = option.contains("default:") || is_selection.iter().any(|flag| option.contains(flag));
            assert!(has_default, "{line:?}: {option}");
        }
    }
}

#[test]
fn a_word_that_is_no_command_is_answered_with_the_one_that_was_meant() {
    Program::new().run(&["quees"]).exits(2).says(&["'quees'", "'queues'"]);
    Program::new().run(&[]).exits(2).says(&["Usage: fixture"]);
}

#[test]
fn a_command_of_the_application_gets_its_arguments_and_gives_its_exit_code() {
    let program = Program::new();
    assert_eq!(program.run(&["hello", "-a", "b"]).exits(7).stdout, "fixture hello|-a|b\n");
    assert_eq!(program.run(&["help", "hello"]).exits(7).stdout, "fixture hello|--help\n");
}

#[test]
fn the_default_command_runs_when_none_is_named() {
    let program = Program::new().with("FIXTURE", "default-command");
    assert_eq!(program.run(&["--input", "DIR"]).exits(7).stdout, "fixture|--input|DIR\n");
    assert_eq!(program.run(&[]).exits(7).stdout, "fixture\n");
    program.run(&["--help"]).exits(0).prints(&["Without a command, `hello` runs"]);
    program.run(&["quees"]).exits(2).says(&["'queues'"]);
}

#[test]
fn jobs_are_shown_with_arguments_options_and_source() {
    let jobs = Program::new().run(&["jobs"]).exits(0);
    assert_eq!(jobs.row("greet")[1..4], ["emails", "name: String, [loud: Option<bool>]", "3"]);
    assert_eq!(jobs.row("whole")[2], "Order (the whole payload)");
    assert!(jobs.row("add").iter().any(|cell| cell.starts_with("tests/src/bin/fixture.rs:")));
    assert!(jobs.row("add").contains(&"dead_letter_queue=calculator_dead".to_owned()), "{jobs}");
    let json = Program::new().run(&["jobs", "--json"]).exits(0).json();
    let add = json["jobs"].as_array().unwrap().iter().find(|job| job["job"] == "add").unwrap();
    assert_eq!(
        (&add["dead_letter_queue"], &add["max_priority"]),
        (&"calculator_dead".into(), &serde_json::Value::Null)
    );
    assert_eq!(add["arguments"]["named"][1]["type"], "i64");
    assert_eq!(add["summary"], "Adds two numbers.");
}

#[test]
fn looking_does_not_create_the_database() {
    let program = Program::new();
    for line in
        [&["queues"][..], &["dlq", "list"], &["dlq", "show", "x"], &["dlq", "drop", "--all", "--yes"], &["health"]]
    {
        program.run(line).exits(69).says(&["there is no database at `/", "`run` and `enqueue` create it"]);
    }
    assert_eq!(std::fs::read_dir(program.path(".")).unwrap().count(), 0);
    assert_eq!(program.run(&["health", "--json"]).exits(69).json()["broker"]["reachable"], false);
}

#[test]
fn the_jobs_of_memory_cannot_be_seen_from_outside() {
    let program = Program::new().with("WORKER_BROKER_URL", "memory:");
    for line in [&["queues"][..], &["dlq", "list"], &["health"], &["enqueue", "ping"]] {
        program.run(line).exits(78).says(&["inside one process", "`sqlite:PATH`", "is from: WORKER_BROKER_URL"]);
    }
    program.run(&["jobs"]).exits(0);
    program.run(&["config"]).exits(0);
}

#[test]
fn queues_are_counted() {
    let program = Program::new();
    program.run(&["enqueue", "echo", "text=a"]).exits(0);
    program.run(&["enqueue", "echo", "text=b", "--in", "1h"]).exits(0);
    program.bury(&[("a", "fail", FailureKind::Error, "e")]);
    let queues = program.run(&["queues"]).exits(0);
    assert_eq!(queues.stdout.lines().next().unwrap(), "QUEUE\tREADY\tRUNNING\tDELAYED\tRETRYING\tDEAD\tCONSUMERS");
    assert_eq!(queues.row("default"), ["default", "1", "0", "1", "0", "0", "0"]);
    assert_eq!(queues.row("trouble"), ["trouble", "0", "0", "0", "0", "1", "0"]);
    assert_eq!(queues.stderr, "", "hints are for terminals");
    let json = program.run(&["queues", "--json"]).exits(0).json();
    assert_eq!(json["queues"][0]["ready"], 1);
}

#[test]
fn only_the_queues_that_are_named_are_shown_and_one_that_is_not_there_is_told() {
    let program = Program::new();
    program.run(&["enqueue", "ping"]).exits(0);
    program.run(&["enqueue", "add", "a=1", "b=2"]).exits(0);
    let shown = program.run(&["queues", "--queue", "calculator"]).exits(0);
    assert_eq!(shown.stdout.lines().count(), 2, "{shown}");
    assert_eq!(shown.row("calculator")[1], "1");
    let both = program.run(&["queues", "--queue", "calculator", "--queue", "emails", "--json"]).exits(66);
    assert_eq!(both.json()["queues"].as_array().map(Vec::len), Some(1), "{both}");
    both.says(&["there is no queue `emails`"]);
}

#[test]
fn queues_are_watched_until_a_signal() {
    let program = Program::new();
    program.run(&["enqueue", "ping"]).exits(0);
    let watching = program.start(&["queues", "--watch", "100ms", "--json"]);
    watching.stdout.wait_for("\n");
    program.run(&["enqueue", "ping"]).exits(0);
    watching.stdout.wait_for(r#""ready":2"#);
    watching.signal("INT");
    let lines = watching.wait().exits(0).stdout;
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 2 && lines.windows(2).all(|pair| pair[0]["at_ms"].as_u64() < pair[1]["at_ms"].as_u64()));
    assert_eq!(lines[0]["queues"][0]["ready"], 1);

    let watching = program.start(&["queues", "--watch", "100ms", "--queue", "default"]);
    watching
        .stdout
        .wait_for("QUEUE\tREADY\tRUNNING\tDELAYED\tRETRYING\tDEAD\tCONSUMERS\ndefault\t2\t0\t0\t0\t0\t0\n\nQUEUE");
    watching.signal("TERM");
    watching.wait().exits(0);
    program.run(&["queues", "--watch", "1ms"]).exits(2).says(&["use 100ms or more"]);
    Program::new().run(&["queues", "--watch"]).exits(69).says(&["there is no database"]);
}

#[test]
fn health_says_what_is_missing_and_creates_nothing() {
    let program = Program::new();
    program.run(&["enqueue", "ping"]).exits(0);
    let health = program.run(&["health"]).exits(69).says(&["unhealthy: queue `", "queue `emails` does not exist"]);
    assert_eq!(health.row("queue default")[1..], ["ok", "1 ready, 0 running, 0 dead, 0 consumers"]);
    assert_eq!(health.row("queue emails")[1], "missing");
    program.run(&["health"]).exits(69);
    let served = program.with("WORKER_QUEUES", "default");
    let health = served.run(&["health", "--json"]).exits(0).json();
    assert_eq!((&health["reasons"], &health["broker"]["reach"]), (&serde_json::json!([]), &"up".into()));
    assert_eq!((&health["queues"][0]["ready"], &health["queues"][0]["consumers"]), (&1.into(), &0.into()));
    assert_eq!((&health["healthy"], &health["broker"]["capabilities"]["broker"]), (&true.into(), &"sqlite".into()));
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let program = Program::new();
    program.write("jobs.db", "some text, and certainly no database");
    program.run(&["health"]).exits(69).says(&["jobs.db", "not a SQLite database"]);
    assert_eq!(std::fs::read_to_string(program.path("jobs.db")).unwrap(), "some text, and certainly no database");
}

#[test]
fn config_shows_every_value_with_where_it_came_from() {
    let program = Program::new().with("WORKER_QUEUES", "emails=2").with("FIXTURE", "default-url");
    let config = program.run(&["config"]).exits(0);
    assert_eq!(config.row("WORKER_BROKER_URL"), ["WORKER_BROKER_URL", "sqlite:fixture.db", "application"]);
    assert_eq!(config.row("WORKER_QUEUES"), ["WORKER_QUEUES", "emails=2", "WORKER_QUEUES"]);
    assert_eq!(config.row("WORKER_CONCURRENCY"), ["WORKER_CONCURRENCY", "16", "default"]);
    let config = program.run(&["--broker", "sqlite:other.db", "config", "--json"]).exits(0).json();
    assert_eq!(config["settings"][0]["origin"], "flag");
    assert_eq!(config["settings"][0]["value"], "sqlite:other.db");
}

#[test]
fn config_names_the_variable_that_a_broker_was_found_under() {
    let parts = Program::new().with("RABBITMQ_HOST", "mq.example").with("RABBITMQ_PASSWORD", "hunter2@");
    let config = parts.run(&["config"]).exits(0);
    let from = "RABBITMQ_HOST, RABBITMQ_PASSWORD";
    assert_eq!(config.row("WORKER_BROKER_URL"), ["WORKER_BROKER_URL", "amqp://***@mq.example:5672/%2F", from]);
    assert!(!config.to_string().contains("hunter2"), "{config}");
    let both = parts.with("RABBITMQ_URL", "amqp://u:hunter2@other?heartbeat=9");
    let config = both.run(&["config"]).exits(0).says(&["RABBITMQ_HOST, RABBITMQ_PASSWORD are ignored: RABBITMQ_URL"]);
    let from = "`heartbeat` in RABBITMQ_URL";
    assert_eq!(config.row("WORKER_RABBITMQ_HEARTBEAT"), ["WORKER_RABBITMQ_HEARTBEAT", "9s", from]);
    assert!(!config.to_string().contains("hunter2"), "{config}");
}

#[test]
fn a_secret_is_read_from_a_file_and_never_shown() {
    let program = Program::new();
    // Nothing listens on port 1, and nobody waits for it.
    let file = program.write("url", "amqp://user:hunter2@127.0.0.1:1/\n");
    let program = program.with("WORKER_BROKER_URL_FILE", &file).with("WORKER_CONNECT_TIMEOUT", "1ms");
    let config = program.run(&["config"]).exits(0);
    let from = format!("WORKER_BROKER_URL_FILE ({file})");
    assert_eq!(config.row("WORKER_BROKER_URL"), ["WORKER_BROKER_URL", "amqp://***@127.0.0.1:1/%2F", &from]);
    let json = program.run(&["config", "--json"]).exits(0);
    for said in [config, json, program.run(&["queues"]).exits(69), program.run(&["run"]).exits(69)] {
        assert!(!said.to_string().contains("hunter2"), "{said}");
    }
}

#[test]
fn everything_wrong_with_the_configuration_is_said_at_once() {
    let program = Program::new()
        .with("WORKER_CONCURENCY", "4")
        .with("WORKER_SHUTDOWN_GRACE", "30")
        .with("WORKER_PAYLOAD_MAX", "1GiB");
    let said = program.run(&["run", "--queues", "a b"]).exits(78).says(&[
        "4 problems",
        "`WORKER_CONCURENCY` is no setting; did you mean `WORKER_CONCURRENCY`?",
        "write `30s`",
        "WORKER_PAYLOAD_MAX is `1GiB`",
        "--queues is `a b`",
    ]);
    assert_eq!(said.stderr.lines().count(), 5, "{said}");
}

#[test]
fn what_kubernetes_injects_is_ignored_with_a_warning() {
    let program = Program::new().with("WORKER_PORT", "tcp://10.0.0.1:80").with("WORKER_SERVICE_HOST", "10.0.0.1");
    program.run(&["config"]).exits(0).says(&["WORKER_PORT is ignored: Kubernetes", "WORKER_SERVICE_HOST is ignored"]);
}

#[test]
fn a_filter_of_the_log_that_is_none_is_refused() {
    Program::new().with("RUST_LOG", "worker=loud").run(&["config"]).exits(78).says(&["RUST_LOG is `worker=loud`"]);
}

#[test]
fn completions_know_our_commands_and_the_applications() {
    for shell in ["bash", "zsh", "fish"] {
        Program::new().run(&["completions", shell]).exits(0).prints(&["replay", "hello", "fixture"]);
    }
}
