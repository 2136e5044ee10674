//! The URL that chooses a broker: read once, and never shown with its password.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    config::amqp::{self, AmqpUrl},
    error::ConfigError,
    suggest::nearest,
};

/// What every refusal ends with.
#[cfg(not(feature = "rabbitmq"))]
const FORMS: &str = "use `sqlite:PATH` or `memory:`";
#[cfg(feature = "rabbitmq")]
const FORMS: &str = "use `sqlite:PATH`, `memory:` or `amqp://USER:PASSWORD@HOST`";

/// The file of the default URL.
const FILE_DEFAULT: &str = "jobs.db";

/// Where the jobs are.
///
/// `Display` and `Debug` leave out user and password, so that a URL can be
/// logged; what is refused is never repeated, since it may be a password that
/// was put into the wrong place.
///
/// | URL | broker |
/// |---|---|
/// | `sqlite:jobs.db`, `sqlite:/var/lib/app/jobs.db`, `sqlite:///var/lib/app/jobs.db` | the embedded broker, in this file |
/// | `memory:` | jobs in this process's memory |
/// | `amqp://USER:PASSWORD@HOST:PORT/VHOST`, `amqps://…` | RabbitMQ, with the feature `rabbitmq`; see [`AmqpUrl`] |
///
/// # Examples
///
/// ```
/// use worker_core::config::BrokerUrl;
///
/// let url: BrokerUrl = "amqp://user:secret@mq.example:5672/jobs".parse()?;
/// assert_eq!(url.to_string(), "amqp://***@mq.example:5672/jobs");
/// # Ok::<(), worker_core::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(Target);

/// Which broker a URL names.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Memory,
    Sqlite(PathBuf),
    Amqp(AmqpUrl),
}

impl BrokerUrl {
    /// The embedded broker in the file at `path`.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Target::Sqlite(path.into()))
    }

    /// The file, where the URL names one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Target::Sqlite(path) => Some(path),
            Target::Memory | Target::Amqp(_) => None,
        }
    }

    /// The RabbitMQ broker, where the URL names one.
    #[must_use]
    pub const fn amqp(&self) -> Option<&AmqpUrl> {
        match &self.0 {
            Target::Amqp(url) => Some(url),
            Target::Memory | Target::Sqlite(_) => None,
        }
    }

    pub(crate) const fn target(&self) -> &Target {
        &self.0
    }

    /// Why this build cannot connect to it, if so.
    pub(crate) fn unsupported(&self) -> Option<String> {
        match &self.0 {
            Target::Amqp(_) if cfg!(not(feature = "rabbitmq")) => Some(format!(
                "this program was built without the feature `rabbitmq` of worker-core; add it, or {FORMS} \
                 (several processes on one machine can share a file)"
            )),
            Target::Sqlite(_) if cfg!(not(feature = "sqlite")) => Some(
                "this program was built without the feature `sqlite` of worker-core; add it, or use `memory:`".into(),
            ),
            Target::Amqp(_) | Target::Sqlite(_) | Target::Memory => None,
        }
    }
}

impl Default for BrokerUrl {
    /// `sqlite:jobs.db`.
    fn default() -> Self {
        Self::sqlite(FILE_DEFAULT)
    }
}

impl FromStr for BrokerUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        parse(text).map_err(|problem| ConfigError::new(vec![format!("the broker URL {problem}")]))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Memory => f.write_str("memory:"),
            Target::Sqlite(path) => write!(f, "sqlite:{}", path.display().to_string().escape_debug()),
            Target::Amqp(url) => fmt::Display::fmt(url, f),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `text` names, or what is wrong with it, as the end of a sentence about "the URL".
pub(super) fn parse(text: &str) -> Result<BrokerUrl, String> {
    target(text).map(BrokerUrl)
}

fn target(text: &str) -> Result<Target, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(match text.to_ascii_lowercase().as_str() {
            "memory" => "lacks a colon: write `memory:`".into(),
            "sqlite" => "lacks a file: write `sqlite:PATH`".into(),
            _ => format!("has no scheme; {FORMS}"),
        });
    };
    match scheme.to_ascii_lowercase().as_str() {
        "sqlite" => sqlite_path(rest).map(Target::Sqlite),
        "memory" if matches!(rest, "" | "//") => Ok(Target::Memory),
        "memory" => Err("has something after `memory:`; write `memory:` alone".into()),
        scheme @ ("amqp" | "amqps") => match rest.strip_prefix("//") {
            Some(rest) => amqp::parse(scheme == "amqps", rest).map(Target::Amqp),
            None => Err(format!("lacks `//`: write `{scheme}://USER:PASSWORD@HOST`")),
        },
        // A scheme is repeated only where it surely is one: anything else may be a password.
        scheme if rest.starts_with("//") && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            Err(match nearest(scheme, ["sqlite", "memory", "amqp"]) {
                Some(known) => format!("has the unknown scheme `{scheme}` (did you mean `{known}`?); {FORMS}"),
                None => format!("has the unknown scheme `{scheme}`; {FORMS}"),
            })
        }
        _ => Err(format!("has no known scheme; {FORMS}")),
    }
}

