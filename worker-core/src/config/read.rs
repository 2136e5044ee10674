//! From the environment and the flags to [`Settings`], or to everything that is wrong.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
};

use crate::{
    config::{
        Entry, Origin, SETTINGS, Setting, Settings,
        parse::{self, Misfit},
        table, url,
    },
    error::ConfigError,
    suggest::nearest,
};

const PREFIX: &str = "WORKER_";
const FILE_SUFFIX: &str = "_FILE";

/// The most bytes of a file that holds a setting: a URL has a few hundred.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The most characters of a wrong value that are repeated.
const SHOWN_CHARS_MAX: usize = 80;

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
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is read until `read` is called"]
pub struct SettingsReader {
    default_broker_url: Option<String>,
    flags: BTreeMap<&'static str, String>,
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

    /// Takes `value` from the command line. `flag` is that of a [`Setting`], `--broker` say.
    pub fn flag(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.flags.insert(flag, value.into());
        self
    }

    /// Reads everything that concerns us in `environment`, as [`std::env::vars_os`] gives it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong: an unknown `WORKER_*` variable, a value that
    /// is none, a file that cannot be read.
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
        let mut given = Given { texts: BTreeMap::new(), entries: Vec::new(), problems: sources.problems };
        for setting in SETTINGS {
            let flag = self.flags.get(setting.flag.unwrap_or_default());
            let (value, file) = (sources.values.get(setting.variable), sources.files.get(setting.variable));
            match source(setting, flag, value, file) {
                Ok(None) => {}
                Ok(Some(source)) => drop(given.texts.insert(setting.variable, source)),
                Err(problem) => given.problems.push(problem),
            }
        }
        if let Some(url) = self.default_broker_url {
            given.texts.entry(table::BROKER_URL.variable).or_insert((url, Origin::Application));
        }
        given.settings(sources.warnings)
    }
}

