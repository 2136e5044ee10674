//! The contract and its suite know the same clauses.
//!
//! The prose of `worker-core/src/broker/mod.rs` and the cases of
//! `tests/src/conformance` are compared as text: a clause without a case does
//! not exist, a case without a clause proves nothing, and a case that is not
//! listed does not run.

use std::{collections::BTreeSet, fs, path::Path};

const CONTRACT: &str = include_str!("../../worker-core/src/broker/mod.rs");
const LIST: &str = include_str!("../src/conformance/mod.rs");

/// A case as it stands in its file.
struct Case {
    domain: String,
    name: String,
    /// What its documentation says before the first colon, without the word "Clause".
    clauses: Vec<String>,
}

fn is_clause(text: &str) -> bool {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_uppercase());
    text.len() - digits.len() == 1 && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The clauses of the contract's prose: `**E1**` in the documentation.
fn clauses() -> BTreeSet<&'static str> {
    let lines = CONTRACT.lines().filter_map(|line| line.strip_prefix("//! * **"));
    lines
        .filter_map(|line| line.split_once("**"))
        .map(|(clause, _)| clause)
        .filter(|clause| is_clause(clause))
        .collect()
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let domain = path.file_stem().unwrap().to_string_lossy().into_owned();
        let source = fs::read_to_string(&path).unwrap();
        let mut doc = "";
        for line in source.lines() {
            if let Some(text) = line.strip_prefix("/// Clause ") {
                doc = text;
            } else if let Some(function) = line.strip_prefix("pub async fn ") {
                let name = function.split(['<', '(']).next().unwrap().to_owned();
                let said = doc.split_once(':').map_or("", |(clauses, _)| clauses);
                let clauses = said.split(", ").map(str::to_owned).filter(|clause| !clause.is_empty()).collect();
                cases.push(Case { domain: domain.clone(), name, clauses });
                doc = "";
            }
        }
    }
    cases
}

#[test]
fn every_clause_has_a_case_and_every_case_a_clause() {
    let clauses = clauses();
    assert!(clauses.len() > 30, "the contract's form has changed: {clauses:?}");
    let mut without_case = clauses.clone();
    for Case { domain, name, clauses: named } in cases() {
        assert!(!named.is_empty(), "{domain}::{name} names no clause: begin its documentation with `Clause E1:`");
        for clause in named {
            assert!(clauses.contains(&*clause), "{domain}::{name} is about {clause}, which the contract does not have");
            without_case.remove(&*clause);
        }
    }
    assert!(without_case.is_empty(), "clauses without a case: {without_case:?}");
}

#[test]
fn every_case_is_listed_and_so_runs() {
    let mut listed = BTreeSet::new();
    let mut domain = "";
    for line in LIST.lines().map(str::trim) {
        match line.strip_suffix(" {") {
            Some(name) => domain = name,
            None if line.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && !line.is_empty() =>
            {
                assert!(listed.insert(format!("{domain}::{line}")), "{domain}::{line} is listed twice");
            }
            None => {}
        }
    }
    let told: BTreeSet<_> = worker_tests::fixture::expected::cases().into_iter().map(str::to_owned).collect();
    assert_eq!(told, listed, "docs/conformance.md has a row for every case, and for nothing else");
    let written: BTreeSet<_> = cases().into_iter().map(|case| format!("{}::{}", case.domain, case.name)).collect();
    // That what is listed exists, the compiler checks.
    let unlisted: Vec<_> = written.difference(&listed).collect();
    assert!(unlisted.is_empty(), "add these to the list in tests/src/conformance/mod.rs: {unlisted:#?}");
    assert!(written.len() > 90, "the suite's form has changed: {} cases found", written.len());
}
