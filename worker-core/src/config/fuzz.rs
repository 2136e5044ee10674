//! What is fuzzed of the configuration: values with a unit or a form, URLs with a password in them, whole environments.

use std::{fmt::Debug, time::Duration};

use crate::{
    config::{
        BrokerUrl, Settings, SettingsReader, management,
        parse::{self, Misfit},
        table,
    },
    error::ConfigError,
    worker::CONCURRENCY_MAX,
};

/// A password that is nowhere but where we have put it.
const CANARY: &str = "cAnArY-7Q4z";

/// The text `input` as the value of each setting that is no secret and no path.
///
/// # Panics
///
/// A value prints as a text that is read as another value, or is outside its range.
pub fn durations(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let printed = |time: &Duration| humantime::format_duration(*time).to_string();
    if let Ok(time) = parse::duration(text) {
        assert_eq!(parse::duration(&printed(&time)), Ok(time));
    }
    for of in [
        parse::shutdown_grace,
        parse::unknown_job_patience,
        parse::enqueue_timeout,
        parse::connect_timeout,
        parse::sqlite_busy_timeout,
        parse::sqlite_lease,
        parse::rabbitmq_heartbeat,
        parse::rabbitmq_confirm_timeout,
        parse::rabbitmq_consumer_timeout,
    ] {
        let time = same(text, of, printed);
        assert!(time.is_none_or(|time| time <= crate::retry::DELAY_MAX), "{time:?}");
    }
    let bytes = same(text, parse::payload_max, ToString::to_string);
    assert!(bytes.is_none_or(|bytes| (1..=table::PAYLOAD_BYTES_LIMIT).contains(&bytes)), "{bytes:?}");
    let slots = same(text, parse::concurrency, ToString::to_string);
    assert!(slots.is_none_or(|slots| (1..=CONCURRENCY_MAX).contains(&slots)), "{slots:?}");
    same(text, parse::prefetch, ToString::to_string);
    same(text, parse::rabbitmq_channels, ToString::to_string);
    same(text, parse::admin, |address| address.map_or_else(|| "off".into(), |address| address.to_string()));
    same(text, parse::rabbitmq_reply_queues, |names| names.join(","));
    same(text, parse::rabbitmq_namespace, Clone::clone);
    same(text, parse::rabbitmq_server_name, Clone::clone);
    same(text, parse::queues, |served| {
        let slots = |slots: Option<usize>| slots.map_or_else(String::new, |slots| format!("={slots}"));
        served.iter().map(|served| format!("{}{}", served.queue, slots(served.slots))).collect::<Vec<_>>().join(",")
    });
}

/// The value of `text`, which is also that of what it prints as.
fn same<T: PartialEq + Debug>(
    text: &str,
    of: impl Fn(&str) -> Result<T, Misfit>,
    printed: impl Fn(&T) -> String,
) -> Option<T> {
    let value = of(text).ok()?;
    let text = printed(&value);
    assert_eq!(of(&text).as_ref(), Ok(&value), "`{text}`");
    Some(value)
}

/// The text `input`, unless it has the password in it: also with what parsers of URLs take out (WHATWG, "URL parsing").
fn text(input: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(input).ok()?;
    let bare = text.replace(['\t', '\n', '\r'], "");
    (!bare.contains(CANARY)).then_some(text)
}

/// The text `input` as a URL; and its first two lines around a password, with the rest behind the host.
///
/// # Panics
///
/// A password is shown, leads to another host, or what is shown of a URL names another broker.
pub fn amqp_url(input: &[u8]) {
    let Some(text) = text(input) else { return };
    if let Ok(url) = told(text.parse::<BrokerUrl>())
        && let Some(amqp) = url.amqp()
    {
        let shown = url.to_string().replacen("***@", "", 1);
        let Ok(again) = shown.parse::<BrokerUrl>() else { panic!("`{shown}` is none") };
        let again = again.amqp().map(|again| (again.tls, &again.hosts, &again.vhost));
        assert_eq!(again, Some((amqp.tls, &amqp.hosts, &amqp.vhost)), "{shown}");
        assert!(!amqp.hosts.is_empty() && amqp.hosts.iter().all(|host| host.port != 0), "{shown}");
        assert!(![&*amqp.user, amqp.password.expose()].iter().any(|text| text.is_empty() || text.contains('\0')));
    }
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (before, after, tail) = (line(), line(), line());
    for (scheme, user) in [("amqp", "user:"), ("AMQPS", "user:"), ("amqp", "")] {
        let text = format!("{scheme}://{user}{before}{CANARY}{after}@mq{tail}");
        if let Ok(url) = told(text.parse::<BrokerUrl>())
            && let Some(amqp) = url.amqp()
        {
            assert!(amqp.hosts[0].name.starts_with("mq"), "{url}");
            assert_unshown(&format!("{:?} {:?}", amqp, amqp.password));
        }
        assert_settings_unshown([("WORKER_BROKER_URL", &*text)]);
    }
    match management::parse(&format!("https://user:{before}{CANARY}{after}@mq{tail}")) {
        Ok(url) => assert_unshown(&format!("{url} {url:?}")),
        Err(problem) => assert_unshown(&problem),
    }
}

/// The lines of `input` as an environment, `NAME=VALUE` each. Files are not read.
///
/// # Panics
///
/// A password is shown, or a setting is outside its range.
pub fn settings(input: &[u8]) {
    let Some(text) = text(input) else { return };
    let reads_file = |name: &str| name.ends_with("_FILE") || name == "CREDENTIALS_DIRECTORY";
    let variables = text.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| !reads_file(name));
    let guarded = variables.map(|(name, value)| {
        let secret = if name == "RABBITMQ_PASSWORD" { CANARY } else { "" };
        (name, format!("{value}{secret}"))
    });
    let guarded: Vec<_> = guarded.collect();
    assert_settings_unshown(guarded.iter().map(|(name, value)| (*name, &**value)));
}

fn assert_settings_unshown<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into()));
    let Ok(settings) = told(SettingsReader::new().read(environment)) else { return };
    assert!((1..=CONCURRENCY_MAX).contains(&settings.concurrency));
    assert!(settings.connect_timeout <= table::CONNECT_TIMEOUT_MAX && !settings.connect_timeout.is_zero());
    assert!((table::HEARTBEAT_MIN..=table::HEARTBEAT_MAX).contains(&settings.rabbitmq_heartbeat));
    let Settings { entries, warnings, .. } = &settings;
    assert_unshown(&format!("{settings:?} {entries:?} {warnings:?}"));
    warnings.iter().for_each(|warning| assert_line(warning));
}

/// The same result; an error is told line by line, and shows no password.
fn told<T>(result: Result<T, ConfigError>) -> Result<T, ConfigError> {
    if let Err(error) = &result {
        assert_unshown(&format!("{error} {error:?}"));
        assert!(!error.problems().is_empty());
        error.problems().iter().for_each(|problem| assert_line(problem));
    }
    result
}

fn assert_line(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

fn assert_unshown(text: &str) {
    assert!(!text.contains(CANARY), "the password is shown: {text}");
}
