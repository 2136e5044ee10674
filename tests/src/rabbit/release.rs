//! Which RabbitMQ the nodes are, and how its programs are called.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::python::cache;

/// Where the programs are, seen from the root of either installation.
/// Those in `/usr/sbin` switch to the user `rabbitmq`.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Enters an installation in a folder: `$1` its root, `$2` the node's folder.
///
/// The mounts are in a namespace of the process's own and vanish with it.
const ENTER: &str = r#"
root=$1 folder=$2
shift 2
mount -t proc proc "$root/proc" && mount --bind /etc/hosts "$root/etc/hosts" && mount --bind "$folder" "$root/srv" &&
exec chroot "$root" "$@"
"#;

/// Where a node finds its folder inside an installation in a folder.
const INSIDE: &str = "/srv";

/// An installed RabbitMQ.
#[derive(Debug)]
pub(super) enum Release {
    /// The machine's own package.
    Installed,
    /// A later Debian in a folder, which `tests/rabbitmq.sh` has made.
    Rooted(PathBuf),
}

impl Release {
    /// The one that `TEST_RABBITMQ_VERSION` names.
    pub(super) fn chosen() -> Self {
        let release = match env::var("TEST_RABBITMQ_VERSION").as_deref() {
            Err(_) | Ok("" | "3.10") => Self::Installed,
            Ok(version @ ("4.0" | "4.3")) => Self::Rooted(cache().join(format!("worker-tests/rabbitmq-{version}"))),
            Ok(other) => panic!("TEST_RABBITMQ_VERSION is `{other}`; use 3.10, 4.0 or 4.3"),
        };
        let server = release.outside(Path::new(PROGRAMS)).join("rabbitmq-server");
        assert!(server.exists(), "{} is missing: run tests/run.sh, which installs it", server.display());
        release
    }

    /// A program of it, for a node that works in `folder`, with nothing of our environment.
    ///
    /// It becomes that program without forking.
    pub(super) fn command(&self, folder: &Path, program: &str, variables: &[(&str, String)]) -> Command {
        let mut command = match self {
            Self::Installed => Command::new("env"),
            Self::Rooted(root) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", ENTER, "enter"]).arg(root).arg(folder).arg("env");
                command
            }
        };
        command.args(["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]);
        command.arg(format!("HOME={}", self.inside(folder).display()));
        if let Self::Rooted(_) = self {
            // Debian's own start script sets it, the program alone does not find it.
            command.arg(format!("RABBITMQ_PLUGINS_DIR={}", self.plugins()));
        }
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}"))).arg(program);
        command
    }

    /// The server.
    pub(super) fn server(&self, folder: &Path, variables: &[(&str, String)]) -> Command {
        self.command(folder, &format!("{PROGRAMS}/rabbitmq-server"), variables)
    }

    /// What a node calls `folder`.
    pub(super) fn inside<'f>(&self, folder: &'f Path) -> &'f Path {
        if let Self::Rooted(_) = self { Path::new(INSIDE) } else { folder }
    }

    fn outside(&self, path: &Path) -> PathBuf {
        match self {
            Self::Installed => path.to_owned(),
            Self::Rooted(root) => root.join(path.strip_prefix("/").expect("it is absolute")),
        }
    }

    fn plugins(&self) -> String {
        let versions = self.outside(Path::new("/usr/lib/rabbitmq/lib"));
        let version = versions.read_dir().expect("it is installed").next().expect("it is installed").unwrap();
        format!("/usr/lib/rabbitmq/lib/{}/plugins", version.file_name().display())
    }
}
