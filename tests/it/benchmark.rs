//! The benchmark (`cargo bench-all`), in small: that every row runs and gives figures, whatever they are.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// What the benchmark says with these arguments.
fn bench(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bench {args:?}: {}\n{told}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "tests/run.sh runs it alone"]
fn every_row_runs_and_gives_figures() {
    let listed = bench(&["--list"]);
    let listed: BTreeSet<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let report: Value = serde_json::from_str(&bench(&["--quick", "--json"])).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let measured: BTreeSet<_> = lines.iter().map(|line| line["row"].as_str().unwrap()).collect();
    assert_eq!(measured, listed);
    for line in lines {
        assert!(line["value"].as_f64().is_some_and(|value| value >= 0.0), "{line:#}");
    }
    assert!(report["setting"]["rabbitmq"].is_string(), "{:#}", report["setting"]);
}
