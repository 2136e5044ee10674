//! The URL of RabbitMQ's management API, taken apart once.

use std::fmt;

use crate::config::secret::Secret;

/// Where RabbitMQ's management API is, and who asks it.
///
/// `http://HOST:PORT`, or `https://…`; with `USER:PASSWORD@` where it is not the broker's own user who asks, and with a
/// path where the server has one (`management.path_prefix`). `Display` and `Debug` leave out user and password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagementUrl {
    /// `https`: with TLS, verified.
    pub tls: bool,
    /// The host: a name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands before `/api`, without a slash at its end.
    pub path: String,
    /// Who asks, where it is not the user of the broker's URL.
    pub user: Option<(String, Secret)>,
}

impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let user = if self.user.is_some() { "***@" } else { "" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{user}{host}:{}{}", self.port, self.path)
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `text` names, or what is wrong with it, as the end of a sentence. It may hold a password, so it is not repeated.
#[cfg(feature = "rabbitmq")]
pub(super) fn parse(text: &str) -> Result<ManagementUrl, String> {
    use percent_encoding::percent_decode_str;
    use url::{Host, Url};

    const FORM: &str = "write `http://HOST:15672` or `https://USER:PASSWORD@HOST:15671`";

    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}); {FORM}"))?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        "amqp" | "amqps" => return Err(format!("is the broker's URL; the management API has one of its own: {FORM}")),
        _ => return Err(format!("is neither `http` nor `https`; {FORM}")),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has a `?` or `#`; write those of a password as `%3F` and `%23`, and {FORM}"));
    }
    // What stands before such a `/` was taken for the host, and the rest would be shown as the path. In the text: a
    // `..` behind it takes the `@` out of the path.
    let begins = |c: char| matches!(c, '/' | '\\') || c.is_whitespace() || c.is_control();
    let rest = text.split_once(':').map_or(text, |(_, rest)| rest.trim_start_matches(begins));
    if rest.find(['/', '\\']).is_some_and(|at| rest[at..].contains('@')) {
        return Err(format!(
            "has an `@` behind a `/`; write those of a user or password as `%40` and `%2F`, and {FORM}"
        ));
    }
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => return Err(format!("names no host; {FORM}")),
    };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let user = match (url.username(), url.password()) {
        ("", None) => None,
        ("", Some(_)) => return Err(format!("has a password and no user; {FORM}")),
        (_, None | Some("")) => return Err(format!("has a user and no password; {FORM}")),
        (user, Some(password)) => match (decoded(user), decoded(password)) {
            // Basic authentication ends the user at the first colon (RFC 7617, section 2).
            (Some(user), _) if user.contains(':') => {
                return Err("has a user with a colon, which HTTP cannot say".into());
            }
            (Some(user), Some(password)) => Some((user, Secret::new(password))),
            _ => return Err("has a user or a password that is not UTF-8".into()),
        },
    };
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api").unwrap_or(path).to_owned();
    Ok(ManagementUrl { tls, host, port: url.port_or_known_default().unwrap_or_default(), path, user })
}

#[cfg(not(feature = "rabbitmq"))]
pub(super) fn parse(_: &str) -> Result<ManagementUrl, String> {
    Err("is of no use: this program was built without the feature `rabbitmq` of worker-core".into())
}

#[cfg(all(test, feature = "rabbitmq"))]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_shown_without_its_password() {
        let url = parse("http://mq.example:15672").unwrap();
        assert_eq!((url.tls, &*url.host, url.port, &*url.path, &url.user), (false, "mq.example", 15_672, "", &None));
        let url = parse("https://ops:hunter2%40%2F@[::1]/rabbit/").unwrap();
        assert_eq!((url.tls, &*url.host, url.port, &*url.path), (true, "::1", 443, "/rabbit"));
        assert_eq!(url.user.as_ref().map(|(user, password)| (&**user, password.expose())), Some(("ops", "hunter2@/")));
        assert_eq!(format!("{url} {url:?}"), "https://***@[::1]:443/rabbit https://***@[::1]:443/rabbit");
        // As the pages of the plugin show it.
        assert_eq!(parse("http://mq:15672/api/").unwrap().path, "");
    }

    #[test]
    fn what_is_none_is_refused_without_being_repeated() {
        for (text, said) in [
            ("mq.example", "is no URL"),
            ("amqp://u:hunter2@mq", "the broker's URL"),
            ("ftp://u:hunter2@mq", "neither `http` nor `https`"),
            ("http://u:hunter2#@mq", "hunter2"),
            ("http://u@mq:15672", "a user and no password"),
            ("http://:hunter2@mq:15672", "a password and no user"),
            ("http://a%3Ab:hunter2@mq", "a colon"),
            ("http://u:hunter2%ff@mq", "not UTF-8"),
            ("http://mq:15672?hunter2", "`%3F`"),
            ("http://mq:hunter2", "is no URL"),
            ("http://u:/hunter2@mq", "`%2F`"),
            ("http://u:1/hunter2@mq:15672", "`%2F`"),
            ("http://u:1\\hunter2@mq", "`%2F`"),
            ("http://u:1/hunter2@mq/..", "`%2F`"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(said == "hunter2" || refused.contains(said), "{text}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
