//! The URL of a RabbitMQ broker, taken apart once.
//!
//! The form is that of RabbitMQ's URI specification and its query parameters.
//! Where that leaves a URL open to two readings, or a client would connect
//! somewhere else than the URL says, it is refused here: a password with an
//! unescaped `@` or `/` is the usual case, and is never repeated.

use std::{fmt, net::Ipv6Addr, path::PathBuf, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{
    config::{
        secret::Secret,
        table::{CONNECT_TIMEOUT_MAX, HEARTBEAT_MAX, HEARTBEAT_MIN},
    },
    suggest::nearest,
};

/// Ports of the protocol, plain and with TLS.
const PORT: u16 = 5672;
const PORT_TLS: u16 = 5671;

/// Who connects when nobody is named: RabbitMQ lets it in from its own machine alone.
pub(super) const USER_DEFAULT: &str = "guest";

/// The virtual host of a fresh broker.
pub(super) const VHOST_DEFAULT: &str = "/";

/// A virtual host's name is one of AMQP's short strings.
const VHOST_BYTES_MAX: usize = 255;

/// The limit of the domain name system.
const HOST_BYTES_MAX: usize = 253;

/// The query parameters that are understood.
const PARAMETERS: [&str; 5] = ["heartbeat", "connection_timeout", "cacertfile", "certfile", "keyfile"];

/// What needs no escape anywhere in a URL.
pub(super) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A RabbitMQ broker: where it is, and who connects.
///
/// `Display` and `Debug` leave out user and password.
///
/// # Examples
///
/// ```
/// use worker_core::config::BrokerUrl;
///
/// let url: BrokerUrl = "amqp://jobs:p%40ss@mq-1,mq-2:5673,[::1]/orders".parse()?;
/// let amqp = url.amqp().unwrap();
/// assert_eq!((amqp.user.as_str(), amqp.password.expose(), amqp.vhost.as_str()), ("jobs", "p@ss", "orders"));
/// assert_eq!(amqp.to_string(), "amqp://***@mq-1:5672,mq-2:5673,[::1]:5672/orders");
/// # Ok::<(), worker_core::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpUrl {
    /// Whether the connection is encrypted: `amqps`.
    pub tls: bool,
    /// The nodes of the broker, at least one.
    pub hosts: Vec<AmqpHost>,
    /// Who connects, decoded; `guest` where the URL names nobody.
    pub user: String,
    /// The user's password, decoded.
    pub password: Secret,
    /// The virtual host, decoded; `/` where the URL names none.
    pub vhost: String,
    /// The parameter `heartbeat`.
    pub heartbeat: Option<Duration>,
    /// The parameter `connection_timeout`.
    pub connect_timeout: Option<Duration>,
    /// The parameter `cacertfile`: who signs the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// The parameter `certfile`: the certificate that we show.
    pub cert_file: Option<PathBuf>,
    /// The parameter `keyfile`: the key of that certificate.
    pub key_file: Option<PathBuf>,
    /// `amqp://host/`, whose virtual host has no name.
    pub(super) vhost_was_empty: bool,
}

/// One node of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpHost {
    /// A name or an address; an IPv6 address is without its brackets.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl AmqpUrl {
    /// The broker that `hosts` are, with what holds for the rest when nothing is said.
    fn new(tls: bool, hosts: Vec<AmqpHost>) -> Self {
        Self {
            tls,
            hosts,
            user: USER_DEFAULT.into(),
            password: Secret::new(USER_DEFAULT),
            vhost: VHOST_DEFAULT.into(),
            heartbeat: None,
            connect_timeout: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            vhost_was_empty: false,
        }
    }
}

impl AmqpHost {
    fn new(name: impl Into<String>, port: Option<u16>, tls: bool) -> Self {
        Self { name: name.into(), port: port.unwrap_or(if tls { PORT_TLS } else { PORT }) }
    }
}

