//! What `deploy/` says, held to the program: numbers, names, commands, and that others' tools accept it.

mod docker;
mod kubernetes;
mod prometheus;
mod rabbitmq;
mod systemd;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use worker_core::{GRACE_DEFAULT, config::SETTINGS};

/// Between the worker's own limit and whoever kills it: to start the end, and to exit.
const TO_SPARE: Duration = Duration::from_secs(5);

/// Names that look like settings and are none, each with its reason.
const NO_SETTINGS: [&str; 2] = [
    "WORKER_ADMIN", // The setting of the admin server, which is still to come.
    "WORKER_PORT",  // What Kubernetes injects beside a Service called `worker`.
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the folder, and the guides about it.
fn pages() -> Vec<(String, String)> {
    let (mut folders, mut pages) = (vec![root().join("deploy")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                pages.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    pages.extend(["docs/guides/systemd.md", "docs/guides/kubernetes.md"].map(str::to_owned));
    pages.sort();
    pages.into_iter().map(|page| (page.clone(), read(&page))).collect()
}

/// The documents of a YAML file; a key that is written twice is an error.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value at `pointer`, which must be there.
#[track_caller]
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer} in {value:#}"))
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("`{text}` is no seconds")))
}

/// The longest that a worker with the default grace period takes to end.
fn end_max() -> Duration {
    let source = read("worker-core/src/worker/dispatch.rs");
    let confirmations = source.split("const SETTLE_WAIT_MAX: Duration = Duration::from_secs(").nth(1).unwrap();
    GRACE_DEFAULT + seconds(confirmations.split(')').next().unwrap())
}

/// Checks the time after which somebody kills a worker.
#[track_caller]
fn assert_longer_than_an_end(killed_after: Duration) {
    let needed = end_max() + TO_SPARE;
    assert!(killed_after >= needed, "killed after {killed_after:?}, but an end may take {needed:?}");
}

/// What `<program> <command> --help` prints; `None` where there is no such command.
fn help(command: &str) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_fixture")).args(command.split(' ')).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Checks a command line without its first word.
#[track_caller]
fn assert_command<'a>(words: impl IntoIterator<Item = &'a str>) {
    let words: Vec<_> = words.into_iter().collect();
    let help = help(words[0]).unwrap_or_else(|| panic!("there is no command `{}`", words[0]));
    for flag in words.iter().filter(|word| word.starts_with("--")) {
        assert!(
            help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
            "no `{flag}` in `{words:?}`"
        );
    }
}

#[test]
fn every_yaml_and_json_file_parses() {
    let mut parsed = 0;
    for (page, text) in pages() {
        match Path::new(&page).extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => parsed += yaml(&page).len(),
            Some("json") => {
                serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{page}: {error}"));
                parsed += 1;
            }
            _ => {}
        }
    }
    assert!(parsed >= 12, "{parsed} documents");
    assert!(serde_saphyr::from_str::<Value>("a: 1\nb: 2\na: 3\n").is_err(), "a key that stands twice is an error");
}

#[test]
fn every_variable_is_a_setting() {
    let mut known: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.variable.into()).collect();
    known.extend(SETTINGS.iter().filter(|setting| setting.secret).map(|setting| format!("{}_FILE", setting.variable)));
    for name in NO_SETTINGS {
        assert!(known.insert(name.into()), "`{name}` is a setting and no exception any more");
    }
    let mut named = 0;
    for (page, text) in pages() {
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        for word in words.filter(|word| word.starts_with("WORKER_") && *word != "WORKER_") {
            assert!(known.contains(word), "{page}: `{word}` is no setting");
            named += 1;
        }
    }
    assert!(named > 20, "{named} were found");
}

#[test]
fn every_command_and_flag_exists() {
    let marks = ["`myapp ", "ExecStart=/usr/local/bin/myapp ", "run --rm worker "];
    let mut checked = 0;
    for (page, text) in pages() {
        for command in marks.iter().flat_map(|mark| text.split(mark).skip(1)) {
            let command = command.split(['`', '\n']).next().unwrap();
            assert!(!command.is_empty(), "{page}");
            assert_command(command.split_whitespace());
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked} were found");
}
