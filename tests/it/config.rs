//! The settings, read from an environment that the test makes up, and the page about them.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use worker_core::{
    ConfigError,
    config::{
        LogFormat, Origin, RabbitmqQueueType, SETTINGS, Settings, SettingsReader, SqliteSynchronous, TopologyMode,
    },
};

fn read(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    SettingsReader::new().read(environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn problems(environment: &[(&str, &str)]) -> Vec<String> {
    read(environment).unwrap_err().problems().to_vec()
}

fn origin<'a>(settings: &'a Settings, name: &str) -> &'a Origin {
    &settings.entries().iter().find(|entry| entry.setting.name == name).unwrap().origin
}

/// A file in a folder that goes when it is dropped.
fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn an_empty_environment_gives_the_defaults() {
    let settings = read(&[("PATH", "/bin"), ("WORKERS", "3")]).unwrap();
    assert_eq!(settings.broker_url.path(), Some(Path::new("jobs.db")));
    assert_eq!((settings.concurrency, settings.prefetch), (16, None));
    assert!(settings.entries().iter().all(|entry| entry.origin == Origin::Default));
    assert!(settings.warnings().is_empty());
}

#[test]
fn every_variable_reaches_its_setting() {
    let settings = read(&[
        ("WORKER_BROKER_URL", "sqlite:/srv/jobs.db"),
        ("WORKER_QUEUES", "emails=4,orders"),
        ("WORKER_CONCURRENCY", "32"),
        ("WORKER_PREFETCH", "5"),
        ("WORKER_SHUTDOWN_GRACE", "1m 30s"),
        ("WORKER_ADMIN", "9091"),
        ("WORKER_TOPOLOGY", "Check"),
        ("WORKER_UNKNOWN_JOB_PATIENCE", "2h"),
        ("WORKER_ENQUEUE_TIMEOUT", "250ms"),
        ("WORKER_PAYLOAD_MAX", "2MiB"),
        ("WORKER_SQLITE_SYNCHRONOUS", "normal"),
        ("WORKER_SQLITE_BUSY_TIMEOUT", "1s"),
        ("WORKER_SQLITE_LEASE", "10s"),
        ("WORKER_CONNECT_TIMEOUT", "5s"),
        ("WORKER_RABBITMQ_HEARTBEAT", "20s"),
        ("WORKER_RABBITMQ_CONFIRM_TIMEOUT", "3s"),
        ("WORKER_RABBITMQ_QUEUE_TYPE", "Classic"),
        ("WORKER_RABBITMQ_CONSUMER_TIMEOUT", "2h"),
        ("WORKER_RABBITMQ_CHANNELS", "4"),
        ("WORKER_RABBITMQ_REPLY_QUEUES", "amq.gen-*, replies"),
        ("WORKER_RABBITMQ_NAMESPACE", "team-a"),
        ("WORKER_RABBITMQ_CA_FILE", "/etc/ca.pem"),
        ("WORKER_RABBITMQ_CERT_FILE", "cert.pem"),
        ("WORKER_RABBITMQ_KEY_FILE", "key.pem"),
        ("WORKER_RABBITMQ_SERVER_NAME", "rabbit.internal"),
        ("WORKER_RABBITMQ_MANAGEMENT_URL", "http://rabbit:15672"),
        ("WORKER_LOG_FORMAT", "json"),
    ])
    .unwrap();
    let queues: Vec<_> =
        settings.queues.iter().flatten().map(|served| (served.queue.to_string(), served.slots)).collect();
    assert_eq!(queues, [("emails".into(), Some(4)), ("orders".into(), None)]);
    assert_eq!((settings.concurrency, settings.prefetch), (32, Some(5)));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(90));
    assert_eq!(settings.admin, Some("127.0.0.1:9091".parse().unwrap()));
    assert_eq!(settings.topology, TopologyMode::Check);
    assert_eq!(settings.unknown_job_patience, Duration::from_secs(7_200));
    assert_eq!(settings.enqueue_timeout, Duration::from_millis(250));
    assert_eq!(settings.payload_bytes_max, 2 << 20);
    assert_eq!(settings.sqlite_synchronous, SqliteSynchronous::Normal);
    assert_eq!(
        (settings.sqlite_busy_timeout, settings.sqlite_lease),
        (Duration::from_secs(1), Duration::from_secs(10))
    );
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.connect_timeout, Duration::from_secs(5));
    assert_eq!(settings.rabbitmq_heartbeat, Duration::from_secs(20));
    assert_eq!(settings.rabbitmq_confirm_timeout, Duration::from_secs(3));
    assert_eq!(settings.rabbitmq_queue_type, RabbitmqQueueType::Classic);
    assert_eq!(settings.rabbitmq_consumer_timeout, Duration::from_secs(7_200));
    assert_eq!(settings.rabbitmq_channels.get(), 4);
    assert_eq!(settings.rabbitmq_reply_queues, ["amq.gen-*", "replies"]);
    assert_eq!(settings.rabbitmq_server_name.as_deref(), Some("rabbit.internal"));
    let management = settings.rabbitmq_management_url.as_ref().map(ToString::to_string);
    assert_eq!(management.as_deref(), Some("http://rabbit:15672"));
    assert_eq!(settings.rabbitmq_namespace, "team-a");
    assert_eq!(settings.rabbitmq_ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(settings.rabbitmq_cert_file.as_deref(), Some(Path::new("cert.pem")));
    assert_eq!(settings.rabbitmq_key_file.as_deref(), Some(Path::new("key.pem")));
    assert!(settings.entries().iter().all(|entry| entry.origin == Origin::Environment));
}