impl fmt::Display for AmqpUrl {
    /// The URL that means the same, without user, password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "amqps://***@" } else { "amqp://***@" })?;
        for (place, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if place == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", utf8_percent_encode(&self.vhost, ESCAPED))
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AmqpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// What follows `amqp://` or `amqps://`, or what is wrong with it, as the end
/// of a sentence about "the URL". Nothing that may be a password is repeated.
pub(super) fn parse(tls: bool, rest: &str) -> Result<AmqpUrl, String> {
    if rest.contains('#') {
        return Err("has a `#`, which a URL cannot hold; percent-encode it in user or password: `%23`".into());
    }
    let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if after.contains('@') {
        return Err("has an `@` behind a `/` or `?`; percent-encode all three in user or password, as in everything \
                    behind the host: `@` is `%40`, `/` is `%2F`, `?` is `%3F`"
            .into());
    }
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let login = login.map(login_of).transpose()?;
    let hosts = hosts.split(',').map(|text| host(text, tls)).collect::<Result<_, _>>()?;
    let mut url = AmqpUrl::new(tls, hosts);
    if let Some((user, password)) = login {
        (url.user, url.password) = (user, password);
    }
    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    if let Some(name) = path.strip_prefix('/') {
        (url.vhost, url.vhost_was_empty) = (vhost(name)?, name.is_empty());
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        take(&mut url, parameter)?;
    }
    Ok(url)
}

/// `user:password`.
fn login_of(text: &str) -> Result<(String, Secret), String> {
    let Some((user, password)) = text.split_once(':') else {
        return Err(if text.contains('@') {
            "has more than one `@`; percent-encode those in the user: `%40`".into()
        } else {
            "has a user without a password; write `amqp://USER:PASSWORD@HOST`".into()
        });
    };
    let (user, password) = (part(user, "user")?, part(password, "password")?);
    if user.is_empty() || password.is_empty() {
        let what = if user.is_empty() { "user" } else { "password" };
        return Err(format!("has an empty {what}; write `amqp://USER:PASSWORD@HOST`"));
    }
    Ok((user, Secret::new(password)))
}

/// A part of the URL without its escapes.
fn part(text: &str, what: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(format!("has more than one `@`; percent-encode those in the {what}: `%40`"));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("has a space or control character in the {what}; percent-encode it: a space is `%20`"));
    }
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(format!("has a `%` in the {what} that begins no escape; percent-encode it: `%25`"));
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| format!("has a {what} that is not UTF-8"))?;
    if decoded.contains('\0') {
        return Err(format!("has a NUL character in the {what}, which the protocol cannot carry"));
    }
    Ok(decoded.into())
}

/// `host`, `host:port`, `[address]`, `[address]:port`.
pub(super) fn host(text: &str, tls: bool) -> Result<AmqpHost, String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("has a `[` without its `]`")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "has in `[` and `]` what is no IPv6 address")?;
        let digits = if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or_default()) };
        return Ok(AmqpHost::new(address.to_string(), digits.map(port).transpose()?, tls));
    }
    let (name, digits) = match text.split_once(':') {
        Some((name, digits)) => (name, Some(digits)),
        None => (text, None),
    };
    if digits.is_some_and(|digits| digits.contains(':')) {
        return Err("has a host with more than one `:`; write an IPv6 address in brackets: `[::1]`".into());
    }
    if name.is_empty() {
        return Err("names no host, or one too few; write `amqp://USER:PASSWORD@HOST`".into());
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.len() > HOST_BYTES_MAX || !name.bytes().all(fits) {
        return Err("has a host that is none; a host has letters, digits, `.`, `-` and `_`".into());
    }
    Ok(AmqpHost::new(name, digits.map(port).transpose()?, tls))
}

/// A port. What is none may be a password whose host is missing.
pub(super) fn port(digits: &str) -> Result<u16, String> {
    let port = if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None };
    let port = port.filter(|port| *port != 0);
    port.ok_or_else(|| "has a port that is none behind a host; write `HOST:PORT`, with a port from 1 to 65535".into())
}

fn vhost(text: &str) -> Result<String, String> {
    let name = match text {
        // `amqp://host//` is how Celery writes it.
        "" | "/" => VHOST_DEFAULT.into(),
        _ if text.contains('/') => return Err("has a `/` in its virtual host; percent-encode it: `%2F`".into()),
        _ => part(text, "virtual host")?,
    };
    check_vhost(&name).map_err(|why| format!("has a virtual host that {why}"))?;
    Ok(name)
}

pub(super) fn check_vhost(name: &str) -> Result<(), &'static str> {
    if name.len() > VHOST_BYTES_MAX { Err("is longer than 255 bytes") } else { Ok(()) }
}

