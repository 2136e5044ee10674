//! The address of a RabbitMQ broker in pieces: `RABBITMQ_HOST`, `RABBITMQ_USER`, …
//!
//! The names are those of RabbitMQ tutorials and of many images. A value is
//! taken as it is, so a password needs no escapes here. `RABBITMQ_HOST` decides:
//! without it, the others change nothing.

use std::{collections::BTreeMap, ffi::OsString, net::Ipv6Addr, time::Duration};

use percent_encoding::utf8_percent_encode;

use crate::config::{
    Origin, Setting,
    aliases::ignored,
    amqp::{self, ESCAPED, USER_DEFAULT, VHOST_DEFAULT},
    given::{Given, Source, cut},
    parse,
    read::Variable,
    table,
};

pub(super) const HOST: &str = "RABBITMQ_HOST";
const PORT: &str = "RABBITMQ_PORT";
const USER: &str = "RABBITMQ_USER";
const USERNAME: &str = "RABBITMQ_USERNAME";
const PASSWORD: &str = "RABBITMQ_PASSWORD";
const PASSWORD_FILE: &str = "RABBITMQ_PASSWORD_FILE";
const VHOST: &str = "RABBITMQ_VHOST";
const HEARTBEAT: &str = "RABBITMQ_HEARTBEAT";
const CONNECTION_TIMEOUT: &str = "RABBITMQ_CONNECTION_TIMEOUT";
const SSL_ENABLED: &str = "RABBITMQ_SSL_ENABLED";
const SSL_CA_CERT: &str = "RABBITMQ_SSL_CA_CERT";
const SSL_CERT: &str = "RABBITMQ_SSL_CERT";
const SSL_KEY: &str = "RABBITMQ_SSL_KEY";
const SSL_SERVER_NAME: &str = "RABBITMQ_SSL_SERVER_NAME";
const BLOCKED_TIMEOUT: &str = "RABBITMQ_BLOCKED_TIMEOUT";
const CONNECTION_ATTEMPTS: &str = "RABBITMQ_CONNECTION_ATTEMPTS";
const RETRY_DELAY: &str = "RABBITMQ_RETRY_DELAY";
const PREFETCH_COUNT: &str = "RABBITMQ_PREFETCH_COUNT";
const POOL_SIZE: &str = "RABBITMQ_POOL_SIZE";

/// Every part, in the order in which a warning names them.
const PARTS: [&str; 19] = [
    HOST,
    PORT,
    USER,
    USERNAME,
    PASSWORD,
    PASSWORD_FILE,
    VHOST,
    HEARTBEAT,
    CONNECTION_TIMEOUT,
    SSL_ENABLED,
    SSL_CA_CERT,
    SSL_CERT,
    SSL_KEY,
    SSL_SERVER_NAME,
    BLOCKED_TIMEOUT,
    CONNECTION_ATTEMPTS,
    RETRY_DELAY,
    PREFETCH_COUNT,
    POOL_SIZE,
];

/// Those that name the broker and who connects, so that the value of the URL comes from them.
const ADDRESS: [&str; 8] = [HOST, PORT, USER, USERNAME, PASSWORD, PASSWORD_FILE, VHOST, SSL_ENABLED];

/// Parts of the same tutorials that are something else here: the name, and what to do instead.
const OTHERS: [(&str, &str); 1] = [("RABBITMQ_SSL_VERIFY", "the broker's certificate is always verified")];

type Values = BTreeMap<String, OsString>;

/// The parts that are set.
pub(super) fn used(values: &Values) -> Vec<String> {
    PARTS.into_iter().filter(|name| values.contains_key(*name)).map(Into::into).collect()
}

/// Puts the parts together, or says what is wrong with them.
pub(super) fn take(values: &Values, given: &mut Given) {
    if !values.contains_key(HOST) {
        let used = used(values);
        if !used.is_empty() {
            let why = format!("without {HOST} they name no broker; set it, or RABBITMQ_URL");
            given.warnings.push(ignored(&used, &why));
        }
        return;
    }
    let mut parts = Parts { values, problems: Vec::new(), warnings: Vec::new() };
    let url = parts.url();
    let settings = parts.settings();
    let Parts { problems, warnings, .. } = parts;
    let is_sound = problems.is_empty();
    given.problems.extend(problems);
    given.warnings.extend(warnings);
    if !is_sound {
        return;
    }
    let names: Vec<_> = used(values).into_iter().filter(|name| ADDRESS.contains(&name.as_str())).collect();
    let url = Source::new(url, Origin::Environment, names.join(", "));
    given.texts.insert(table::BROKER_URL.variable, url);
    for (setting, source) in settings {
        match given.texts.get(setting.variable) {
            None => drop(given.texts.insert(setting.variable, source)),
            Some(ours) => {
                let why = format!("{} says it", ours.name);
                given.warnings.push(ignored(&[source.name], &why));
            }
        }
    }
}

