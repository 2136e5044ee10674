//! Namespaces of a run's own, in which the network between its nodes can be harmed without harming anybody else's.

use std::{env, io, os::unix::process::CommandExt as _, process::Command};

/// Says to this program that it is there already.
const APART: &str = "TORTURE_APART";

/// The table of local addresses is asked after rules of lower numbers, so that those can drop what goes to them.
const PREPARE: &str = "ip link set lo up && ip rule add pref 100 lookup local && ip rule del pref 0 && exec \"$@\"";

/// Whether this process is in a network of its own.
#[must_use]
pub fn is_apart() -> bool {
    env::var_os(APART).is_some()
}

/// Runs this program again in place of this one, in a network and among processes of its own, all of which end with it.
/// Needs `unshare` and `ip`, and root or namespaces for users.
#[must_use]
pub fn enter() -> io::Error {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut again = Command::new("unshare");
    again.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user"]);
    again.args(["sh", "-c", PREPARE, "sh"]).arg(program).args(env::args_os().skip(1)).env(APART, "1");
    again.exec()
}