#[test]
fn everything_wrong_is_said_at_once_with_variable_value_and_form() {
    let problems = problems(&[
        ("WORKER_CONCURENCY", "1"),
        ("WORKER_GRACE", "1s"),
        ("WORKER_COLOUR", "red"),
        ("WORKER_CONCURRENCY", "many"),
        ("WORKER_SHUTDOWN_GRACE", "30"),
        ("WORKER_ENQUEUE_TIMEOUT", "soon"),
        ("WORKER_SQLITE_LEASE", "10ms"),
        ("WORKER_QUEUES", ""),
        ("WORKER_LOG_FORMAT", "loud\u{1b}[31m"),
    ]);
    assert_eq!(
        problems,
        [
            "`WORKER_COLOUR` is no setting; settings: WORKER_BROKER_URL, WORKER_QUEUES, WORKER_CONCURRENCY, WORKER_PREFETCH, WORKER_SHUTDOWN_GRACE, WORKER_ADMIN, WORKER_TOPOLOGY, WORKER_UNKNOWN_JOB_PATIENCE, WORKER_ENQUEUE_TIMEOUT, WORKER_CONNECT_TIMEOUT, WORKER_PAYLOAD_MAX, WORKER_SQLITE_SYNCHRONOUS, WORKER_SQLITE_BUSY_TIMEOUT, WORKER_SQLITE_LEASE, WORKER_RABBITMQ_HEARTBEAT, WORKER_RABBITMQ_CONFIRM_TIMEOUT, WORKER_RABBITMQ_QUEUE_TYPE, WORKER_RABBITMQ_CONSUMER_TIMEOUT, WORKER_RABBITMQ_CHANNELS, WORKER_RABBITMQ_REPLY_QUEUES, WORKER_RABBITMQ_NAMESPACE, WORKER_RABBITMQ_CA_FILE, WORKER_RABBITMQ_CERT_FILE, WORKER_RABBITMQ_KEY_FILE, WORKER_RABBITMQ_SERVER_NAME, WORKER_RABBITMQ_MANAGEMENT_URL, WORKER_LOG_FORMAT",
            "`WORKER_CONCURENCY` is no setting; did you mean `WORKER_CONCURRENCY`?",
            "`WORKER_GRACE` is no setting; did you mean `WORKER_SHUTDOWN_GRACE`?",
            "WORKER_QUEUES is empty; use names with or without slots, separated by commas: `emails=4,orders`, or leave it out",
            "WORKER_CONCURRENCY is `many`; use a number of jobs from 1 to 10000",
            "WORKER_SHUTDOWN_GRACE is `30`, which needs a unit: write `30s`",
            "WORKER_ENQUEUE_TIMEOUT is `soon`, which is no duration; write `500ms`, `30s`, `5m` or `1h 30m`",
            "WORKER_SQLITE_LEASE is `10ms`; use a duration from 1s to 1 hour, such as `30s`",
            r"WORKER_LOG_FORMAT is `loud\u{1b}[31m`; use `auto`, `pretty` or `json`",
        ]
    );
}

