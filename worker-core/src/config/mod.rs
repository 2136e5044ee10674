//! The settings of a deployment, read once.
//!
//! A program is configured by `WORKER_*` variables and by flags. They are read
//! together, into typed values that cannot be wrong afterwards, and everything
//! that is wrong is said at once. Flags win over the environment, the
//! environment over what the application sets in code, and that over the
//! defaults; the origin of each value is kept.
//!
//! The environment comes in as data, so that a test can have one of its own.

mod aliases;
mod amqp;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod given;
mod management;
mod parse;
mod parts;
mod read;
mod secret;
pub(crate) mod table;
mod url;

use std::{fmt, net::SocketAddr, num::NonZeroU8, path::PathBuf, time::Duration};

use crate::{
    broker::LEASE_DEFAULT,
    client::ENQUEUE_TIMEOUT_DEFAULT,
    envelope::PAYLOAD_BYTES_MAX,
    error::ConfigError,
    name::QueueName,
    worker::{CONCURRENCY_DEFAULT, GRACE_DEFAULT, UNKNOWN_JOB_PATIENCE_DEFAULT, WorkerBuilder},
};

pub(crate) use self::url::Target;
pub use self::{
    amqp::{AmqpHost, AmqpUrl},
    management::ManagementUrl,
    read::SettingsReader,
    secret::Secret,
    table::{SETTINGS, Setting},
    url::BrokerUrl,
};
#[cfg(feature = "cli")]
pub(crate) use self::{
    parse::duration,
    table::{BROKER_URL, TOPOLOGY},
};

/// Everything that a deployment can set, checked.
///
/// [`SETTINGS`] describes each of them. `Settings::default()` has all the defaults.
///
/// # Examples
///
/// ```
/// use worker_core::config::SettingsReader;
///
/// let environment = [("WORKER_CONCURRENCY", "4"), ("WORKER_QUEUES", "emails=2,orders")];
/// let environment = environment.map(|(name, value)| (name.into(), value.into()));
/// let settings = SettingsReader::new().read(environment)?;
/// assert_eq!(settings.concurrency, 4);
/// assert_eq!(settings.broker_url.to_string(), "sqlite:jobs.db");
/// # Ok::<(), worker_core::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where the jobs are.
    pub broker_url: BrokerUrl,
    /// Which queues the worker serves; `None` for those of all registered jobs.
    pub queues: Option<Vec<ServedQueue>>,
    /// How many jobs run at once.
    pub concurrency: usize,
    /// How many unsettled deliveries of each queue the worker owns; `None` for what their time asks for.
    pub prefetch: Option<usize>,
    /// How long running jobs may go on after a shutdown was asked for.
    pub shutdown_grace: Duration,
    /// Where `run` serves probes and metrics; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Whether what is missing in the broker is declared, or only checked.
    pub topology: TopologyMode,
    /// How long a job of unknown name is offered again before it is dead-lettered.
    pub unknown_job_patience: Duration,
    /// How long an enqueue waits for the broker's answer.
    pub enqueue_timeout: Duration,
    /// How long connecting to a server may take at the start.
    pub connect_timeout: Duration,
    /// The largest payload in bytes.
    pub payload_bytes_max: usize,
    /// When a commit of the SQLite broker counts as durable.
    pub sqlite_synchronous: SqliteSynchronous,
    /// How long a write of the SQLite broker waits for another process's.
    pub sqlite_busy_timeout: Duration,
    /// How long a frozen process keeps its jobs on the SQLite broker.
    pub sqlite_lease: Duration,
    /// How often either side of a connection to RabbitMQ shows that it lives.
    pub rabbitmq_heartbeat: Duration,
    /// How long RabbitMQ may take to confirm what was published to it.
    pub rabbitmq_confirm_timeout: Duration,
    /// What kind of queues is declared on RabbitMQ.
    pub rabbitmq_queue_type: RabbitmqQueueType,
    /// How long RabbitMQ before 4.3 lets a worker hold a job.
    pub rabbitmq_consumer_timeout: Duration,
    /// How many channels publish to RabbitMQ.
    pub rabbitmq_channels: NonZeroU8,
    /// Which queues on RabbitMQ replies may go to, where a call names one.
    pub rabbitmq_reply_queues: Vec<String>,
    /// What the names of the shared queues on RabbitMQ begin with.
    pub rabbitmq_namespace: String,
    /// Who signed RabbitMQ's certificate; `None` for one of the system's authorities.
    pub rabbitmq_ca_file: Option<PathBuf>,
    /// The certificate that is shown to RabbitMQ.
    pub rabbitmq_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    pub rabbitmq_key_file: Option<PathBuf>,
    /// The name that RabbitMQ's certificate must have; `None` for the host's.
    pub rabbitmq_server_name: Option<String>,
    /// Where RabbitMQ's management API is; `None` for nowhere.
    pub rabbitmq_management_url: Option<ManagementUrl>,
    /// How log lines look.
    pub log_format: LogFormat,
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

