//! The settings of RabbitMQ: under which names a broker is found, and which names must not find one.

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use worker_core::{
    ConfigError,
    config::{AmqpUrl, Origin, Settings, SettingsReader},
};

fn read(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    SettingsReader::new().read(environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn settings(environment: &[(&str, &str)]) -> Settings {
    read(environment).unwrap_or_else(|error| panic!("{environment:?}: {error}"))
}

fn amqp(settings: &Settings) -> &AmqpUrl {
    settings.broker_url.amqp().unwrap_or_else(|| panic!("{settings:?}"))
}

/// Value and origin, as `config` shows them.
fn entry(settings: &Settings, variable: &str) -> (String, String) {
    let entry = settings.entries().iter().find(|entry| entry.setting.variable == variable).unwrap();
    (entry.text.clone(), entry.origin_text())
}

fn broker(settings: &Settings) -> (String, String) {
    entry(settings, "WORKER_BROKER_URL")
}

/// The one problem that there is.
fn problem(environment: &[(&str, &str)]) -> String {
    let error = read(environment).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    error.to_string()
}

#[test]
fn what_is_set_for_rabbitmq_does_not_disturb_a_program_on_a_file() {
    // A certificate without its key would be a problem on RabbitMQ.
    let found = settings(&[
        ("WORKER_RABBITMQ_QUEUE_TYPE", "classic"),
        ("WORKER_RABBITMQ_CERT_FILE", "cert.pem"),
        ("RABBITMQ_NODENAME", "rabbit@somewhere"),
        ("RABBITMQ_NODE_PORT", "5672"),
        ("RABBITMQ_DEFAULT_PASS", "hunter2"),
    ]);
    assert_eq!(broker(&found), ("sqlite:jobs.db".into(), "default".into()));
    assert!(found.warnings().is_empty(), "{:?}", found.warnings());
}

#[test]
fn files_that_the_connection_would_not_use_are_a_problem() {
    let url = ("WORKER_BROKER_URL", "amqp://u:p@h");
    assert!(problem(&[url, ("WORKER_RABBITMQ_CA_FILE", "ca.pem")]).contains("WORKER_RABBITMQ_CA_FILE is set, but"));
    let url = ("WORKER_BROKER_URL", "amqps://u:p@h");
    assert!(problem(&[url, ("WORKER_RABBITMQ_CERT_FILE", "c")]).contains("without the key"));
    assert!(problem(&[url, ("WORKER_RABBITMQ_KEY_FILE", "c")]).contains("without the certificate"));
    let both = settings(&[url, ("WORKER_RABBITMQ_CERT_FILE", "c"), ("WORKER_RABBITMQ_KEY_FILE", "k")]);
    assert_eq!(both.rabbitmq_key_file.as_deref(), Some(Path::new("k")));
    assert!(problem(&[("WORKER_BROKER_URL", "amqps://u:p@h?keyfile=k")]).contains("`keyfile` in WORKER_BROKER_URL"));
}

#[test]
fn a_parameter_of_the_url_holds_where_no_variable_says_otherwise() {
    let url = ("WORKER_BROKER_URL", "amqps://u:p@h?heartbeat=20&connection_timeout=1500&cacertfile=ca.pem");
    let plain = settings(&[url]);
    assert_eq!(plain.rabbitmq_heartbeat, Duration::from_secs(20));
    assert_eq!(plain.connect_timeout, Duration::from_millis(1_500));
    assert_eq!(plain.rabbitmq_ca_file.as_deref(), Some(Path::new("ca.pem")));
    let from = "`heartbeat` in WORKER_BROKER_URL".to_owned();
    assert_eq!(entry(&plain, "WORKER_RABBITMQ_HEARTBEAT"), ("20s".into(), from));
    let both = settings(&[url, ("WORKER_RABBITMQ_HEARTBEAT", "10s")]);
    assert_eq!(both.rabbitmq_heartbeat, Duration::from_secs(10));
    assert_eq!(both.warnings(), ["`heartbeat` in WORKER_BROKER_URL is ignored: WORKER_RABBITMQ_HEARTBEAT says it"]);
}

#[test]
fn another_name_of_the_url_is_taken_where_ours_is_not_set() {
    for name in ["RABBITMQ_URL", "AMQP_URL", "CLOUDAMQP_URL"] {
        let found = settings(&[(name, "amqp://u:hunter2@mq/jobs")]);
        assert_eq!(broker(&found), ("amqp://***@mq:5672/jobs".into(), name.into()));
        assert!(found.warnings().is_empty() && !format!("{found:?}").contains("hunter2"), "{found:?}");
        let application = SettingsReader::new().default_broker_url("sqlite:app.db");
        let found = application.read([(name.into(), "amqp://u:p@mq".into())]).unwrap();
        assert!(found.broker_url.amqp().is_some());
    }
}

#[test]
fn of_several_names_the_first_wins_with_a_warning() {
    let aliases = [("CLOUDAMQP_URL", "amqp://u:p@c"), ("AMQP_URL", "amqp://u:p@a"), ("RABBITMQ_URL", "amqp://u:p@r")];
    let found = settings(&aliases);
    assert_eq!(broker(&found).1, "RABBITMQ_URL");
    let expected =
        ["AMQP_URL", "CLOUDAMQP_URL"].map(|name| format!("{name} is ignored: RABBITMQ_URL says where the jobs are"));
    assert_eq!(found.warnings(), expected);
    let ours = settings(&[aliases[2], ("WORKER_BROKER_URL", "sqlite:x.db"), ("RABBITMQ_HOST", "h")]);
    assert_eq!(broker(&ours), ("sqlite:x.db".into(), "WORKER_BROKER_URL".into()));
    assert_eq!(
        ours.warnings(),
        ["RABBITMQ_URL", "RABBITMQ_HOST"]
            .map(|name| format!("{name} is ignored: WORKER_BROKER_URL says where the jobs are"))
    );
    let same = settings(&[("WORKER_BROKER_URL", "amqp://u:p@h"), ("RABBITMQ_URL", "amqp://u:p@h")]);
    assert!(same.warnings().is_empty(), "{:?}", same.warnings());
    let flag = SettingsReader::new().flag("--broker", "memory:").read([("RABBITMQ_URL".into(), "amqp://h".into())]);
    assert!(flag.unwrap().warnings().is_empty());
}

#[test]
fn another_name_holds_an_amqp_url_or_is_a_problem() {
    assert!(problem(&[("RABBITMQ_URL", "")]).contains("RABBITMQ_URL is empty"));
    assert!(problem(&[("AMQP_URL", "sqlite:jobs.db")]).contains("AMQP_URL holds no `amqp://`"));
    assert!(
        problem(&[("RABBITMQ_URL", "http://u:hunter2@h:15672")]).contains("name another broker in WORKER_BROKER_URL")
    );
    let unescaped = problem(&[("RABBITMQ_URL", "amqp://u:hunter2#@h")]);
    assert!(unescaped.starts_with("RABBITMQ_URL has a `#`") && !unescaped.contains("hunter2"), "{unescaped}");
    // Whoever chose a broker is not bothered with what other programs read.
    settings(&[("WORKER_BROKER_URL", "sqlite:x.db"), ("AMQP_URL", "nonsense"), ("RABBITMQ_PORT", "many")]);
}

#[test]
fn a_url_comes_from_a_file_or_from_systemd() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("broker-url");
    std::fs::write(&path, "amqp://u:hunter2@mq/\n").unwrap();
    let (path, folder_name) = (path.to_str().unwrap(), folder.path().to_str().unwrap());
    let file = settings(&[("AMQP_URL_FILE", path)]);
    assert_eq!(broker(&file), ("amqp://***@mq:5672/%2F".into(), format!("AMQP_URL_FILE ({path})")));
    assert!(matches!(&file.entries()[0].origin, Origin::File(found) if found == Path::new(path)));
    assert!(problem(&[("AMQP_URL_FILE", path), ("AMQP_URL", "amqp://h")]).contains("both set"));

    let systemd = settings(&[("CREDENTIALS_DIRECTORY", folder_name), ("RABBITMQ_URL", "amqp://other")]);
    assert_eq!(broker(&systemd), ("amqp://***@mq:5672/%2F".into(), format!("the credential broker-url ({path})")));
    assert!(systemd.warnings()[0].contains("RABBITMQ_URL is ignored: the credential"), "{:?}", systemd.warnings());
    let ours = settings(&[("CREDENTIALS_DIRECTORY", folder_name), ("WORKER_BROKER_URL", "memory:")]);
    assert_eq!(broker(&ours).1, "WORKER_BROKER_URL");
    std::fs::write(path, "\u{0}hunter2").unwrap();
    assert!(!problem(&[("CREDENTIALS_DIRECTORY", folder_name)]).contains("hunter2"));
    std::fs::remove_file(path).unwrap();
    assert_eq!(broker(&settings(&[("CREDENTIALS_DIRECTORY", folder_name)])).1, "default");
}

#[test]
fn an_empty_virtual_host_is_taken_as_the_default_with_a_warning() {
    let found = settings(&[("RABBITMQ_URL", "amqp://u:p@mq.example:5672/")]);
    assert_eq!(amqp(&found).vhost, "/");
    assert!(found.warnings()[0].starts_with("RABBITMQ_URL: the virtual host"), "{:?}", found.warnings());
    for (vhost, taken) in [("", "/"), ("%2F", "/"), ("/", "/"), ("a/b", "a/b"), ("a%2Fb", "a%2Fb")] {
        let found = settings(&[("RABBITMQ_HOST", "h"), ("RABBITMQ_VHOST", vhost)]);
        assert_eq!(amqp(&found).vhost, taken);
        assert_eq!(found.warnings().len(), usize::from(vhost != taken), "{:?}", found.warnings());
    }
}

#[test]
fn the_parts_of_an_address_are_put_together() {
    let found = settings(&[
        ("RABBITMQ_HOST", "mq.example"),
        ("RABBITMQ_PORT", "5673"),
        ("RABBITMQ_USER", "jobs"),
        ("RABBITMQ_PASSWORD", "p@ss/#%:hunter2"),
        ("RABBITMQ_VHOST", "/orders"),
        ("RABBITMQ_HEARTBEAT", "20"),
        ("RABBITMQ_CONNECTION_TIMEOUT", "1m"),
        ("RABBITMQ_SSL_VERIFY", "false"),
        ("RABBITMQ_NODENAME", "rabbit@somewhere"),
    ]);
    let url = amqp(&found);
    assert_eq!((url.user.as_str(), url.password.expose(), url.vhost.as_str()), ("jobs", "p@ss/#%:hunter2", "/orders"));
    let from = "RABBITMQ_HOST, RABBITMQ_PORT, RABBITMQ_USER, RABBITMQ_PASSWORD, RABBITMQ_VHOST".to_owned();
    assert_eq!(broker(&found), ("amqp://***@mq.example:5673/%2Forders".into(), from));
    assert_eq!(entry(&found, "WORKER_RABBITMQ_HEARTBEAT"), ("20s".into(), "RABBITMQ_HEARTBEAT".into()));
    assert_eq!((found.rabbitmq_heartbeat, found.connect_timeout), (Duration::from_secs(20), Duration::from_secs(60)));
    assert_eq!(found.warnings(), ["RABBITMQ_SSL_VERIFY is ignored; the broker's certificate is always verified"]);
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");

    let alone = settings(&[("RABBITMQ_HOST", "localhost")]);
    assert_eq!((amqp(&alone).user.as_str(), amqp(&alone).password.expose()), ("guest", "guest"));
    let ours = settings(&[("RABBITMQ_HOST", "h"), ("RABBITMQ_HEARTBEAT", "9"), ("WORKER_RABBITMQ_HEARTBEAT", "8s")]);
    assert_eq!(ours.rabbitmq_heartbeat, Duration::from_secs(8));
    assert_eq!(ours.warnings(), ["RABBITMQ_HEARTBEAT is ignored: WORKER_RABBITMQ_HEARTBEAT says it"]);
}

#[test]
fn what_the_tutorials_call_otherwise_is_the_setting_that_means_it() {
    let found = settings(&[
        ("RABBITMQ_HOST", "h"),
        ("RABBITMQ_BLOCKED_TIMEOUT", "300"),
        ("RABBITMQ_PREFETCH_COUNT", "10"),
        ("RABBITMQ_POOL_SIZE", "5"),
        ("RABBITMQ_CONNECTION_ATTEMPTS", "3"),
        ("RABBITMQ_RETRY_DELAY", "5"),
    ]);
    assert_eq!((found.enqueue_timeout, found.prefetch), (Duration::from_secs(300), Some(10)));
    assert_eq!(found.rabbitmq_channels.get(), 5);
    assert_eq!(found.connect_timeout, Duration::from_secs(15));
    let from = "RABBITMQ_CONNECTION_ATTEMPTS, RABBITMQ_RETRY_DELAY".to_owned();
    assert_eq!(entry(&found, "WORKER_CONNECT_TIMEOUT"), ("15s".into(), from));
    assert!(found.warnings().is_empty(), "{:?}", found.warnings());

    let host = ("RABBITMQ_HOST", "h");
    let attempts = |count| ("RABBITMQ_CONNECTION_ATTEMPTS", count);
    let all = settings(&[host, attempts("2"), ("RABBITMQ_RETRY_DELAY", "5"), ("RABBITMQ_CONNECTION_TIMEOUT", "10")]);
    assert_eq!(all.connect_timeout, Duration::from_secs(30));
    assert_eq!(settings(&[host, attempts("4")]).connect_timeout, Duration::from_secs(4));
    let pause = settings(&[host, ("RABBITMQ_RETRY_DELAY", "5")]);
    assert_eq!(pause.connect_timeout, Duration::from_secs(30));
    assert!(pause.warnings()[0].contains("without RABBITMQ_CONNECTION_ATTEMPTS it is no limit"), "{pause:?}");
    assert!(problem(&[host, attempts("none")]).contains("RABBITMQ_CONNECTION_ATTEMPTS is `none`"));
    assert!(problem(&[host, ("RABBITMQ_POOL_SIZE", "1000")]).contains("RABBITMQ_POOL_SIZE is `1000`"));
}

#[test]
fn a_part_with_tls_uses_its_files_and_none_without() {
    let ca = ("RABBITMQ_SSL_CA_CERT", "/etc/ca.pem");
    let on = settings(&[("RABBITMQ_HOST", "mq"), ("RABBITMQ_SSL_ENABLED", "True"), ca, ("RABBITMQ_SSL_KEY", "")]);
    assert_eq!(broker(&on).0, "amqps://***@mq:5671/%2F");
    assert_eq!(entry(&on, "WORKER_RABBITMQ_CA_FILE"), ("/etc/ca.pem".into(), ca.0.into()));
    let name = ("RABBITMQ_SSL_SERVER_NAME", "mq.internal");
    let named = settings(&[("RABBITMQ_HOST", "10.0.0.7"), ("RABBITMQ_SSL_ENABLED", "1"), name]);
    assert_eq!(named.rabbitmq_server_name.as_deref(), Some("mq.internal"));
    let off = settings(&[("RABBITMQ_HOST", "mq"), ("RABBITMQ_SSL_ENABLED", "false"), ca]);
    assert_eq!((amqp(&off).tls, &off.rabbitmq_ca_file), (false, &None));
    assert_eq!(off.warnings(), ["RABBITMQ_SSL_CA_CERT is ignored: RABBITMQ_SSL_ENABLED is off"]);
    assert!(problem(&[("RABBITMQ_HOST", "mq"), ca]).contains("RABBITMQ_SSL_ENABLED is not"));
    assert!(problem(&[("RABBITMQ_HOST", "mq"), ("RABBITMQ_SSL_ENABLED", "maybe")]).contains("use `true` or `false`"));
}

#[test]
fn an_ipv6_address_stays_one() {
    for host in ["::1", "[::1]"] {
        let found = settings(&[("RABBITMQ_HOST", host), ("RABBITMQ_PORT", "5673")]);
        assert_eq!((amqp(&found).hosts[0].name.as_str(), amqp(&found).hosts[0].port), ("::1", 5673));
    }
    let several = settings(&[("RABBITMQ_HOST", "mq-1, ::1,mq-2")]);
    assert_eq!(broker(&several).0, "amqp://***@mq-1:5672,[::1]:5672,mq-2:5672/%2F");
}

#[test]
fn a_part_that_holds_something_else_is_told_its_place() {
    let host = |host: &str| problem(&[("RABBITMQ_HOST", host)]);
    assert!(host("amqp://u:hunter2@h").contains("RABBITMQ_HOST holds a URL; put it into RABBITMQ_URL"));
    assert!(host("http://u:hunter2@h:15672").contains("name the host alone"));
    assert!(host("h:5672").contains("put it into RABBITMQ_PORT"));
    assert!(host("").contains("RABBITMQ_HOST is empty"));
    for text in ["amqp://u:hunter2@h", "u:hunter2@h", "http://u:hunter2@h", "hunter2!"] {
        assert!(!host(text).contains("hunter2"), "{}", host(text));
    }
    let with_host = |name: &'static str, value: &'static str| problem(&[("RABBITMQ_HOST", "h"), (name, value)]);
    assert!(with_host("RABBITMQ_PORT", "many").contains("RABBITMQ_PORT is `many`"));
    assert!(with_host("RABBITMQ_USERNAME", "jobs").contains("RABBITMQ_USERNAME is set without RABBITMQ_PASSWORD"));
    assert!(with_host("RABBITMQ_PASSWORD", "").contains("RABBITMQ_PASSWORD is empty"));
    assert!(with_host("RABBITMQ_HEARTBEAT", "0").contains("RABBITMQ_HEARTBEAT is `0s`"));
}

#[test]
fn a_password_comes_from_a_file_and_two_users_are_a_warning() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2@ \n").unwrap();
    let path = path.to_str().unwrap();
    let environment =
        [("RABBITMQ_HOST", "h"), ("RABBITMQ_USER", "a"), ("RABBITMQ_USERNAME", "b"), ("RABBITMQ_PASSWORD_FILE", path)];
    let found = settings(&environment);
    assert_eq!((amqp(&found).user.as_str(), amqp(&found).password.expose()), ("a", "hunter2@ "));
    assert_eq!(found.warnings(), ["RABBITMQ_USERNAME is ignored: RABBITMQ_USER says who connects"]);
    let both = problem(&[&environment[..], &[("RABBITMQ_PASSWORD", "hunter2")]].concat());
    assert!(both.contains("RABBITMQ_PASSWORD and RABBITMQ_PASSWORD_FILE are both set"), "{both}");
}