/// The parts on their way to a URL.
struct Parts<'a> {
    values: &'a Values,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Parts<'_> {
    fn url(&mut self) -> String {
        let tls = self.tls();
        let port = self.port();
        let hosts = self.hosts(tls, port.as_deref());
        let (user, password) = self.login();
        let vhost = self.vhost();
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let scheme = if tls { "amqps" } else { "amqp" };
        format!("{scheme}://{}:{}@{hosts}/{}", escaped(&user), escaped(&password), escaped(&vhost))
    }

    /// What the parts say of other settings.
    fn settings(&mut self) -> Vec<(&'static Setting, Source)> {
        let mut settings = Vec::new();
        let mut set =
            |setting, name: &str, text| settings.push((setting, Source::new(text, Origin::Environment, name)));
        // What stands still while the server takes no messages is an enqueue, which has a limit of its own.
        for (name, setting) in [(HEARTBEAT, &table::RABBITMQ_HEARTBEAT), (BLOCKED_TIMEOUT, &table::ENQUEUE_TIMEOUT)] {
            if let Some(text) = self.text(name) {
                set(setting, name, in_seconds(text));
            }
        }
        for (name, setting) in [(PREFETCH_COUNT, &table::PREFETCH), (POOL_SIZE, &table::RABBITMQ_CHANNELS)] {
            if let Some(text) = self.text(name) {
                set(setting, name, text);
            }
        }
        if let Some((names, text)) = self.connecting() {
            set(&table::CONNECT_TIMEOUT, &names, text);
        }
        let is_on = self.flag(SSL_ENABLED);
        for (name, setting) in [
            (SSL_CA_CERT, &table::RABBITMQ_CA_FILE),
            (SSL_CERT, &table::RABBITMQ_CERT_FILE),
            (SSL_KEY, &table::RABBITMQ_KEY_FILE),
            (SSL_SERVER_NAME, &table::RABBITMQ_SERVER_NAME),
        ] {
            // An empty one stands in many templates.
            if self.values.get(name).is_none_or(|value| value.is_empty()) {
                continue;
            }
            match (self.text(name), is_on) {
                (None, _) => {}
                (Some(text), Some(true)) => set(setting, name, text),
                (Some(_), Some(false)) => {
                    self.warnings.push(ignored(&[name.into()], &format!("{SSL_ENABLED} is off")));
                }
                (Some(_), None) => {
                    self.problems.push(format!("{name} is set, but {SSL_ENABLED} is not; set it to `true` or `false`"));
                }
            }
        }
        for (name, instead) in OTHERS.iter().filter(|(name, _)| self.values.contains_key(*name)) {
            self.warnings.push(format!("{name} is ignored; {instead}"));
        }
        settings
    }

    /// How long connecting may take in all: so many attempts with a pause after each, or the time for one.
    fn connecting(&mut self) -> Option<(String, String)> {
        let timeout = self.text(CONNECTION_TIMEOUT).map(in_seconds);
        let (attempts, pause) = (self.text(CONNECTION_ATTEMPTS), self.text(RETRY_DELAY).map(in_seconds));
        let Some(attempts) = attempts else {
            if pause.is_some() {
                let why = format!("without {CONNECTION_ATTEMPTS} it is no limit; the pauses are 0.2 s to 5 s");
                self.warnings.push(ignored(&[RETRY_DELAY.into()], &why));
            }
            return timeout.map(|text| (CONNECTION_TIMEOUT.into(), text));
        };
        let Some(count) = attempts.parse::<u32>().ok().filter(|count| *count > 0) else {
            self.problems.push(format!("{CONNECTION_ATTEMPTS} is `{}`; use a number from 1", cut(&attempts)));
            return None;
        };
        let mut one = Duration::ZERO;
        for (name, text) in [(CONNECTION_TIMEOUT, &timeout), (RETRY_DELAY, &pause)] {
            match text.as_deref().map(parse::duration) {
                None => {}
                Some(Ok(time)) => one = one.saturating_add(time),
                Some(Err(why)) => self.problems.push(format!("{name} {why}")),
            }
        }
        // Where neither is said, an attempt takes a second as a rule.
        let one = if one.is_zero() { Duration::from_secs(1) } else { one };
        let names =
            [(CONNECTION_ATTEMPTS, true), (CONNECTION_TIMEOUT, timeout.is_some()), (RETRY_DELAY, pause.is_some())];
        let names: Vec<_> = names.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect();
        Some((names.join(", "), humantime::format_duration(one.saturating_mul(count)).to_string()))
    }

    /// The text of a variable that is not empty.
    fn text(&mut self, name: &str) -> Option<String> {
        let Some(text) = self.values.get(name)?.to_str() else {
            self.problems.push(format!("{name} is not UTF-8"));
            return None;
        };
        if text.trim().is_empty() {
            self.problems.push(format!("{name} is empty; give it a value, or leave it out"));
            return None;
        }
        Some(text.trim().into())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        let text = self.values.get(name)?.to_str()?.trim().to_ascii_lowercase();
        match &*text {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn tls(&mut self) -> bool {
        let is_on = self.flag(SSL_ENABLED);
        if is_on.is_none()
            && let Some(text) = self.text(SSL_ENABLED)
        {
            self.problems.push(format!("{SSL_ENABLED} is `{}`; use `true` or `false`", cut(&text)));
        }
        is_on.unwrap_or(false)
    }

    fn port(&mut self) -> Option<String> {
        let text = self.text(PORT)?;
        if amqp::port(&text).is_err() {
            self.problems.push(format!("{PORT} is `{}`; use a port from 1 to 65535", cut(&text)));
        }
        Some(text)
    }

    /// One host or several, as they stand in a URL. What is none may hold a password, and is not repeated.
    fn hosts(&mut self, tls: bool, port: Option<&str>) -> String {
        let Some(text) = self.text(HOST) else { return String::new() };
        if let Some((scheme, _)) = text.split_once("://") {
            let instead = match scheme.to_ascii_lowercase().as_str() {
                "amqp" | "amqps" => "put it into RABBITMQ_URL instead",
                _ => "name the host alone",
            };
            self.problems.push(format!("{HOST} holds a URL; {instead}"));
            return String::new();
        }
        let mut hosts = Vec::new();
        for host in text.split(',').map(str::trim) {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let host = if bare.parse::<Ipv6Addr>().is_ok() { format!("[{bare}]") } else { host.into() };
            match amqp::host(&host, tls) {
                Ok(_) if !host.starts_with('[') && host.contains(':') => {
                    self.problems.push(format!("{HOST} holds a port; put it into {PORT}"));
                }
                Ok(_) => hosts.push(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))),
                Err(_) => self.problems.push(format!("{HOST} is no host; use a name or an address")),
            }
        }
        hosts.join(",")
    }

    fn login(&mut self) -> (String, String) {
        let (user, username) = (self.text(USER), self.text(USERNAME));
        if user.is_some() && username.is_some() && user != username {
            self.warnings.push(ignored(&[USERNAME.into()], &format!("{USER} says who connects")));
        }
        let name = if user.is_some() { USER } else { USERNAME };
        let user = user.or(username).unwrap_or_else(|| USER_DEFAULT.into());
        let (value, file) = (self.values.get(PASSWORD), self.values.get(PASSWORD_FILE));
        let password = match (Variable { name: PASSWORD, value, file }).source("the password as text") {
            Ok(password) => password.map(|source| source.text),
            Err(problem) => {
                self.problems.push(problem);
                return (user, String::new());
            }
        };
        if password.as_ref().is_some_and(String::is_empty) {
            self.problems.push(format!("{PASSWORD} is empty, with which RabbitMQ lets nobody in"));
        }
        if password.is_none() && user != USER_DEFAULT {
            self.problems.push(format!("{name} is set without {PASSWORD}; set it, or {PASSWORD_FILE}"));
        }
        for (name, text) in [(name, Some(&user)), (PASSWORD, password.as_ref())] {
            if text.is_some_and(|text| text.contains('\0')) {
                self.problems.push(format!("{name} has a NUL character, which the protocol cannot carry"));
            }
        }
        (user, password.unwrap_or_else(|| USER_DEFAULT.into()))
    }

    fn vhost(&mut self) -> String {
        let Some(value) = self.values.get(VHOST) else { return VHOST_DEFAULT.into() };
        let Some(text) = value.to_str() else {
            self.problems.push(format!("{VHOST} is not UTF-8"));
            return VHOST_DEFAULT.into();
        };
        match text {
            "" => self.warnings.push(format!("{VHOST} is empty and taken as `{VHOST_DEFAULT}`; leave it out")),
            "%2F" | "%2f" => self.warnings.push(format!("{VHOST} is `{text}` and taken as `/`; it needs no escapes")),
            _ => {
                if let Err(why) = amqp::check_vhost(text) {
                    self.problems.push(format!("{VHOST} {why}"));
                }
                return text.into();
            }
        }
        VHOST_DEFAULT.into()
    }
}

