//! Python with pika and aio-pika, in an environment that the tests make for themselves.
//!
//! It is a folder in the user's cache, so that it survives `cargo clean` and serves every clone. Its name has
//! the version of Python and a hash of `tests/python/requirements.txt`: another list is another folder, and
//! nothing in one ever changes. Delete it to have it made anew.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The machine's own, so that it does not matter which Python stands first in `PATH`.
const MACHINES: &str = "/usr/bin/python3";

/// What is installed, each file with its hash.
const REQUIREMENTS: &str = include_str!("../python/requirements.txt");

/// What to do where there is no way to PyPI.
const NO_PYPI: &str = "the tests need https://pypi.org once: connect this machine, or name a mirror in \
    PIP_INDEX_URL, or a folder with the files in PIP_FIND_LINKS beside PIP_NO_INDEX=1, and run this again";

/// Python with what `tests/python/requirements.txt` lists, and nothing else of this machine.
///
/// The first caller of a machine makes the environment, in half a minute, and all others wait for it.
///
/// # Panics
///
/// When it cannot be made, with what to do about it.
pub fn python() -> Command {
    // A failure is kept too: it may have taken a minute.
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| environment(Path::new(MACHINES), &cache().join("worker-tests"), REQUIREMENTS));
    let interpreter = made.as_ref().unwrap_or_else(|problem| panic!("{problem}"));
    let mut python = Command::new(interpreter);
    // What is meant for another Python of the user's would be found first.
    python.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    python
}

/// The interpreter of the environment for `requirements` below `cache`, which is made where there is none.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub fn environment(python: &Path, cache: &Path, requirements: &str) -> Result<PathBuf, String> {
    let asked = Command::new(python).args(["-c", "import platform; print(platform.python_version())"]).output();
    let said = asked.map_err(|error| format!("{}: {error}; tests/run.sh installs it", python.display()))?;
    let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let name = format!("python-{version}-{:016x}", hash(requirements));
    let folder = cache.join(&name);
    let interpreter = folder.join("bin/python");
    let told = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(cache).map_err(told)?;
    let lock = File::create(cache.join(format!("{name}.lock"))).map_err(told)?;
    // Held until the end of this function: another process may be making it.
    lock.lock().map_err(told)?;
    if !interpreter.exists() {
        // A folder of another name until all is there, so that half an environment is never used.
        let new = cache.join(format!("{name}.new"));
        make(python, &new, requirements)?;
        fs::rename(&new, &folder).map_err(told)?;
    }
    Ok(interpreter)
}

fn make(python: &Path, new: &Path, requirements: &str) -> Result<(), String> {
    if new.exists() {
        fs::remove_dir_all(new).map_err(|error| format!("{}: {error}", new.display()))?;
    }
    run(
        Command::new(python).args(["-m", "venv"]).arg(new),
        "no environment for Python could be made: tests/run.sh installs python3-venv, which it needs",
    )?;
    let list = new.join("requirements.txt");
    fs::write(&list, requirements).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut pip = Command::new(new.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.args(["--timeout=20", "--retries=2", "--require-hashes", "--requirement"]).arg(&list);
    run(&mut pip, NO_PYPI)
}

/// Runs it to its end; where it fails, what it said and `advice`.
fn run(command: &mut Command, advice: &str) -> Result<(), String> {
    let ended = command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").output();
    let ended = ended.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = [ended.stdout, ended.stderr].concat();
    Err(format!("{command:?} failed:\n{}\n{advice}", String::from_utf8_lossy(&said).trim_end()))
}

/// FNV-1a: the standard library's hash may change with the compiler.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Where a user's programs keep what can be made again.
pub(crate) fn cache() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.or_else(|| env::home_dir().map(|home| home.join(".cache"))).expect("there is a home folder")
}
