//! The repository's own rules, as tests: who imports whom, how long a file is,
//! what every public item says. Exceptions stand here, with their reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines in a Rust file, its tests included.
const FILE_LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Every file below `folder` with this extension, relative to the root.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<PathBuf> {
    ["worker-core/src", "worker-macros/src", "example-app/src", "tests/src", "tests/it"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .collect()
}

/// The part of a file that is not its unit tests.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]").next().unwrap_or(source)
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    let long = |path: &PathBuf| {
        let lines = read(path).lines().count();
        let excused = LONG_FILES.iter().any(|(file, _)| path.ends_with(file));
        (lines > FILE_LINES_MAX && !excused)
            .then(|| format!("{}: {lines} lines, {FILE_LINES_MAX} at most", path.display()))
    };
    assert_none(&rust_files().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = |path: &PathBuf| {
        let source = read(path);
        let first = source.lines().next().unwrap_or_default();
        (!first.starts_with("//! ")).then(|| format!("{}: begins with {first:?}", path.display()))
    };
    assert_none(&rust_files().iter().filter_map(silent).collect::<Vec<_>>());
}

#[test]
fn every_public_async_function_says_whether_it_is_cancel_safe() {
    let mut problems = Vec::new();
    for path in files("worker-core/src", "rs") {
        let source = read(&path);
        let (mut doc, mut in_trait) = (String::new(), false);
        let lines: Vec<_> = without_tests(&source).lines().collect();
        for (place, line) in lines.iter().enumerate() {
            in_trait = line.starts_with("pub trait") || (in_trait && *line != "}");
            let line = line.trim();
            if line.starts_with("///") {
                doc.push_str(line);
            } else if waits(&lines[place..], in_trait) && !doc.contains("# Cancel safety") {
                problems.push(format!("{}: {line}", path.display()));
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    // Generated code alone calls it.
    problems.retain(|problem| !problem.contains("__private.rs"));
    assert_none(&problems);
}

/// Whether a public function begins here whose result can be dropped before it is there.
fn waits(lines: &[&str], in_trait: bool) -> bool {
    let last = lines.iter().position(|line| line.ends_with(['{', ';'])).unwrap_or(0);
    let head = lines[..=last].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    let is_public = head.starts_with("pub ") || in_trait;
    let head = head.strip_prefix("pub ").unwrap_or(&head);
    let gives_it_later = ["-> impl Future", "-> impl Stream"].iter().any(|later| head.contains(later));
    is_public && (head.starts_with("async fn") || (head.starts_with("fn") && gives_it_later))
}

#[test]
fn nothing_is_left_to_do_without_an_issue() {
    let mark = ["TO", "DO"].concat();
    let open = |path: &PathBuf| {
        let source = read(path);
        let line = source.lines().find(|line| line.contains(&mark) && !line.contains('#'))?;
        Some(format!("{}: {}", path.display(), line.trim()))
    };
    assert_none(&rust_files().iter().filter_map(open).collect::<Vec<_>>());
}

#[test]
fn the_pages_are_as_short_as_they_promise() {
    for (page, most) in [("README.md", 200), ("ARCHITECTURE.md", 250)] {
        let lines = read(page).lines().count();
        assert!(lines <= most, "{page} has {lines} lines, {most} at most");
    }
    assert!(read("CHANGELOG.md").contains("## [Unreleased]"), "CHANGELOG.md has no section [Unreleased]");
}

#[test]
fn a_decision_is_one_page_and_says_what_would_change_it() {
    for page in files("docs/adr", "md") {
        let text = read(&page);
        for section in ["## Context", "## Decision", "## Consequences", "## What would change our mind"] {
            assert!(text.contains(section), "{}: no section `{section}`", page.display());
        }
        assert!(text.lines().count() <= 80, "{}: more than a page", page.display());
    }
}

#[test]
fn every_link_between_our_pages_leads_somewhere() {
    let mut problems = Vec::new();
    let pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    let pages = pages
        .iter()
        .map(PathBuf::from)
        .chain(["docs", "deploy", "example-app"].into_iter().flat_map(|folder| files(folder, "md")));
    for page in pages {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let folder = page.parent().unwrap_or_else(|| Path::new(""));
            if !file.is_empty() && !file.contains("://") && !root().join(folder).join(file).exists() {
                problems.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_none(&problems);
}

/// The crates that a user builds, ours among them: with these features of `worker-core`, so many at most.
const CRATES: [(&[&str], usize); 2] = [
    (&["--no-default-features", "--features=sqlite"], 60),
    // 160 was the goal, see docs/adr/0010.
    (&[], 255),
];

#[test]
fn a_crate_more_for_whoever_builds_this_is_a_decision() {
    for (features, most) in CRATES {
        let tree = ["tree", "--locked", "--offline", "--package=worker-core", "--edges=normal", "--prefix=none"];
        let tree = Command::new(env!("CARGO")).args(tree).args(features).current_dir(root()).output().unwrap();
        let said = String::from_utf8_lossy(&tree.stderr);
        assert!(tree.status.success(), "{said}");
        let tree = String::from_utf8(tree.stdout).unwrap();
        let crates: BTreeSet<_> = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
        assert!((2..=most).contains(&crates.len()), "{features:?}: {} crates, {most} at most", crates.len());
    }
}

/// The table of ARCHITECTURE.md: module → what it may import; `None` for everything.
fn allowed() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let page = read("ARCHITECTURE.md");
    let table = page.split("## Who may import whom").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let mut allowed = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let may = (cells[2] != "everything").then(|| names(cells[2]));
        for module in names(cells[1]) {
            assert!(allowed.insert(module.clone(), may.clone()).is_none(), "`{module}` stands twice in the table");
        }
    }
    allowed
}

/// The longest entry of the table that is `path` or an ancestor of it.
fn entry<'a>(table: &'a BTreeMap<String, Option<BTreeSet<String>>>, path: &str) -> Option<&'a str> {
    let is_inside = |module: &&String| path == **module || path.starts_with(&format!("{module}::"));
    table.keys().filter(is_inside).max_by_key(|module| module.len()).map(String::as_str)
}

/// Every path below `crate::` that the source names, groups written out.
fn imports(source: &str) -> Vec<String> {
    let code: String = without_tests(source)
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    code.split("crate::").skip(1).filter(|rest| !rest.starts_with("__job")).flat_map(|rest| paths(rest).0).collect()
}

/// Reads one use-tree; gives its paths and what comes after it.
fn paths(tree: &str) -> (Vec<String>, &str) {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        let mut found = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(rest) = rest.strip_prefix('}') {
                return (found, rest);
            }
            assert!(!rest.is_empty(), "a use-tree that does not end");
            let (inner, after) = paths(rest);
            found.extend(inner);
            rest = after;
        }
    }
    let end = tree.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(tree.len());
    let (head, rest) = tree.split_at(end);
    match rest.strip_prefix("::") {
        Some(tail) if !tail.starts_with('<') => {
            let (inner, after) = paths(tail);
            (inner.into_iter().map(|path| format!("{head}::{path}")).collect(), after)
        }
        _ => {
            let after = rest
                .trim_start()
                .strip_prefix("as ")
                .map_or(rest, |alias| alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
            (vec![head.to_owned()], after)
        }
    }
}

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let table = allowed();
    let mut problems = Vec::new();
    for path in files("worker-core/src", "rs") {
        let module = path.strip_prefix("worker-core/src").unwrap().with_extension("").display().to_string();
        let module = module.replace('/', "::").trim_end_matches("::mod").to_owned();
        // `lib` exports everything again; unit tests may reach for what they set up, as those inside a file may.
        if module == "lib" || module.ends_with("::tests") {
            continue;
        }
        let Some(from) = entry(&table, &module) else {
            problems.push(format!("`{module}` does not stand in the table of ARCHITECTURE.md"));
            continue;
        };
        let Some(may) = &table[from] else { continue };
        for import in imports(&read(&path)) {
            let Some(into) = entry(&table, &import) else {
                problems.push(format!("`{module}` imports `crate::{import}`, which is no module of the table"));
                continue;
            };
            // A folder's `mod.rs` puts its children together; children may use what it defines.
            let is_inside = |module: &str| into == module || into.starts_with(&format!("{module}::"));
            if !is_inside(from) && !may.iter().any(|module| is_inside(module)) {
                problems.push(format!("`{module}` imports `crate::{import}`, which `{from}` may not"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn the_import_check_reads_groups_and_paths() {
    let source = "use crate::{\n    a::{B, c::D as E},\n    f::g,\n};\nfn x() { crate::h::I::new() } // crate::j\n#[cfg(test)] mod t { use crate::k; }";
    assert_eq!(imports(source), ["a::B", "a::c::D", "f::g", "h::I::new"]);
}
