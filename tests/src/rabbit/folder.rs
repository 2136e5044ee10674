//! A node's folder: its settings, its data and its logs.

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::Builder;

use super::{ports::Ports, release::Release, tls::ServerTls};

/// At-least-once dead-lettering waits this long for a confirm that a SIGKILL
/// has taken away; RabbitMQ's default of 180 s is longer than any test waits.
const DEAD_LETTER_CONFIRM_MS: u32 = 8_000;

/// Makes a folder for a node. Whoever starts the node removes it.
pub(super) fn create(release: &Release, ports: &Ports, tls: Option<&ServerTls>) -> PathBuf {
    let folder = Builder::new().prefix("rabbit-").tempdir().expect("there is room for a folder").keep();
    let (amqp, api) = (ports.amqp(), ports.api());
    for (file, text) in [
        ("enabled_plugins", "[rabbitmq_management].\n".to_owned()),
        (
            "rabbitmq.conf",
            format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
                 management.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {api}\n\
                 log.file.level = warning\n"
            ),
        ),
        (
            "advanced.config",
            format!("[{{rabbit, [{{dead_letter_worker_publisher_confirm_timeout, {DEAD_LETTER_CONFIRM_MS}}}]}}].\n"),
        ),
        ("env.conf", String::new()),
    ] {
        fs::write(folder.join(file), text).unwrap();
    }
    if let Some(tls) = tls {
        for (file, text) in
            [("ca.pem", &tls.authority), ("server.pem", &tls.identity.certificate), ("key.pem", &tls.identity.key)]
        {
            fs::write(folder.join(file), text).unwrap();
        }
        let mut settings = File::options().append(true).open(folder.join("rabbitmq.conf")).unwrap();
        write!(settings, "{}", tls.settings(ports, release.inside(&folder))).unwrap();
    }
    // One for all, so that nodes can make a cluster; Erlang insists that nobody else may read it.
    let cookie = folder.join(".erlang.cookie");
    fs::write(&cookie, "worker-tests").unwrap();
    fs::set_permissions(&cookie, Permissions::from_mode(0o400)).unwrap();
    for name in ["data", "log", "conf.d"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    folder
}

/// The environment of a node in `folder`.
///
/// All places where a server of the machine keeps settings are named, so that none of them is read.
pub(super) fn environment(release: &Release, folder: &Path, name: &str, ports: &Ports) -> Vec<(&'static str, String)> {
    let inside = |file: &str| release.inside(folder).join(file).display().to_string();
    vec![
        ("RABBITMQ_NODENAME", name.to_owned()),
        ("RABBITMQ_NODE_PORT", ports.amqp().to_string()),
        ("RABBITMQ_DIST_PORT", ports.distribution().to_string()),
        ("RABBITMQ_MNESIA_BASE", inside("data")),
        ("RABBITMQ_LOG_BASE", inside("log")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", inside("conf.d")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config")),
        ("RABBITMQ_CONF_ENV_FILE", inside("env.conf")),
        // Nothing of it is reachable from another machine.
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        // The start script becomes the server instead of waiting for it, so that a signal reaches the server.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ]
}