#[test]
fn a_service_of_kubernetes_called_rabbitmq_is_no_broker() {
    let injected = [
        ("RABBITMQ_PORT", "tcp://10.0.0.1:5672"),
        ("RABBITMQ_PORT_5672_TCP", "tcp://10.0.0.1:5672"),
        ("RABBITMQ_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ("RABBITMQ_PORT_5672_TCP_PORT", "5672"),
        ("RABBITMQ_PORT_5672_TCP_PROTO", "tcp"),
        ("RABBITMQ_SERVICE_HOST", "10.0.0.1"),
        ("RABBITMQ_SERVICE_PORT", "5672"),
        ("RABBITMQ_SERVICE_PORT_AMQP", "5672"),
        ("RABBITMQ_NODES_SERVICE_HOST", "10.0.0.2"),
    ];
    let alone = settings(&injected);
    assert_eq!(broker(&alone), ("sqlite:jobs.db".into(), "default".into()));
    let [warning] = alone.warnings() else { panic!("{:?}", alone.warnings()) };
    assert!(injected.iter().all(|(name, _)| warning.contains(name)) && warning.contains("are ignored: Kubernetes"));

    let with_host = settings(&[&injected[..], &[("RABBITMQ_HOST", "mq")]].concat());
    assert_eq!(broker(&with_host), ("amqp://***@mq:5672/%2F".into(), "RABBITMQ_HOST".into()));
    assert_eq!(with_host.warnings().len(), 1, "{:?}", with_host.warnings());
    let chosen = settings(&[&injected[..], &[("RABBITMQ_URL", "amqp://mq")]].concat());
    assert!(chosen.warnings().is_empty(), "{:?}", chosen.warnings());
}

#[test]
fn parts_without_a_host_name_no_broker() {
    let found = settings(&[("RABBITMQ_USER", "u"), ("RABBITMQ_PASSWORD", "hunter2"), ("RABBITMQ_DEFAULT_USER", "x")]);
    assert_eq!(broker(&found).1, "default");
    assert_eq!(
        found.warnings(),
        [
            "RABBITMQ_USER, RABBITMQ_PASSWORD are ignored: without RABBITMQ_HOST they name no broker; set it, or RABBITMQ_URL"
        ]
    );
}