/// The environment, sorted into what concerns us.
#[derive(Default)]
struct Sources {
    values: BTreeMap<&'static str, OsString>,
    /// Values of the `_FILE` variables, by the variable they stand for.
    files: BTreeMap<&'static str, OsString>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Sources {
    fn sort(&mut self, variable: &OsStr, value: OsString) {
        // A name that is not UTF-8 is none of ours, but may have our prefix.
        let name = variable.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return;
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
                "{name} is ignored: Kubernetes sets it for a Service whose name begins with `worker`; \
                 `enableServiceLinks: false` in the pod's spec stops that"
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

/// Whether Kubernetes injects this for a Service called `worker` or `worker-something`.
///
/// Source: Kubernetes documentation, "Accessing the Service: environment variables"
/// (the variables of Docker's links, made for each Service of the namespace).
fn is_of_kubernetes(rest: &str, value: &str) -> bool {
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

/// The text that holds for a setting, from the source that wins.
fn source(
    setting: &Setting,
    flag: Option<&String>,
    value: Option<&OsString>,
    file: Option<&OsString>,
) -> Result<Option<(String, Origin)>, String> {
    let variable = setting.variable;
    if value.is_some() && file.is_some() {
        return Err(format!("{variable} and {variable}{FILE_SUFFIX} are both set; unset one of them"));
    }
    if let Some(text) = flag {
        return Ok(Some((text.clone(), Origin::Flag)));
    }
    if let Some(value) = value {
        let text = value.to_str().ok_or_else(|| format!("{variable} is not UTF-8; use {}", setting.form))?;
        return Ok(Some((text.into(), Origin::Environment)));
    }
    let Some(path) = file.map(PathBuf::from) else {
        return Ok(None);
    };
    if path.as_os_str().is_empty() {
        return Err(format!("{variable}{FILE_SUFFIX} is empty; name a file or unset it"));
    }
    let shown = path.display().to_string();
    let refused = |problem: &str| format!("{variable}{FILE_SUFFIX} names `{}`, which {problem}", cut(&shown));
    match content(&path) {
        Ok(text) => Ok(Some((text, Origin::File(path)))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused("is not UTF-8 text")),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(refused("has more than 64 KiB")),
        Err(error) => Err(refused(&format!("cannot be read: {error}"))),
    }
}

/// A file's text without the line's end that editors and `echo` put there.
fn content(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text.trim_end_matches(['\n', '\r']).into())
}

/// What was given for each setting, on its way to its value.
struct Given {
    texts: BTreeMap<&'static str, (String, Origin)>,
    entries: Vec<Entry>,
    problems: Vec<String>,
}

impl Given {
    /// Parses everything, in the order of the table.
    fn settings(mut self, warnings: Vec<String>) -> Result<Settings, ConfigError> {
        let default = Settings::default();
        let url = |text: &str| url::parse(text).map_err(Misfit::Because);
        let settings = Settings {
            broker_url: self.value(&table::BROKER_URL, default.broker_url, url),
            queues: self.value(&table::QUEUES, None, |text| parse::queues(text).map(Some)),
            concurrency: self.value(&table::CONCURRENCY, default.concurrency, parse::concurrency),
            prefetch: self.value(&table::PREFETCH, None, |text| parse::prefetch(text).map(Some)),
            shutdown_grace: self.value(&table::SHUTDOWN_GRACE, default.shutdown_grace, parse::shutdown_grace),
            admin: self.value(&table::ADMIN, default.admin, parse::admin),
            unknown_job_patience: self.value(
                &table::UNKNOWN_JOB_PATIENCE,
                default.unknown_job_patience,
                parse::unknown_job_patience,
            ),
            enqueue_timeout: self.value(&table::ENQUEUE_TIMEOUT, default.enqueue_timeout, parse::enqueue_timeout),
            payload_bytes_max: self.value(&table::PAYLOAD_MAX, default.payload_bytes_max, parse::payload_max),
            sqlite_synchronous: self.value(
                &table::SQLITE_SYNCHRONOUS,
                default.sqlite_synchronous,
                parse::sqlite_synchronous,
            ),
            sqlite_busy_timeout: self.value(
                &table::SQLITE_BUSY_TIMEOUT,
                default.sqlite_busy_timeout,
                parse::sqlite_busy_timeout,
            ),
            sqlite_lease: self.value(&table::SQLITE_LEASE, default.sqlite_lease, parse::sqlite_lease),
            log_format: self.value(&table::LOG_FORMAT, default.log_format, parse::log_format),
            entries: Vec::new(),
            warnings,
        };
        self.check_relations(&settings);
        if !self.problems.is_empty() {
            return Err(ConfigError::new(self.problems));
        }
        for entry in self.entries.iter_mut().filter(|entry| *entry.setting == table::BROKER_URL) {
            entry.text = settings.broker_url.to_string();
        }
        Ok(Settings { entries: self.entries, ..settings })
    }

    /// The value of `setting`; `default` where nothing was given, or nothing good.
    fn value<T>(&mut self, setting: &'static Setting, default: T, parse: impl Fn(&str) -> Result<T, Misfit>) -> T {
        let Some((text, origin)) = self.texts.remove(setting.variable) else {
            let entry = Entry { setting, text: setting.default.into(), origin: Origin::Default };
            self.entries.push(entry);
            return default;
        };
        let entry = Entry { setting, text: text.clone(), origin };
        let parsed = parse(text.trim());
        let value = parsed.unwrap_or_else(|misfit| {
            self.problems.push(problem(&entry, &misfit));
            default
        });
        self.entries.push(entry);
        value
    }

    /// What is wrong although each value for itself is right.
    fn check_relations(&mut self, settings: &Settings) {
        if let Some(problem) = settings.broker_url.unsupported() {
            let source = self.entries.iter().find(|entry| *entry.setting == table::BROKER_URL).map(source_name);
            self.problems.push(format!("{}: {problem}", source.unwrap_or_default()));
        }
        let set = self.entries.iter().find(|entry| *entry.setting == table::CONCURRENCY);
        let Some(set) = set.filter(|entry| entry.origin != Origin::Default) else {
            return; // Without a number from the deployment, the application's own holds, which is not known here.
        };
        for served in settings.queues.iter().flatten() {
            if let Some(slots) = served.slots.filter(|slots| *slots > settings.concurrency) {
                self.problems.push(format!(
                    "queue `{}` asks for {slots} slots, and {} gives the worker {}; raise one or lower the other",
                    served.queue,
                    source_name(set),
                    settings.concurrency
                ));
            }
        }
    }
}

/// The sentence about a value that is none.
fn problem(entry: &Entry, misfit: &Misfit) -> String {
    let (source, text) = (source_name(entry), cut(entry.text.trim()));
    match misfit {
        _ if text.is_empty() => format!("{source} is empty; use {}, or leave it out", entry.setting.form),
        Misfit::Form if entry.setting.secret => {
            format!("{source} is not what it should be; use {}", entry.setting.form)
        }
        Misfit::Because(why) if entry.setting.secret => format!("{source} {why}"),
        Misfit::Form => format!("{source} is `{text}`; use {}", entry.setting.form),
        Misfit::Because(why) => format!("{source} is `{text}`, which {why}"),
    }
}

/// What the reader of a problem has to change.
fn source_name(entry: &Entry) -> String {
    match entry.origin {
        Origin::Application | Origin::Default => format!("the application's default of {}", entry.setting.variable),
        _ => entry.origin_text(),
    }
}

/// A text that can be repeated: without control characters, and short.
fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
