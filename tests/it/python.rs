//! The environment for the tests' programs in Python: made once, from exactly the files that were meant.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use worker_tests::python::environment;

/// Makes a package in a folder, and says the hash of its file.
const PARCEL: &str = r#"
import hashlib, pathlib, sys, zipfile
path = pathlib.Path(sys.argv[1], "parcel-1.0-py3-none-any.whl")
with zipfile.ZipFile(path, "w") as wheel:
    wheel.writestr("parcel.py", "content = 7\n")
    wheel.writestr("parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n")
    wheel.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("parcel-1.0.dist-info/RECORD", "")
print(hashlib.sha256(path.read_bytes()).hexdigest())
"#;

fn machines() -> &'static Path {
    Path::new("/usr/bin/python3")
}

/// What a program says.
fn said(python: &Path, args: &[&str]) -> String {
    let ended = Command::new(python).args(args).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

/// A list with one package, and the list's hash of its file changed by `change`.
fn list(folder: &Path, change: impl FnOnce(String) -> String) -> String {
    let folder = folder.display().to_string();
    let hash = change(said(machines(), &["-c", PARCEL, &folder]));
    format!("--no-index\n--find-links {folder}\nparcel==1.0 --hash=sha256:{hash}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_ask_at_once_get_one_environment_that_has_what_was_listed_and_nothing_else() {
    let folder = Arc::new(TempDir::new().unwrap());
    let list = list(folder.path(), |hash| hash);
    let (mut asking, found) = (JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
    for _ in 0..3 {
        let (folder, list, found) = (Arc::clone(&folder), list.clone(), Arc::clone(&found));
        asking.spawn_blocking(move || {
            let python = environment(machines(), &folder.path().join("cache"), &list).unwrap();
            found.lock().unwrap().push(python);
        });
    }
    asking.join_all().await;
    let found = found.lock().unwrap();
    assert!(found.iter().all(|python| *python == found[0]), "{found:?}");
    assert_eq!(said(&found[0], &["-c", "import parcel; print(parcel.content)"]), "7");
    let others = "import importlib.util; print(importlib.util.find_spec('pika'))";
    assert_eq!(said(&found[0], &["-c", others]), "None", "what is installed on the machine is not seen");
    let folders = folder.path().join("cache").read_dir().unwrap();
    assert_eq!(folders.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 1);
}

#[test]
fn a_file_with_another_hash_is_not_installed() {
    let folder = TempDir::new().unwrap();
    // One digit differs.
    let list =
        list(
            folder.path(),
            |hash| if hash.ends_with('0') { hash.replace('0', "1") } else { hash[..63].to_owned() + "0" },
        );
    let problem = environment(machines(), folder.path(), &list).unwrap_err();
    assert!(problem.contains("DO NOT MATCH THE HASHES"), "{problem}");
    // And half an environment is none.
    environment(machines(), folder.path(), &list).unwrap_err();
}

#[test]
fn without_a_way_to_pypi_the_error_says_what_to_do() {
    let folder = TempDir::new().unwrap();
    // Nobody listens on this port.
    let list = "--index-url http://127.0.0.1:9/simple\nparcel==1.0 --hash=sha256:00\n";
    let problem = environment(machines(), folder.path(), list).unwrap_err();
    assert!(problem.contains("PIP_INDEX_URL"), "{problem}");
}
