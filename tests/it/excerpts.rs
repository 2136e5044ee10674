//! Code on a page is an excerpt of a file that is run: neither can change without the other.

use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files of a folder with this extension: their names and texts.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let entries = root().join(folder).read_dir().unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
    let mut files: Vec<_> = wanted
        .map(|path| (path.file_name().unwrap().display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Every block in `language` on `page` consists of paragraphs of one file in `folder`.
///
/// Lines that a page hides (`# …`, in Rust) and imports are left out of the comparison: a page shows those that a
/// reader needs to see.
pub(crate) fn assert_shown(page: &str, language: &str, folder: &str, extension: &str) {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let files = files(folder, extension);
    let mut blocks = 0;
    for block in blocks_of(&text, language) {
        blocks += 1;
        let paragraphs = paragraphs(block, language);
        let has_all = |file: &str| paragraphs.iter().all(|paragraph| file.contains(paragraph));
        let missing = |file: &str| paragraphs.iter().find(|paragraph| !file.contains(*paragraph)).cloned();
        if files.iter().any(|(_, file)| has_all(&trimmed(file))) {
            continue;
        }
        // The file that has most of it says what is missing.
        let nearest = files.iter().max_by_key(|(_, file)| {
            let file = trimmed(file);
            paragraphs.iter().filter(|paragraph| file.contains(*paragraph)).count()
        });
        let (name, file) = nearest.unwrap();
        panic!("{page}: this stands in no file of {folder}; {name} has not\n{}", missing(&trimmed(file)).unwrap());
    }
    assert!(blocks > 0, "{page} has no block in {language}");
}

/// The blocks of a page that begin with "```language", whatever follows the language.
fn blocks_of<'p>(page: &'p str, language: &str) -> impl Iterator<Item = &'p str> {
    let fence = format!("\n```{language}");
    let starts: Vec<_> = page.match_indices(&fence).map(|(start, _)| start + fence.len()).collect();
    starts.into_iter().filter_map(|start| {
        let (info, rest) = page[start..].split_once('\n')?;
        (info.is_empty() || info.starts_with(',')).then(|| rest.split("```").next().unwrap_or_default())
    })
}

/// The paragraphs of a block that a file must have, without indentation.
fn paragraphs(block: &str, language: &str) -> Vec<String> {
    let is_hidden = |line: &&str| language == "rust" && (*line == "#" || line.starts_with("# "));
    let visible = block.lines().filter(|line| !is_hidden(line)).collect::<Vec<_>>().join("\n");
    let paragraphs = trimmed(&visible);
    let paragraphs = paragraphs.split("\n\n").map(|paragraph| paragraph.trim().to_owned());
    paragraphs.filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with("use ")).collect()
}

/// A text whose lines are not indented.
fn trimmed(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_excerpt_is_split_into_what_a_file_must_have() {
    let page =
        "\n```rust,no_run\nuse a::b;\n\n    #[job]\n    fn x() {\n# hidden\n        y();\n    }\n\n    z();\n```\n";
    let blocks: Vec<_> = blocks_of(page, "rust").collect();
    assert_eq!(paragraphs(blocks[0], "rust"), ["#[job]\nfn x() {\ny();\n}", "z();"]);
    assert_eq!(blocks_of(page, "rus").count(), 0);
}
