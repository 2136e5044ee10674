//! From the texts that were given to [`Settings`], or to everything that is wrong with them.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    config::{
        AmqpUrl, BrokerUrl, Entry, Origin, Setting, Settings, management,
        parse::{self, Misfit},
        table, url,
    },
    error::ConfigError,
};

/// The most characters of a wrong value that are repeated.
const SHOWN_CHARS_MAX: usize = 80;

/// The text for a setting, and who gave it. It may be a secret, so it has no `Debug`.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) text: String,
    pub(super) origin: Origin,
    /// What a sentence names as the place of the text.
    pub(super) name: String,
}

impl Source {
    pub(super) fn new(text: impl Into<String>, origin: Origin, name: impl Into<String>) -> Self {
        Self { text: text.into(), origin, name: name.into() }
    }
}

/// What was given for each setting, on its way to its value.
#[derive(Default)]
pub(super) struct Given {
    /// By the setting's variable.
    pub(super) texts: BTreeMap<&'static str, Source>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    entries: Vec<Entry>,
}

impl Settings {
    /// What holds when this URL is all that was said.
    pub(crate) fn of_url(broker_url: BrokerUrl) -> Result<Self, ConfigError> {
        let mut given = Given::default();
        given.entries.push(Entry {
            setting: &table::BROKER_URL,
            text: broker_url.to_string(),
            origin: Origin::Application,
            source: "the broker URL".into(),
        });
        given.settings_at(broker_url)
    }
}

impl Given {
    /// Parses everything, in the order of the table.
    pub(super) fn settings(mut self) -> Result<Settings, ConfigError> {
        let url = |text: &str| url::parse(text).map_err(Misfit::Because);
        let broker_url = self.value(&table::BROKER_URL, BrokerUrl::default(), url);
        self.settings_at(broker_url)
    }

    /// The same once the URL is known.
    fn settings_at(mut self, broker_url: BrokerUrl) -> Result<Settings, ConfigError> {
        if let Some(url) = broker_url.amqp() {
            self.take_parameters(url);
        }
        let default = Settings::default();
        let settings = Settings {
            broker_url,
            queues: self.value(&table::QUEUES, None, |text| parse::queues(text).map(Some)),
            concurrency: self.value(&table::CONCURRENCY, default.concurrency, parse::concurrency),
            prefetch: self.value(&table::PREFETCH, None, |text| parse::prefetch(text).map(Some)),
            shutdown_grace: self.value(&table::SHUTDOWN_GRACE, default.shutdown_grace, parse::shutdown_grace),
            admin: self.value(&table::ADMIN, default.admin, parse::admin),
            topology: self.value(&table::TOPOLOGY, default.topology, parse::topology),
            unknown_job_patience: self.value(
                &table::UNKNOWN_JOB_PATIENCE,
                default.unknown_job_patience,
                parse::unknown_job_patience,
            ),
            enqueue_timeout: self.value(&table::ENQUEUE_TIMEOUT, default.enqueue_timeout, parse::enqueue_timeout),
            connect_timeout: self.value(&table::CONNECT_TIMEOUT, default.connect_timeout, parse::connect_timeout),
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
            rabbitmq_heartbeat: self.value(
                &table::RABBITMQ_HEARTBEAT,
                default.rabbitmq_heartbeat,
                parse::rabbitmq_heartbeat,
            ),
            rabbitmq_confirm_timeout: self.value(
                &table::RABBITMQ_CONFIRM_TIMEOUT,
                default.rabbitmq_confirm_timeout,
                parse::rabbitmq_confirm_timeout,
            ),
            rabbitmq_queue_type: self.value(
                &table::RABBITMQ_QUEUE_TYPE,
                default.rabbitmq_queue_type,
                parse::rabbitmq_queue_type,
            ),
            rabbitmq_consumer_timeout: self.value(
                &table::RABBITMQ_CONSUMER_TIMEOUT,
                default.rabbitmq_consumer_timeout,
                parse::rabbitmq_consumer_timeout,
            ),
            rabbitmq_channels: self.value(
                &table::RABBITMQ_CHANNELS,
                default.rabbitmq_channels,
                parse::rabbitmq_channels,
            ),
            rabbitmq_reply_queues: self.value(
                &table::RABBITMQ_REPLY_QUEUES,
                default.rabbitmq_reply_queues,
                parse::rabbitmq_reply_queues,
            ),
            rabbitmq_namespace: self.value(
                &table::RABBITMQ_NAMESPACE,
                default.rabbitmq_namespace,
                parse::rabbitmq_namespace,
            ),
            rabbitmq_ca_file: self.value(&table::RABBITMQ_CA_FILE, None, |text| parse::path(text).map(Some)),
            rabbitmq_cert_file: self.value(&table::RABBITMQ_CERT_FILE, None, |text| parse::path(text).map(Some)),
            rabbitmq_key_file: self.value(&table::RABBITMQ_KEY_FILE, None, |text| parse::path(text).map(Some)),
            rabbitmq_server_name: self
                .value(&table::RABBITMQ_SERVER_NAME, None, |text| parse::rabbitmq_server_name(text).map(Some)),
            rabbitmq_management_url: self.value(&table::RABBITMQ_MANAGEMENT_URL, None, |text| {
                management::parse(text).map(Some).map_err(Misfit::Because)
            }),
            log_format: self.value(&table::LOG_FORMAT, default.log_format, parse::log_format),
            entries: Vec::new(),
            warnings: Vec::new(),
        };
        self.check_relations(&settings);
        if !self.problems.is_empty() {
            return Err(ConfigError::new(self.problems));
        }
        let management = settings.rabbitmq_management_url.as_ref().map(ToString::to_string);
        for entry in &mut self.entries {
            match &management {
                _ if *entry.setting == table::BROKER_URL => entry.text = settings.broker_url.to_string(),
                Some(url) if *entry.setting == table::RABBITMQ_MANAGEMENT_URL => entry.text.clone_from(url),
                _ => {}
            }
        }
        Ok(Settings { entries: self.entries, warnings: self.warnings, ..settings })
    }

