//! The process anew, with a larger stack for the threads that read messages.
//!
//! The variable that says so is read once, before the first thread, and a program may not change its own environment
//! without `unsafe`. So the program is executed again, in the same process: its number, its parent and its open files
//! stay what they were.

use std::io;

#[cfg(all(unix, feature = "rabbitmq"))]
pub(super) use again::enlarge;

/// Nothing here reads messages that could be too deep, or the program cannot be executed again.
#[cfg(not(all(unix, feature = "rabbitmq")))]
pub(super) const fn enlarge() -> io::Result<()> {
    Ok(())
}

#[cfg(all(unix, feature = "rabbitmq"))]
mod again {
    use std::{env, os::unix::process::CommandExt as _, path::Path, process::Command};

    use super::io;
    use crate::brokers::rabbitmq::stack::{BYTES, VARIABLE, is_enough};

    /// Always this program, also when its file was replaced or deleted since. The second choice, since `ps` shows it
    /// as `exe`.
    const ITSELF: &str = "/proc/self/exe";

    /// Executes this program again unless its stacks are large enough. Returns only where that is so, or failed.
    ///
    /// # Errors
    ///
    /// The program could not be executed: it goes on as it is.
    pub(in crate::cli) fn enlarge() -> io::Result<()> {
        if is_enough() {
            return Ok(());
        }
        let first = env::current_exe().map(|program| execute(&program));
        // Where it was replaced, what `current_exe` says is no file.
        let second = execute(Path::new(ITSELF));
        Err(first.unwrap_or(second))
    }

    /// Only returns where it failed.
    fn execute(program: &Path) -> io::Error {
        let mut args = env::args_os();
        let mut command = Command::new(program);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env(VARIABLE, BYTES.to_string()).exec()
    }
}