/// Takes one `name=value` of the query into `url`.
fn take(url: &mut AmqpUrl, parameter: &str) -> Result<(), String> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    if !PARAMETERS.contains(&name) {
        return Err(unknown(name));
    }
    let value = part(value, &format!("parameter `{name}`"))?;
    let is_new = match name {
        "heartbeat" => {
            let beat = seconds(&value).filter(|beat| (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(beat));
            let beat = beat.ok_or("has a `heartbeat` that is none; use a number of seconds from 1 to 300")?;
            url.heartbeat.replace(beat).is_none()
        }
        "connection_timeout" => {
            let wait = milliseconds(&value).filter(|wait| !wait.is_zero() && *wait <= CONNECT_TIMEOUT_MAX);
            let wait =
                wait.ok_or("has a `connection_timeout` that is none; use a number of milliseconds up to 3600000")?;
            url.connect_timeout.replace(wait).is_none()
        }
        _ if !url.tls => return Err(format!("has the parameter `{name}`, which needs TLS; write `amqps://`")),
        _ if value.is_empty() => return Err(format!("has the parameter `{name}` without a file")),
        "cacertfile" => url.ca_file.replace(value.into()).is_none(),
        "certfile" => url.cert_file.replace(value.into()).is_none(),
        _ => url.key_file.replace(value.into()).is_none(),
    };
    if is_new { Ok(()) } else { Err(format!("has the parameter `{name}` twice")) }
}

