//! `#[job]`: what it makes of a good function, and what it says about a wrong one.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::Command,
};

use worker_core::Registry;

#[path = "../ui/pass/mod.rs"]
pub mod pass;

/// The compiler whose every word is compared: the one that the continuous integration has.
const PINNED: &str = "rustc 1.95.";

/// Each `ui/*.rs` is a mistake, and the `.stderr` beside it is what is said about it; `cargo bless` writes it.
#[test]
fn each_mistake_is_met_with_its_advice() {
    if rustc_version().starts_with(PINNED) {
        trybuild::TestCases::new().compile_fail("ui/*.rs");
    } else {
        each_mistake_is_met_with_the_same_messages();
    }
}

/// On another compiler, which words and draws its own part differently, only the messages are compared.
///
/// `trybuild` writes down what is said about a case that has no `.stderr`, into
/// the folder `wip`, and then fails; so it is given copies.
fn each_mistake_is_met_with_the_same_messages() {
    let copies = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    let said = Path::new("wip");
    // What an earlier run left, if any.
    drop((fs::remove_dir_all(&copies), fs::remove_dir_all(said)));
    fs::create_dir_all(&copies).unwrap();
    let cases = files("ui", "rs");
    for case in &cases {
        fs::copy(case, copies.join(case.file_name().unwrap())).unwrap();
    }

    let all = format!("{}/*.rs", copies.display());
    catch_unwind(|| trybuild::TestCases::new().compile_fail(all)).unwrap_err();

    for case in cases {
        let expected = fs::read_to_string(case.with_extension("stderr")).unwrap();
        let said = said.join(case.with_extension("stderr").file_name().unwrap());
        let said = fs::read_to_string(said).unwrap_or_else(|_| panic!("{} compiles", case.display()));
        let messages = messages(&said);
        for message in messages_of_the_macro(&expected) {
            assert!(messages.contains(&message), "{} is not met with `{message}` but with:\n{said}", case.display());
        }
    }
    fs::remove_dir_all(said).unwrap();
}

/// The messages of the errors, each with its advice, without the code they are about.
fn messages(stderr: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let mut lines = stderr.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("error") {
            let advice = lines.next_if(|line| line.starts_with("       ")).map(str::trim);
            messages.extend([[line, advice.unwrap_or_default()].join("\n")]);
        }
    }
    messages
}

/// Those that are not the compiler's own: they have advice, or speak of jobs.
fn messages_of_the_macro(stderr: &str) -> Vec<String> {
    messages(stderr).into_iter().filter(|message| !message.ends_with('\n') || message.contains(" job")).collect()
}

#[test]
fn every_good_function_is_compiled() {
    let listed = fs::read_to_string("ui/pass/mod.rs").unwrap();
    let listed: BTreeSet<_> = listed.lines().filter_map(|line| line.split("mod ").nth(1)).collect();
    let files = files("ui/pass", "rs");
    let names = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap());
    let modules: BTreeSet<_> = names.filter(|name| *name != "mod").map(|name| format!("{name};")).collect();
    assert_eq!(listed, modules.iter().map(String::as_str).collect());
}

#[test]
fn a_job_is_found_by_the_worker_with_the_place_where_it_was_written() {
    let registered = format!("{:?}", Registry::discovered());
    let (_, place) = registered.split_once("job `ui.every-option` of queue `emails:eu` at ").unwrap();
    let line = 1 + include_str!("../ui/pass/options.rs").lines().position(|line| line == "#[job(").unwrap();
    assert!(place.contains(&format!("ui/pass/options.rs:{line}")), "{place}");
    assert!(!registered.contains("ui_cfg_false"), "{registered}");
}

#[test]
fn a_job_of_another_crate_of_the_workspace_is_found_too() {
    let registered = format!("{:?}", Registry::discovered());
    assert!(
        registered.contains("job `of_another_crate` of queue `elsewhere` at tests/src/elsewhere.rs:"),
        "{registered}"
    );
    assert!(Registry::discovered().queues().iter().any(|queue| queue == "elsewhere"));
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|own| own == extension)).collect();
    files.sort();
    files
}

fn rustc_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