#[test]
fn a_secret_comes_from_a_file_without_its_line_end() {
    let (_folder, path) = file(b"sqlite:/srv/jobs.db\r\n");
    let settings = read(&[("WORKER_BROKER_URL_FILE", path.to_str().unwrap())]).unwrap();
    assert_eq!(settings.broker_url.to_string(), "sqlite:/srv/jobs.db");
    assert_eq!(*origin(&settings, "broker_url"), Origin::File(path));
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_its_content_is_not() {
    let (_folder, path) = file(b"\xffhunter2");
    let path = path.to_str().unwrap();
    assert!(problems(&[("WORKER_BROKER_URL_FILE", path)])[0].contains("is not UTF-8 text"));
    let (_folder, long) = file(&[b'x'; 70_000]);
    assert!(problems(&[("WORKER_BROKER_URL_FILE", long.to_str().unwrap())])[0].contains("more than 64 KiB"));
    assert!(
        problems(&[("WORKER_BROKER_URL_FILE", "/no/such/file")])[0].contains("`/no/such/file`, which cannot be read")
    );
    let both = problems(&[("WORKER_BROKER_URL_FILE", path), ("WORKER_BROKER_URL", "hunter2")]);
    assert_eq!(both, ["WORKER_BROKER_URL and WORKER_BROKER_URL_FILE are both set; unset one of them"]);
    assert!(problems(&[("WORKER_CONCURRENCY_FILE", path)])[0].contains("WORKER_CONCURRENCY is no secret"));
}

#[test]
fn a_password_is_never_repeated() {
    let urls = [
        "hunter2",
        "hunter2@host",
        "amqp://u:hunter2/@host/",
        "amqp://u:hunter2@x@host/",
        "redis://:hunter2@host",
        "sqlite:x?key=hunter2",
        "sqlite://u:hunter2@h/x",
    ];
    for url in urls {
        let error = read(&[("WORKER_BROKER_URL", url)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error}");
    }
    let settings = read(&[("WORKER_BROKER_URL", "amqps://u:hunter2@host/v")]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    assert_eq!(settings.entries()[0].text, "amqps://***@host:5671/v");
}

#[test]
fn what_kubernetes_injects_is_ignored_with_a_warning() {
    let injected = [
        ("WORKER_PORT", "tcp://10.0.0.1:80"),
        ("WORKER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("WORKER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("WORKER_PORT_80_TCP_PORT", "80"),
        ("WORKER_PORT_80_TCP_PROTO", "tcp"),
        ("WORKER_SERVICE_HOST", "10.0.0.1"),
        ("WORKER_SERVICE_PORT", "80"),
        ("WORKER_SERVICE_PORT_HTTP", "80"),
        ("WORKER_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("WORKER_METRICS_PORT_9090_UDP_PROTO", "udp"),
    ];
    let settings = read(&injected).unwrap();
    assert_eq!(settings.warnings().len(), injected.len(), "{:?}", settings.warnings());
    assert!(settings.warnings()[0].contains("WORKER_METRICS_PORT_9090_UDP_PROTO is ignored: Kubernetes"));
    for (name, value) in [("WORKER_PORT", "80"), ("WORKER_PORT_X_TCP", "1"), ("WORKER_IMPORT_80_TCPX", "1")] {
        assert!(read(&[(name, value)]).is_err(), "{name}={value}");
    }
}

#[test]
fn what_is_not_utf_8_is_a_problem_and_no_panic() {
    let bytes = OsString::from_vec(b"a\xff".to_vec());
    let mut name = OsString::from("WORKER_");
    name.push(&bytes);
    let error = SettingsReader::new().read([(name, "1".into()), ("WORKER_QUEUES".into(), bytes)]).unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");
    assert!(error.problems()[1].contains("WORKER_QUEUES is not UTF-8"), "{error}");
}

#[test]
fn flags_win_over_the_environment_and_both_over_the_application() {
    let environment = || [("WORKER_CONCURRENCY".into(), "2".into()), ("WORKER_PREFETCH".into(), "none".into())];
    let reader = SettingsReader::new().default_broker_url("sqlite:app.db");
    let settings = reader.clone().flag("--concurrency", "3").flag("--prefetch", "4").read(environment()).unwrap();
    assert_eq!((settings.concurrency, settings.prefetch), (3, Some(4)));
    assert_eq!(*origin(&settings, "concurrency"), Origin::Flag);
    assert_eq!(*origin(&settings, "broker_url"), Origin::Application);
    let settings = reader.clone().read([("WORKER_BROKER_URL".into(), "sqlite:env.db".into())]).unwrap();
    assert_eq!(settings.broker_url.to_string(), "sqlite:env.db");
    let error = reader.flag("--concurrency", "0").read([]).unwrap_err();
    assert_eq!(error.to_string(), "--concurrency is `0`; use a number of jobs from 1 to 10000");
    let error = SettingsReader::new().default_broker_url("app.db").flag("--colour", "red").read([]).unwrap_err();
    assert!(error.to_string().contains("the application's default of WORKER_BROKER_URL"), "{error}");
    assert!(error.to_string().contains("no setting with the flag `--colour`"), "{error}");
}

#[test]
fn a_queue_cannot_have_more_slots_than_its_worker() {
    let problem = &problems(&[("WORKER_QUEUES", "emails=9,orders"), ("WORKER_CONCURRENCY", "8")])[0];
    assert_eq!(
        problem,
        "queue `emails` asks for 9 slots, and WORKER_CONCURRENCY gives the worker 8; raise one or lower the other"
    );
}

#[test]
fn the_guide_has_every_setting_as_the_program_has_it() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/configuration.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `WORKER_")).collect();
    let row = |setting: &worker_core::config::Setting| {
        let flag = setting.flag.map(|flag| format!("`{flag}`")).unwrap_or_default();
        let default = match setting.default.contains(' ') {
            true => setting.default.to_owned(),
            false => format!("`{}`", setting.default),
        };
        let secret = if setting.secret { ", also from a file" } else { "" };
        let (variable, meaning, form, why) = (setting.variable, setting.meaning, setting.form, setting.why);
        format!("| `{variable}` | {flag} | {meaning}{secret} | {form} | {default} | {why} |")
    };
    let expected: Vec<_> = SETTINGS.iter().map(|setting| row(setting)).collect();
    assert_eq!(rows, expected, "docs/guides/configuration.md should have:\n{}\n", expected.join("\n"));
}
