//! What reads bytes of others ([`worker_core::fuzzing`]), over the corpus that is kept and thousands of its mutations,
//! which a seed decides; `cargo fuzz` goes on from there, see `docs/reliability.md`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
};

use fastrand::Rng;
use worker_core::fuzzing::{TARGETS, Target};

/// Mutations of each corpus: about three seconds on two cores, of a build without optimisation.
const MUTATIONS: u64 = 20_000;

/// Files of each corpus, and the bytes of one: it is read by people, and run by every test.
const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 4_096;

/// A build without optimisation reads 800 levels, which fit into an input, on more than a test's thread has.
const STACK_BYTES: usize = 512 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs that are kept for `target`, with their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap());
    let mut files: Vec<_> = files.map(|file| read(file.unwrap().path())).collect();
    files.sort();
    files
}

/// Runs `body` over `corpus` and its mutations by `seed`; gives the first input that it fails on, with where it is from.
fn first_failure(body: fn(&[u8]), corpus: &[(String, Vec<u8>)], seed: u64) -> Option<(String, Vec<u8>)> {
    let fails = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| body(input))).is_err();
    if let Some((name, input)) = corpus.iter().find(|(_, input)| fails(input)) {
        return Some((format!("the file `{name}`"), input.clone()));
    }
    let mut rng = Rng::with_seed(seed);
    (0..MUTATIONS).find_map(|round| {
        let input = mutation(corpus, &mut rng);
        fails(&input).then(|| (format!("mutation {round} of seed {seed}"), input))
    })
}

/// One of the corpus, changed in one to eight places.
fn mutation(corpus: &[(String, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let mut one = || corpus[rng.usize(..corpus.len())].1.clone();
    let (mut input, other) = (one(), one());
    for _ in 0..rng.u8(1..=8) {
        let (from, to) = range(&input, rng);
        let piece = || input[from..to].to_vec();
        match rng.u8(..7) {
            0 if from < input.len() => input[from] ^= 1 << rng.u8(..8),
            1 if from < input.len() => {
                let any = rng.u8(..);
                input[from] = rng.choice([0, 1, 0x7f, 0x80, 0xff, b'"', b'=', any]).unwrap();
            }
            2 => drop(input.drain(from..to)),
            3 => drop(input.splice(from..from, piece())),
            // A length or a number, as the protocol and the tables of SQLite have them.
            4 => {
                drop(input.splice(from..to, rng.choice([u64::MAX, 1 << 63, 1 << 31, 0xffff, 0]).unwrap().to_be_bytes()))
            }
            5 => drop(input.splice(from.., other[range(&other, rng).0..].to_vec())),
            _ => {
                let (start, end) = range(&other, rng);
                drop(input.splice(from..from, other[start..end].to_vec()));
            }
        }
        input.truncate(BYTES_MAX);
    }
    input
}

/// A place in `input`, and one at most 16 bytes behind it.
fn range(input: &[u8], rng: &mut Rng) -> (usize, usize) {
    let from = rng.usize(..=input.len());
    (from, rng.usize(from..=input.len().min(from + 16)))
}

fn hex(input: &[u8]) -> String {
    input.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn whatever_is_read_keeps_its_limits_and_its_secrets_and_is_written_as_it_was() {
    let run = |(target, body): Target| {
        let run = move || first_failure(body, &corpus(target), 1);
        (target, thread::Builder::new().name(target.into()).stack_size(STACK_BYTES).spawn(run).unwrap())
    };
    let mut told = String::new();
    for (target, running) in TARGETS.map(run) {
        if let Some((origin, input)) = running.join().unwrap() {
            let hex = hex(&input);
            writeln!(told, "{target} fails on {origin}; keep it, and its panic is above:").unwrap();
            writeln!(told, "  echo {hex} | xxd -r -p > tests/fuzz/corpus/{target}/NAME").unwrap();
        }
    }
    assert!(told.is_empty(), "\n{told}");
}

#[test]
fn an_input_on_which_something_fails_is_found_and_told() {
    let fails = |input: &[u8]| assert!(!input.windows(2).any(|two| two == [0xff, 0xff]), "as it should");
    let sound = [("sound".to_owned(), b"name=value".to_vec())];
    let (origin, input) = first_failure(fails, &sound, 1).expect("a mutation has it");
    assert!(origin.contains("of seed 1") && hex(&input).contains("ffff"), "{origin}: {}", hex(&input));
    assert_eq!(first_failure(fails, &sound, 1), Some((origin, input)), "the seed alone decides");
    let kept = [("kept".to_owned(), vec![0xff, 0xff])];
    assert_eq!(first_failure(fails, &kept, 1), Some(("the file `kept`".to_owned(), vec![0xff, 0xff])));
}

#[test]
fn each_target_has_its_program_for_the_fuzzer_and_a_corpus_that_people_can_read() {
    let names = TARGETS.map(|(name, _)| name.to_owned());
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let programs = fs::read_dir(folder().join("fuzz_targets")).unwrap();
    let programs = programs.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    assert_eq!(programs.collect::<BTreeSet<_>>(), names.iter().cloned().collect());
    for name in &names {
        let program = fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("worker_core::fuzzing::{name}(input)")), "{program}");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{manifest}");
        let corpus = corpus(name);
        assert!((3..=FILES_MAX).contains(&corpus.len()), "{name}: {} files, {FILES_MAX} at most", corpus.len());
        for (file, input) in corpus {
            assert!(input.len() <= BYTES_MAX, "{name}/{file}: {} bytes, {BYTES_MAX} at most", input.len());
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(file.chars().all(is_word) && file.len() <= 60, "{name}/{file}: a name says what it is");
        }
    }
}