    /// Takes what the URL says of settings that nothing else sets.
    fn take_parameters(&mut self, url: &AmqpUrl) {
        let Some(Entry { origin, source, .. }) = self.entries.first().cloned() else { return };
        if url.vhost_was_empty {
            self.warnings.push(format!(
                "{source}: the virtual host of `amqp://host/` is empty and taken as `/`; write `amqp://host/%2F` or `amqp://host`"
            ));
        }
        let time = |time: Option<Duration>| time.map(|time| humantime::format_duration(time).to_string());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (parameter, setting, text) in [
            ("heartbeat", &table::RABBITMQ_HEARTBEAT, time(url.heartbeat)),
            ("connection_timeout", &table::CONNECT_TIMEOUT, time(url.connect_timeout)),
            ("cacertfile", &table::RABBITMQ_CA_FILE, path(&url.ca_file)),
            ("certfile", &table::RABBITMQ_CERT_FILE, path(&url.cert_file)),
            ("keyfile", &table::RABBITMQ_KEY_FILE, path(&url.key_file)),
        ] {
            let Some(text) = text else { continue };
            let name = format!("`{parameter}` in {source}");
            match self.texts.get(setting.variable) {
                None => drop(self.texts.insert(setting.variable, Source::new(text, origin.clone(), name))),
                Some(other) if other.text.trim() == text => {}
                Some(other) => self.warnings.push(format!("{name} is ignored: {} says it", other.name)),
            }
        }
    }

    /// The value of `setting`; `default` where nothing was given, or nothing good.
    fn value<T>(&mut self, setting: &'static Setting, default: T, parse: impl Fn(&str) -> Result<T, Misfit>) -> T {
        let Some(Source { text, origin, name: source }) = self.texts.remove(setting.variable) else {
            self.entries.push(Entry::default_of(setting));
            return default;
        };
        let entry = Entry { setting, text: text.clone(), origin, source };
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
            let source = self.entries.iter().find(|entry| *entry.setting == table::BROKER_URL);
            let source = source.map(|entry| entry.source.as_str()).unwrap_or_default();
            self.problems.push(format!("{source}: {problem}"));
        }
        if let Some(url) = settings.broker_url.amqp() {
            let asks_with_tls = settings.rabbitmq_management_url.as_ref().is_some_and(|url| url.tls);
            self.check_tls(url.tls, asks_with_tls);
        }
        let Some(set) = self.set(&table::CONCURRENCY) else {
            return; // Without a number from the deployment, the application's own holds, which is not known here.
        };
        let source = set.source.clone();
        for served in settings.queues.iter().flatten() {
            if let Some(slots) = served.slots.filter(|slots| *slots > settings.concurrency) {
                self.problems.push(format!(
                    "queue `{}` asks for {slots} slots, and {source} gives the worker {}; raise one or lower the other",
                    served.queue, settings.concurrency
                ));
            }
        }
    }

    /// Files without what they are for: the connection would not be the one that was meant.
    fn check_tls(&mut self, tls: bool, asks_with_tls: bool) {
        let [ca, certificate, key, name] = [
            &table::RABBITMQ_CA_FILE,
            &table::RABBITMQ_CERT_FILE,
            &table::RABBITMQ_KEY_FILE,
            &table::RABBITMQ_SERVER_NAME,
        ]
        .map(|setting| self.set(setting).map(|entry| entry.source.clone()));
        let unused = match (tls, asks_with_tls) {
            (true, _) => [None, None, None, None],
            (false, true) => [None, None, None, name],
            (false, false) => [ca, certificate.clone(), key.clone(), name],
        };
        let unused: Vec<_> = unused.into_iter().flatten().collect();
        let problems = match (&certificate, &key) {
            _ if !unused.is_empty() => {
                let told = |source| format!("{source} is set, but the broker URL is without TLS; write `amqps://`");
                unused.into_iter().map(told).collect()
            }
            (Some(alone), None) => {
                vec![format!("{alone} is set without the key of the certificate; set both or neither")]
            }
            (None, Some(alone)) => {
                vec![format!("{alone} is set without the certificate of the key; set both or neither")]
            }
            _ => Vec::new(),
        };
        self.problems.extend(problems);
    }

    /// The entry of `setting`, if anybody set it.
    fn set(&self, setting: &Setting) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.setting == setting && entry.origin != Origin::Default)
    }
}

/// The sentence about a value that is none.
fn problem(entry: &Entry, misfit: &Misfit) -> String {
    let (source, text) = (&entry.source, cut(entry.text.trim()));
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

/// A text that can be repeated: without control characters, and short.
pub(super) fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