impl Settings {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with its `WORKER_*` variables, or with those
    /// that name a RabbitMQ broker in their place.
    pub fn from_env() -> Result<Self, ConfigError> {
        SettingsReader::new().read(std::env::vars_os())
    }

    /// Every setting in the order of [`SETTINGS`], with its value as text and where that came from.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was left out of account, and why: one line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tells `builder` what was set. What was not is left as the builder has it,
    /// so an application's own choices win over the defaults and over nothing else.
    pub fn configure(&self, mut builder: WorkerBuilder) -> WorkerBuilder {
        if let Some(queues) = &self.queues {
            builder = builder.queues(queues.iter().map(|served| served.queue.as_str()));
            for ServedQueue { queue, slots } in queues {
                if let Some(slots) = slots {
                    builder = builder.queue_concurrency(queue.as_str(), *slots);
                }
            }
        }
        if self.is_set(&table::CONCURRENCY) {
            builder = builder.concurrency(self.concurrency);
        }
        if let Some(deliveries) = self.prefetch {
            builder = builder.prefetch(deliveries);
        }
        if self.is_set(&table::SHUTDOWN_GRACE) {
            builder = builder.grace(self.shutdown_grace);
        }
        if self.is_set(&table::UNKNOWN_JOB_PATIENCE) {
            builder = builder.unknown_job_patience(self.unknown_job_patience);
        }
        builder
    }

    fn is_set(&self, setting: &Setting) -> bool {
        self.entries.iter().any(|entry| entry.setting == setting && entry.origin != Origin::Default)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker_url: BrokerUrl::default(),
            queues: None,
            concurrency: CONCURRENCY_DEFAULT,
            prefetch: None,
            shutdown_grace: GRACE_DEFAULT,
            admin: None,
            topology: TopologyMode::Apply,
            unknown_job_patience: UNKNOWN_JOB_PATIENCE_DEFAULT,
            enqueue_timeout: ENQUEUE_TIMEOUT_DEFAULT,
            connect_timeout: table::CONNECT_TIMEOUT_DEFAULT,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            sqlite_synchronous: SqliteSynchronous::Full,
            sqlite_busy_timeout: table::SQLITE_BUSY_TIMEOUT_DEFAULT,
            sqlite_lease: LEASE_DEFAULT,
            rabbitmq_heartbeat: table::HEARTBEAT_DEFAULT,
            rabbitmq_confirm_timeout: table::CONFIRM_TIMEOUT_DEFAULT,
            rabbitmq_queue_type: RabbitmqQueueType::Quorum,
            rabbitmq_consumer_timeout: table::CONSUMER_TIMEOUT_DEFAULT,
            rabbitmq_channels: NonZeroU8::MIN,
            rabbitmq_reply_queues: table::RABBITMQ_REPLY_QUEUES.default.split(',').map(Into::into).collect(),
            rabbitmq_namespace: table::NAMESPACE_DEFAULT.into(),
            rabbitmq_ca_file: None,
            rabbitmq_cert_file: None,
            rabbitmq_key_file: None,
            rabbitmq_server_name: None,
            rabbitmq_management_url: None,
            log_format: LogFormat::Auto,
            entries: SETTINGS.iter().map(|setting| Entry::default_of(setting)).collect(),
            warnings: Vec::new(),
        }
    }
}

/// One queue that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedQueue {
    /// The queue.
    pub queue: QueueName,
    /// How many of its jobs run at once; `None` for as many as the worker has slots.
    pub slots: Option<usize>,
}

/// What a program does about queues and exchanges that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopologyMode {
    /// It declares what is missing.
    Apply,
    /// It declares nothing: what is missing is an error that names it.
    Check,
}

/// When a commit of the SQLite broker counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SqliteSynchronous {
    /// When the disk has it.
    Full,
    /// When the operating system has it: a loss of power may take the last moments with it.
    Normal,
}

/// What kind of queues is declared on RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RabbitmqQueueType {
    /// On several nodes of a cluster.
    Quorum,
    /// On one node.
    Classic,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

/// A setting with its value and where that came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value as it was written; a secret is masked.
    pub text: String,
    /// Who wrote it.
    pub origin: Origin,
    /// What a sentence about the value names as its place.
    source: String,
}

impl Entry {
    fn default_of(setting: &'static Setting) -> Self {
        let source = format!("the application's default of {}", setting.variable);
        Self { setting, text: setting.default.into(), origin: Origin::Default, source }
    }