/// The file in what follows `sqlite:`. It is taken as it is: nothing in it is decoded or expanded.
fn sqlite_path(rest: &str) -> Result<PathBuf, String> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(after) if after.split('/').next().is_some_and(|authority| authority.contains('@')) => {
            return Err("has a user in it, which a file does not have; write `sqlite:PATH`".into());
        }
        Some(after) => after,
    };
    if path.trim().is_empty() {
        return Err("names no file; write `sqlite:PATH`, or `memory:` to keep the jobs in memory".into());
    }
    if path.to_ascii_lowercase().starts_with(":memory:") {
        return Err("would keep the jobs in the memory of one connection; write `memory:`".into());
    }
    if path == "~" || path.starts_with("~/") {
        return Err("begins with `~`, which only a shell expands; write the whole path".into());
    }
    if let Some((_, options)) = path.split_once('?') {
        let names: Vec<_> = options.split('&').map(|option| option.split('=').next().unwrap_or_default()).collect();
        let names = names.join("`, `").escape_debug().to_string();
        return Err(format!("has the option `{names}`, and takes none; SQLite is set up by WORKER_SQLITE_* variables"));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(text: &str) -> PathBuf {
        text.parse::<BrokerUrl>().unwrap().path().unwrap().to_owned()
    }

    fn refusal(text: &str) -> String {
        text.parse::<BrokerUrl>().unwrap_err().to_string()
    }

    #[test]
    fn a_file_can_be_written_in_every_usual_way() {
        assert_eq!(sqlite("sqlite:jobs.db"), Path::new("jobs.db"));
        assert_eq!(sqlite("SQLite:/var/lib/jobs.db"), Path::new("/var/lib/jobs.db"));
        assert_eq!(sqlite("sqlite:///var/lib/jobs.db"), Path::new("/var/lib/jobs.db"));
        assert_eq!(sqlite("sqlite://data/jobs.db"), Path::new("data/jobs.db"));
        assert_eq!(sqlite("sqlite:a b@c#d%20.db"), Path::new("a b@c#d%20.db"));
        assert_eq!("Memory:".parse::<BrokerUrl>().unwrap().to_string(), "memory:");
    }

    #[test]
    fn a_url_that_means_memory_or_nothing_is_refused_with_the_way_out() {
        for text in ["sqlite:", "sqlite://", "sqlite: ", "sqlite::memory:", "sqlite://:memory:", "memory:x"] {
            assert!(refusal(text).contains("`memory:`"), "{text}");
        }
        assert!(refusal("memory").contains("lacks a colon"));
        assert!(refusal("sqlite:~/jobs.db").contains('~'));
    }

    #[test]
    fn an_option_is_refused_by_its_name_without_its_value() {
        let refusal = refusal("sqlite:jobs.db?mode=rwc&key=hunter2");
        assert!(refusal.contains("`mode`, `key`") && !refusal.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn an_unknown_scheme_is_named_with_the_ones_there_are() {
        let refusal = refusal("sqlite3://jobs.db");
        assert!(refusal.contains("`sqlite3` (did you mean `sqlite`?)") && refusal.contains("`memory:`"), "{refusal}");
    }

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn without_the_broker_its_url_names_the_feature() {
        let problem = BrokerUrl::default().unsupported().unwrap();
        assert!(problem.contains("built without the feature `sqlite`"), "{problem}");
        assert_eq!("memory:".parse::<BrokerUrl>().unwrap().unsupported(), None);
    }

    #[cfg(not(feature = "rabbitmq"))]
    #[test]
    fn without_rabbitmq_its_url_names_the_feature() {
        let problem = "amqp://h".parse::<BrokerUrl>().unwrap().unsupported().unwrap();
        assert!(problem.contains("built without the feature `rabbitmq`"), "{problem}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let amqp = "amqps://user:hunter2@mq.example/vhost".parse::<BrokerUrl>().unwrap();
        assert_eq!(format!("{amqp} {amqp:?}"), "amqps://***@mq.example:5671/vhost amqps://***@mq.example:5671/vhost");
        for text in [
            "hunter2",
            "hunter2:x",
            "hunter2@host:5672",
            "postgres://user:hunter2@host/db",
            "hunter2!://x",
            "sqlite://u:hunter2@host/x",
            "memory://u:hunter2@host",
            "amqp:u:hunter2@host",
            "amqp://user:hunter2/@hunter2@mq.example",
            "amqps://user:hunter2@mq.example/vhost?secret=hunter2",
        ] {
            assert!(!refusal(text).contains("hunter2"), "{text}: {}", refusal(text));
        }
    }
}
