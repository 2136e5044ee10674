//! The environment and the flags, sorted into what is given for each setting.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    config::{
        Origin, SETTINGS, Settings,
        aliases::Aliases,
        given::{Given, Source, cut},
        table,
    },
    error::ConfigError,
    suggest::nearest,
};

const PREFIX: &str = "WORKER_";
const FILE_SUFFIX: &str = "_FILE";

/// The most bytes of a file that holds a setting: a URL has a few hundred.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Reads [`Settings`].
///
/// # Examples
///
/// ```
/// use worker_core::config::SettingsReader;
///
/// let settings = SettingsReader::new()
///     .default_broker_url("sqlite:example-app.db") // instead of `sqlite:jobs.db`
///     .flag("--concurrency", "4") // from a command line
///     .read(std::env::vars_os())?;
/// # Ok::<(), worker_core::ConfigError>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "nothing is read until `read` is called"]
pub struct SettingsReader {
    default_broker_url: Option<String>,
    flags: BTreeMap<&'static str, String>,
}

impl fmt::Debug for SettingsReader {
    /// Which flags, and not what they say: one of them is a URL with a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsReader").field("flags", &self.flags.keys()).finish_non_exhaustive()
    }
}

impl SettingsReader {
    /// Without flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses `url` where neither flag nor environment names a broker.
    pub fn default_broker_url(mut self, url: impl Into<String>) -> Self {
        self.default_broker_url = Some(url.into());
        self
    }

    /// Takes `value` from the command line. `flag` is that of a [`Setting`](super::Setting), `--broker` say.
    pub fn flag(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.flags.insert(flag, value.into());
        self
    }

    /// Reads everything that concerns us in `environment`, as [`std::env::vars_os`] gives it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong: an unknown `WORKER_*` variable, a value that
    /// is none, a file that cannot be read; and the same of the variables that
    /// name a RabbitMQ broker where `WORKER_BROKER_URL` is not set.
    pub fn read(self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Settings, ConfigError> {
        let mut sources = Sources::default();
        let names_setting = |flag: &str| SETTINGS.iter().any(|setting| setting.flag == Some(flag));
        for flag in self.flags.keys().filter(|flag| !names_setting(flag)) {
            sources.problems.push(format!("there is no setting with the flag `{flag}`"));
        }
        // In the order of the names, so that the same mistakes make the same message.
        for (variable, value) in environment.into_iter().collect::<BTreeMap<_, _>>() {
            sources.sort(&variable, value);
        }
        let Sources { values, files, aliases, problems, warnings } = sources;
        let mut given = Given::default();
        (given.problems, given.warnings) = (problems, warnings);
        for setting in SETTINGS {
            let variable = setting.variable;
            let value = Variable { name: variable, value: values.get(variable), file: files.get(variable) };
            let flag = setting.flag.and_then(|flag| Some((flag, self.flags.get(flag)?)));
            match value.source(setting.form) {
                Err(problem) => given.problems.push(problem),
                Ok(source) => {
                    let source = flag.map(|(flag, text)| Source::new(text, Origin::Flag, flag)).or(source);
                    given.texts.extend(source.map(|source| (variable, source)));
                }
            }
        }
        aliases.resolve(&mut given);
        if let Some(url) = self.default_broker_url {
            let name = format!("the application's default of {}", table::BROKER_URL.variable);
            let source = Source::new(url, Origin::Application, name);
            given.texts.entry(table::BROKER_URL.variable).or_insert(source);
        }
        given.settings()
    }
}

/// The environment, sorted into what concerns us.
#[derive(Default)]
struct Sources {
    values: BTreeMap<&'static str, OsString>,
    /// Values of the `_FILE` variables, by the variable they stand for.
    files: BTreeMap<&'static str, OsString>,
    aliases: Aliases,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Sources {
    fn sort(&mut self, variable: &OsStr, value: OsString) {
        // A name that is not UTF-8 is none of ours, but may have our prefix.
        let name = variable.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return self.aliases.sort(&name, value);
        };
        let stem = name.strip_suffix(FILE_SUFFIX).unwrap_or(&name);
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == name) {
            self.values.insert(setting.variable, value);
        } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == stem) {
            if setting.secret {
                self.files.insert(setting.variable, value);
            } else {
                let variable = setting.variable;
                self.problems.push(format!("`{name}` is no setting: {variable} is no secret; set it directly"));
            }
        } else if is_of_kubernetes(rest, &value.to_string_lossy()) {
            self.warnings.push(format!(
                "{} is ignored: Kubernetes sets it for a Service whose name begins with `worker`; \
                 `enableServiceLinks: false` in the pod's spec stops that",
                cut(&name)
            ));
        } else {
            let known = SETTINGS.iter().filter_map(|setting| setting.variable.strip_prefix(PREFIX));
            let meant = nearest(rest.strip_suffix(FILE_SUFFIX).unwrap_or(rest), known);
            let shown = cut(&name);
            self.problems.push(match meant {
                Some(meant) => format!("`{shown}` is no setting; did you mean `{PREFIX}{meant}`?"),
                None => {
                    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.variable).collect();
                    format!("`{shown}` is no setting; settings: {}", known.join(", "))
                }
            });
        }
    }
}