    /// Where the value came from, by name: the flag, the variable, the file.
    #[must_use]
    pub fn origin_text(&self) -> String {
        match &self.origin {
            Origin::Default | Origin::Application => self.origin.to_string(),
            Origin::Environment | Origin::File(_) | Origin::Flag => self.source.clone(),
        }
    }
}

/// Who chose a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody.
    Default,
    /// The application, in its code.
    Application,
    /// A variable of the environment.
    Environment,
    /// A file that a variable of the environment names.
    File(PathBuf),
    /// A flag on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Application => "application",
            Self::Environment => "environment",
            Self::File(_) => "file",
            Self::Flag => "flag",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_of_the_table_is_the_one_that_holds() {
        let default = Settings::default();
        for setting in SETTINGS {
            let text = setting.default;
            let holds = match setting.name {
                "broker_url" => text.parse() == Ok(default.broker_url.clone()),
                "queues" => text == "the queues of all registered jobs" && default.queues.is_none(),
                "concurrency" => parse::concurrency(text) == Ok(default.concurrency),
                "prefetch" => text == "follows how long the jobs take" && default.prefetch.is_none(),
                "shutdown_grace" => parse::shutdown_grace(text) == Ok(default.shutdown_grace),
                "admin" => parse::admin(text) == Ok(default.admin),
                "topology" => parse::topology(text) == Ok(default.topology),
                "unknown_job_patience" => parse::unknown_job_patience(text) == Ok(default.unknown_job_patience),
                "enqueue_timeout" => parse::enqueue_timeout(text) == Ok(default.enqueue_timeout),
                "connect_timeout" => parse::connect_timeout(text) == Ok(default.connect_timeout),
                "payload_bytes_max" => parse::payload_max(text) == Ok(default.payload_bytes_max),
                "sqlite_synchronous" => parse::sqlite_synchronous(text) == Ok(default.sqlite_synchronous),
                "sqlite_busy_timeout" => parse::sqlite_busy_timeout(text) == Ok(default.sqlite_busy_timeout),
                "sqlite_lease" => parse::sqlite_lease(text) == Ok(default.sqlite_lease),
                "rabbitmq_heartbeat" => parse::rabbitmq_heartbeat(text) == Ok(default.rabbitmq_heartbeat),
                "rabbitmq_confirm_timeout" => {
                    parse::rabbitmq_confirm_timeout(text) == Ok(default.rabbitmq_confirm_timeout)
                }
                "rabbitmq_queue_type" => parse::rabbitmq_queue_type(text) == Ok(default.rabbitmq_queue_type),
                "rabbitmq_consumer_timeout" => {
                    parse::rabbitmq_consumer_timeout(text) == Ok(default.rabbitmq_consumer_timeout)
                }
                "rabbitmq_channels" => parse::rabbitmq_channels(text) == Ok(default.rabbitmq_channels),
                "rabbitmq_reply_queues" => {
                    parse::rabbitmq_reply_queues(text) == Ok(default.rabbitmq_reply_queues.clone())
                }
                "rabbitmq_namespace" => default.rabbitmq_namespace == text,
                "rabbitmq_ca_file" => text == "the system's certificates" && default.rabbitmq_ca_file.is_none(),
                "rabbitmq_cert_file" => text == "no certificate" && default.rabbitmq_cert_file.is_none(),
                "rabbitmq_key_file" => text == "no key" && default.rabbitmq_key_file.is_none(),
                "rabbitmq_server_name" => text == "the host's name" && default.rabbitmq_server_name.is_none(),
                "rabbitmq_management_url" => text == "no API" && default.rabbitmq_management_url.is_none(),
                "log_format" => parse::log_format(text) == Ok(default.log_format),
                other => panic!("`{other}` is not checked here"),
            };
            assert!(holds, "{}: {text}", setting.name);
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn the_sqlite_settings_are_those_of_the_broker() {
        use crate::brokers::sqlite::{LEASE_MIN, SqliteOptions};

        let (settings, broker) = (Settings::default(), SqliteOptions::default());
        assert_eq!(settings.sqlite_busy_timeout, broker.busy_timeout);
        assert_eq!(settings.sqlite_lease, broker.lease);
        assert_eq!(table::SQLITE_LEASE_MIN, LEASE_MIN);
    }

    #[test]
    fn a_variable_is_named_after_its_setting() {
        for setting in SETTINGS {
            let expected = format!("WORKER_{}", setting.name.to_ascii_uppercase().replace("_BYTES_MAX", "_MAX"));
            assert_eq!(setting.variable, expected);
        }
    }
}
