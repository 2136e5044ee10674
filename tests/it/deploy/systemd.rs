//! The unit: accepted by systemd, hardened, and in step with the worker's exit codes and times.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use worker_core::cli::exit;

use super::{assert_command, assert_longer_than_an_end, read, seconds};

const UNIT: &str = "deploy/systemd/worker@.service";

/// The value of a key that stands once.
#[track_caller]
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(values.next(), None, "{key} stands twice");
    value
}

/// Runs `systemd-analyze` on the units with a program that exists.
fn analyze(args: &[&str], change: impl Fn(String) -> String) -> Output {
    let folder = TempDir::new().unwrap();
    let unit = change(read(UNIT).replace("/usr/local/bin/myapp", env!("CARGO_BIN_EXE_fixture")));
    fs::write(folder.path().join("worker@.service"), unit).unwrap();
    fs::write(folder.path().join("worker.target"), read("deploy/systemd/worker.target")).unwrap();
    let files = ["worker@.service", "worker.target"].map(|file| folder.path().join(file));
    let files = if args[0] == "verify" { &files[..] } else { &files[..1] };
    let output = Command::new("systemd-analyze").args(args).args(files).env("LC_ALL", "C").output();
    output.unwrap_or_else(|error| panic!("systemd-analyze, which tests/run.sh installs: {error}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let output = analyze(&["verify", "--man=no"], |unit| unit);
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    let output = analyze(&["verify", "--man=no"], |unit| unit.replace("KillMode=", "KillMood="));
    assert!(said(&output).contains("KillMood"), "it would have said so: {}", said(&output));
}

#[test]
fn the_unit_is_exposed_to_one_and_a_half_at_most() {
    let security = ["security", "--offline=true", "--no-pager", "--threshold=15"];
    let output = analyze(&security, |unit| unit);
    let last = said(&output).lines().last().unwrap_or_default().to_owned();
    assert!(output.status.success() && last.contains("exposure level"), "{}", said(&output));
    let output = analyze(&security, |unit| {
        unit.replace("ProtectHome=yes\n", "")
            .replace("PrivateUsers=yes\n", "")
            .replace("NoNewPrivileges=yes\n", "")
            .replace("ProtectSystem=strict\n", "")
            .replace("DynamicUser=yes\n", "")
    });
    assert!(!output.status.success(), "an unhardened one would fail: {}", said(&output));
}

#[test]
fn systemd_waits_longer_than_the_worker_needs() {
    let unit = read(UNIT);
    assert_longer_than_an_end(seconds(value(&unit, "TimeoutStopSec")));
    let watchdog = seconds(value(&unit, "WatchdogSec"));
    assert!((Duration::from_secs(10)..=Duration::from_secs(60)).contains(&watchdog));
}

#[test]
fn the_unit_knows_the_workers_exit_codes() {
    let unit = read(UNIT);
    assert_eq!(value(&unit, "SuccessExitStatus"), exit::PARTIAL.to_string());
    assert_eq!(value(&unit, "RestartPreventExitStatus"), format!("{} {}", exit::USAGE, exit::CONFIG));
}

#[test]
fn the_unit_starts_the_worker_and_hears_it_alone() {
    let unit = read(UNIT);
    assert_eq!(
        (value(&unit, "Type"), value(&unit, "NotifyAccess"), value(&unit, "KillMode")),
        ("notify", "main", "mixed")
    );
    assert_command(value(&unit, "ExecStart").split(' ').skip(1));
    assert!(value(&unit, "LoadCredential").starts_with("broker-url:"));
    let environment: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
    assert_eq!(environment, ["WORKER_BROKER_URL_FILE=%d/broker-url", "RUST_MIN_STACK=536870912"]);
    assert!(!read("deploy/systemd/worker.env").lines().any(|line| line.starts_with("WORKER_BROKER_URL")));
}
