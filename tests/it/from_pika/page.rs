//! The page shows what the tests run: its code is compared with the files.

use std::{collections::BTreeSet, fs, path::Path};

use crate::excerpts::{assert_shown, files, root};

const PAGE: &str = "docs/guides/from-pika.md";
const PYTHON: &str = "tests/python/tutorial";

#[test]
fn every_excerpt_of_the_page_stands_in_a_program_that_is_run() {
    assert_shown(PAGE, "python", PYTHON, "py");
    assert_shown(PAGE, "rust", "tests/it/from_pika", "rs");
}

/// The names of the programs in Python that a text names between `before` and `after`.
fn named(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let found = text.split(before).skip(1).filter_map(|rest| rest.split(after).next());
    found.filter(|name| Path::new(name).extension().is_some_and(|end| end == "py")).map(str::to_owned).collect()
}

#[test]
fn every_program_in_python_is_on_the_page_and_run_by_a_test() {
    let programs: BTreeSet<_> = files(PYTHON, "py").into_iter().map(|(name, _)| name).collect();
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    assert_eq!(named(&page, "](../../tests/python/tutorial/", ")"), programs);
    let tests: String = files("tests/it/from_pika", "rs").into_iter().map(|(_, text)| text).collect();
    assert_eq!(named(&tests, "\"", "\""), programs);
}