/// The refusal of a parameter. What does not look like one is not repeated.
fn unknown(name: &str) -> String {
    let accepted = PARAMETERS.join("`, `");
    if name.is_empty() || name.len() > 40 || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return format!("has an unknown parameter behind its `?`; accepted: `{accepted}`");
    }
    match nearest(name, PARAMETERS) {
        Some(meant) => format!("has the unknown parameter `{name}` (did you mean `{meant}`?); accepted: `{accepted}`"),
        None => format!("has the unknown parameter `{name}`; accepted: `{accepted}`"),
    }
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{BrokerUrl, Settings, SettingsReader};

    fn amqp(text: &str) -> AmqpUrl {
        text.parse::<BrokerUrl>().unwrap_or_else(|error| panic!("{text}: {error}")).amqp().unwrap().clone()
    }

    fn refusal(text: &str) -> String {
        match text.parse::<BrokerUrl>() {
            Ok(url) => panic!("{text} is taken as {url}"),
            Err(error) => error.to_string(),
        }
    }

    fn hosts(text: &str) -> Vec<String> {
        amqp(text).hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_left_out_has_the_default_of_the_specification() {
        let url = amqp("amqp://mq.example");
        assert_eq!((url.user.as_str(), url.password.expose(), url.vhost.as_str()), ("guest", "guest", "/"));
        assert_eq!(hosts("amqp://h"), ["h:5672"]);
        assert_eq!(hosts("AMQPS://h"), ["h:5671"]);
        assert_eq!((url.heartbeat, url.connect_timeout, url.ca_file, url.tls), (None, None, None, false));
    }

    #[test]
    fn several_hosts_have_each_their_port_and_an_ipv6_address_stays_one() {
        assert_eq!(
            hosts("amqp://u:p@h1,h2:5673,[::1]:5674,[0:0::2]/v"),
            ["h1:5672", "h2:5673", "[::1]:5674", "[::2]:5672"]
        );
        assert_eq!(amqp("amqp://[::1]").hosts[0].name, "::1");
        for text in
            ["amqp://::1", "amqp://[::1", "amqp://[x]", "amqp://[::1]5672", "amqp://h:0", "amqp://h:+1", "amqp://h:"]
        {
            assert!(!refusal(text).is_empty());
        }
        assert!(refusal("amqp://::1:5672").contains("brackets: `[::1]`"));
        for text in ["amqp://", "amqp:///v", "amqp://u:p@", "amqp://u:p@h1,,h2", "amqp://u:p@:5672"] {
            assert!(refusal(text).contains("names no host"), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn escapes_are_decoded_once() {
        let url = amqp("amqp://a%3Ab:p%40%2F%23%25%3f:x@h/%2forders%2525");
        assert_eq!((url.user.as_str(), url.password.expose(), url.vhost.as_str()), ("a:b", "p@/#%?:x", "/orders%25"));
        assert_eq!(amqp(&url.to_string().replace("***@", "")).vhost, url.vhost);
    }

    #[test]
    fn an_empty_virtual_host_is_the_default_one() {
        for (text, was_empty) in [
            ("amqp://h", false),
            ("amqp://h/", true),
            ("amqp://h/%2F", false),
            ("amqp://h//", false),
            ("amqp://h/?heartbeat=9", true),
        ] {
            let url = amqp(text);
            assert_eq!((url.vhost.as_str(), url.vhost_was_empty), ("/", was_empty), "{text}");
            assert!(url.to_string().ends_with("/%2F"), "{url}");
        }
        assert!(refusal("amqp://h/a/b").contains("`%2F`"));
    }

    #[test]
    fn parameters_are_those_of_rabbitmq() {
        let url =
            amqp("amqps://h/v?heartbeat=20&connection_timeout=1500&cacertfile=%2Fetc/ca.pem&certfile=c&keyfile=k");
        assert_eq!(url.heartbeat, Some(Duration::from_secs(20)));
        assert_eq!(url.connect_timeout, Some(Duration::from_millis(1_500)));
        assert_eq!(url.ca_file, Some("/etc/ca.pem".into()));
        assert_eq!((url.cert_file, url.key_file), (Some("c".into()), Some("k".into())));
    }

    #[test]
    fn a_parameter_that_is_none_is_refused_by_name_with_the_accepted_ones() {
        let refused = refusal("amqp://h?heartbeet=9");
        assert!(
            refused.contains("`heartbeet` (did you mean `heartbeat`?)") && refused.contains("`keyfile`"),
            "{refused}"
        );
        assert!(refusal("amqp://h?channel_max=9").contains("unknown parameter `channel_max`; accepted"));
        assert!(refusal("amqp://h?heartbeat=0").contains("from 1 to 300"));
        assert!(refusal("amqp://h?heartbeat=15s").contains("number of seconds"));
        assert!(refusal("amqp://h?connection_timeout=0").contains("milliseconds"));
        assert!(refusal("amqp://h?heartbeat=9&heartbeat=9").contains("twice"));
        assert!(refusal("amqp://h?cacertfile=x").contains("`amqps://`"));
        assert!(refusal("amqps://h?cacertfile=").contains("without a file"));
    }

    #[test]
    fn a_part_that_must_be_escaped_is_named_and_not_repeated() {
        for (text, part, escape) in [
            ("amqp://u:hunter2@x@h", "the password", "`%40`"),
            ("amqp://hunter2@x:p@h", "the user", "`%40`"),
            ("amqp://u:hunter2%@h", "the password", "`%25`"),
            ("amqp://u:hunter2%zz@h", "the password", "`%25`"),
            ("amqp://u:hunter2/@h", "user or password", "`%2F`"),
            ("amqp://u:hunter2?@h", "user or password", "`%3F`"),
            ("amqp://u:hunter2#@h", "user or password", "`%23`"),
            ("amqp://u:hunter2 x@h", "the password", "`%20`"),
            ("amqp://u:hunter2%00@h", "the password", "NUL"),
            ("amqp://u:hunter2%ff@h", "password", "UTF-8"),
            ("amqp://hunter2@h", "a password", "USER:PASSWORD"),
            ("amqp://:hunter2@h", "empty user", "USER:PASSWORD"),
            ("amqp://hunter2:@h", "empty password", "USER:PASSWORD"),
            ("amqp://u:hunter2", "port", "HOST:PORT"),
            ("amqp:u:hunter2@h", "lacks `//`", "`amqp://"),
        ] {
            let refused = refusal(text);
            assert!(refused.contains(part) && refused.contains(escape), "{text}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    /// Everything that a person can be shown of this URL, accepted or not.
    fn shown(url: &str) -> String {
        let parsed = url.parse::<BrokerUrl>();
        let parsed = match parsed {
            Ok(url) => format!("{url} {url:?} {:?}", url.amqp().map(|amqp| amqp.password.clone())),
            Err(error) => format!("{error} {error:?}"),
        };
        let environment = [("WORKER_BROKER_URL".into(), url.into())];
        let read = SettingsReader::new().read(environment);
        let settings = |settings: Settings| format!("{settings:?} {:?} {:?}", settings.entries(), settings.warnings());
        format!("{parsed} {}", read.map_or_else(|error| format!("{error} {error:?}"), settings))
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown_or_leads_to_another_host(
            before in "[ -~é]{0,6}",
            after in "[ -~é]{0,6}",
            tail in prop::sample::select(vec!["", "/", "/jobs", "?heartbeat=9", "/v?nonsense", ":0", ",h2:5673/v"]),
        ) {
            let url = format!("amqp://user:{before}hunter2{after}@mq{tail}");
            let shown = shown(&url);
            prop_assert!(!shown.contains("hunter2"), "{}", shown);
            if let Ok(url) = url.parse::<BrokerUrl>() {
                prop_assert_eq!(url.amqp().unwrap().hosts[0].name.as_str(), "mq");
            }
        }

        #[test]
        fn an_escaped_password_arrives_as_it_was(password in "[^\0]{1,20}") {
            let url = format!("amqp://user:{}@mq", utf8_percent_encode(&password, ESCAPED));
            let url = amqp(&url);
            prop_assert_eq!(url.password.expose(), password.as_str());
        }
    }
}