/// Where these names come from, a number is of seconds.
fn in_seconds(text: String) -> String {
    if text.parse::<f64>().is_ok() { format!("{text}s") } else { text }
}

#[cfg(all(test, feature = "rabbitmq"))]
mod tests {
    use proptest::prelude::*;

    use crate::config::SettingsReader;

    proptest! {
        #[test]
        fn a_password_arrives_whole_and_is_never_shown(
            before in "[^\0]{0,8}",
            after in "[^\0]{0,8}",
            name in prop::sample::select(vec!["RABBITMQ_HOST", "RABBITMQ_PORT", "RABBITMQ_VHOST", "RABBITMQ_USER", "RABBITMQ_SSL_CERT"]),
            value in prop::sample::select(vec!["mq", "", "5673", "amqp://mq", "a b", "[::1]"]),
        ) {
            let password = format!("{before}hunter2{after}");
            let environment = [("RABBITMQ_HOST", "mq"), ("RABBITMQ_PASSWORD", &*password), (name, value)];
            let read = SettingsReader::new().read(environment.map(|(name, value)| (name.into(), value.into())));
            let shown = match &read {
                Ok(settings) => {
                    let url = settings.broker_url.amqp().unwrap();
                    prop_assert_eq!(url.password.expose(), &*password);
                    format!("{settings:?} {url} {:?} {:?}", settings.entries(), settings.warnings())
                }
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains("hunter2"), "{}", shown);
        }
    }
}