/// Whether Kubernetes injects this for a Service: `rest` is what follows the
/// `WORKER_` of one called `worker` or `worker-something`.
///
/// Source: Kubernetes documentation, "Accessing the Service: environment variables"
/// (the variables of Docker's links, made for each Service of the namespace).
pub(super) fn is_of_kubernetes(rest: &str, value: &str) -> bool {
    let is_service = |suffix: &str| rest == suffix || rest.ends_with(&format!("_{suffix}"));
    if is_service("SERVICE_HOST") || is_service("SERVICE_PORT") {
        return true;
    }
    let named_port = rest.find("SERVICE_PORT_").is_some_and(|at| at == 0 || rest[..at].ends_with('_'));
    if named_port && value.bytes().all(|b| b.is_ascii_digit()) {
        return true;
    }
    let is_link = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if is_service("PORT") && is_link {
        return true;
    }
    // PORT_80_TCP, PORT_80_TCP_ADDR, …
    let Some(at) = rest.find("PORT_") else {
        return false;
    };
    let mut parts = rest[at..].split('_').skip(1);
    let is_number = parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
    is_number && is_protocol && matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"))
}

/// A variable whose value can also come from the file that `<name>_FILE` names.
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) value: Option<&'a OsString>,
    pub(super) file: Option<&'a OsString>,
}

impl Variable<'_> {
    /// What it says, if anything; `form` is what it should be.
    pub(super) fn source(&self, form: &str) -> Result<Option<Source>, String> {
        let variable = self.name;
        if self.value.is_some() && self.file.is_some() {
            return Err(format!("{variable} and {variable}{FILE_SUFFIX} are both set; unset one of them"));
        }
        if let Some(value) = self.value {
            let text = value.to_str().ok_or_else(|| format!("{variable} is not UTF-8; use {form}"))?;
            return Ok(Some(Source::new(text, Origin::Environment, variable)));
        }
        let Some(path) = self.file.map(PathBuf::from) else {
            return Ok(None);
        };
        let variable = format!("{variable}{FILE_SUFFIX}");
        if path.as_os_str().is_empty() {
            return Err(format!("{variable} is empty; name a file or unset it"));
        }
        match content(&path) {
            Ok(text) => {
                let name = format!("{variable} ({})", path.display());
                Ok(Some(Source::new(text, Origin::File(path), name)))
            }
            Err(error) => Err(unreadable(&variable, &path, &error)),
        }
    }
}

/// The sentence about a file whose content cannot be used.
pub(super) fn unreadable(variable: &str, path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::InvalidData => "is not UTF-8 text".into(),
        io::ErrorKind::FileTooLarge => "has more than 64 KiB".into(),
        _ => format!("cannot be read: {error}"),
    };
    format!("{variable} names `{}`, which {why}", cut(&path.display().to_string()))
}

/// A file's text without the line's end that editors and `echo` put there.
pub(super) fn content(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text.trim_end_matches(['\n', '\r']).into())
}
