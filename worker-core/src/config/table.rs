//! The table of all settings: what the parser, `config`, the help and the guide go by.

use std::time::Duration;

/// One setting.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// Its name in `config --json`, which is that of the field of [`Settings`](super::Settings).
    pub name: &'static str,
    /// The variable of the environment.
    pub variable: &'static str,
    /// The flag that wins over the variable, where there is one.
    pub flag: Option<&'static str>,
    /// What it sets.
    pub meaning: &'static str,
    /// What can be written: shape, unit, range.
    pub form: &'static str,
    /// What holds when nobody says anything.
    pub default: &'static str,
    /// Why this default.
    pub why: &'static str,
    /// Its value is never shown, and can be read from the file that `<variable>_FILE` names.
    pub secret: bool,
}

/// The default of [`SQLITE_BUSY_TIMEOUT`], which must exist without the broker too.
pub(super) const SQLITE_BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The shortest [`SQLITE_LEASE`]: five times the pause between two signs of life.
pub(super) const SQLITE_LEASE_MIN: Duration = Duration::from_secs(1);

/// The default of [`CONNECT_TIMEOUT`].
pub(super) const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The default of [`RABBITMQ_HEARTBEAT`].
pub(super) const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

/// The default of [`RABBITMQ_CONSUMER_TIMEOUT`].
pub(super) const CONSUMER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// The default of [`RABBITMQ_CONFIRM_TIMEOUT`].
pub(super) const CONFIRM_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The default of [`RABBITMQ_NAMESPACE`].
pub(super) const NAMESPACE_DEFAULT: &str = "worker";

/// The longest time that connecting may be given.
pub(super) const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// The range of a heartbeat. The protocol counts in seconds; 0 would turn it
/// off, and a dead connection would stay unseen for as long as TCP likes.
pub(super) const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// The largest payload that can be allowed: RabbitMQ 4 refuses messages above 16 MiB.
pub(super) const PAYLOAD_BYTES_LIMIT: usize = 15 << 20;

pub(crate) static BROKER_URL: Setting = Setting {
    name: "broker_url",
    variable: "WORKER_BROKER_URL",
    flag: Some("--broker"),
    meaning: "where the jobs are",
    form: if cfg!(feature = "rabbitmq") {
        "`sqlite:PATH`, `memory:` or `amqp://USER:PASSWORD@HOST`"
    } else {
        "`sqlite:PATH` or `memory:`"
    },
    default: "sqlite:jobs.db",
    why: "works with nothing installed, and survives a restart",
    secret: true,
};

pub(super) static QUEUES: Setting = Setting {
    name: "queues",
    variable: "WORKER_QUEUES",
    flag: Some("--queues"),
    meaning: "the queues this worker serves, each with its slots where it must not take all",
    form: "names with or without slots, separated by commas: `emails=4,orders`",
    default: "the queues of all registered jobs",
    why: "no job is left waiting because somebody forgot a name",
    secret: false,
};

pub(super) static CONCURRENCY: Setting = Setting {
    name: "concurrency",
    variable: "WORKER_CONCURRENCY",
    flag: Some("--concurrency"),
    meaning: "how many jobs run at once",
    form: "a number of jobs from 1 to 10000",
    default: "16",
    why: "hides the waits of network-bound jobs, within a database's usual connection limit",
    secret: false,
};

pub(super) static PREFETCH: Setting = Setting {
    name: "prefetch",
    variable: "WORKER_PREFETCH",
    flag: Some("--prefetch"),
    meaning: "how many jobs of each queue the worker holds, running or about to",
    form: "a number of jobs from 1 to 65535",
    default: "follows how long the jobs take",
    why: "the next job is at hand when one ends, and little is held back from other workers: a quarter more than the queue's slots, and up to 1000 where jobs take less than 20 ms",
    secret: false,
};

pub(super) static SHUTDOWN_GRACE: Setting = Setting {
    name: "shutdown_grace",
    variable: "WORKER_SHUTDOWN_GRACE",
    flag: Some("--shutdown-timeout"),
    meaning: "how long running jobs may go on after SIGTERM or SIGINT",
    form: "a duration up to 7 days, such as `30s` or `5m`",
    default: "30s",
    why: "the grace period of Kubernetes; keep it shorter than that of whatever kills the process",
    secret: false,
};

pub(super) static ADMIN: Setting = Setting {
    name: "admin",
    variable: "WORKER_ADMIN",
    flag: Some("--admin"),
    meaning: "where `run` serves probes and metrics",
    form: "an address such as `127.0.0.1:9091` or `[::1]:9091`, a port alone for the loopback address, or `off`",
    default: "off",
    why: "nothing listens that nobody asked for",
    secret: false,
};

pub(crate) static TOPOLOGY: Setting = Setting {
    name: "topology",
    variable: "WORKER_TOPOLOGY",
    flag: Some("--topology"),
    meaning: "whether queues and exchanges that are missing are declared, or only checked",
    form: "`apply` or `check`",
    default: "apply",
    why: "works with nothing prepared; `check` is for users who may not declare",
    secret: false,
};

pub(super) static UNKNOWN_JOB_PATIENCE: Setting = Setting {
    name: "unknown_job_patience",
    variable: "WORKER_UNKNOWN_JOB_PATIENCE",
    flag: None,
    meaning: "how long a job that no worker knows is offered again before it is dead-lettered",
    form: "a duration up to 366 days, such as `30m` or `1h`",
    default: "1h",
    why: "longer than a rolling deploy",
    secret: false,
};

pub(super) static ENQUEUE_TIMEOUT: Setting = Setting {
    name: "enqueue_timeout",
    variable: "WORKER_ENQUEUE_TIMEOUT",
    flag: None,
    meaning: "how long an enqueue waits for the broker before it says that it does not know",
    form: "a duration from 1ms to 1 hour, such as `10s`",
    default: "10s",
    why: "longer than a slow disk or a failover, shorter than a web request's patience",
    secret: false,
};

pub(super) static CONNECT_TIMEOUT: Setting = Setting {
    name: "connect_timeout",
    variable: "WORKER_CONNECT_TIMEOUT",
    flag: None,
    meaning: "how long connecting to a server may take at the start before the program gives up",
    form: "a duration from 1ms to 1 hour, such as `30s`",
    default: "30s",
    why: "longer than a server's restart; a program that cannot begin should end, and be started again by what watches it",
    secret: false,
};

pub(super) static PAYLOAD_MAX: Setting = Setting {
    name: "payload_bytes_max",
    variable: "WORKER_PAYLOAD_MAX",
    flag: None,
    meaning: "the largest payload that is enqueued, and that a worker runs; a larger one, of another program, is dead-lettered unread",
    form: "a size from 1 byte to 15 MiB, such as `65536`, `256KiB` or `1MiB`",
    default: "1MiB",
    why: "a broker keeps every waiting job; what is larger belongs in a file, with its key in the payload",
    secret: false,
};

pub(super) static SQLITE_SYNCHRONOUS: Setting = Setting {
    name: "sqlite_synchronous",
    variable: "WORKER_SQLITE_SYNCHRONOUS",
    flag: None,
    meaning: "when a commit counts: with `full`, when the disk has it",
    form: "`full` or `normal`",
    default: "full",
    why: "a durable job outlives a loss of power; `normal` is faster and outlives a crash of the process only",
    secret: false,
};

pub(super) static SQLITE_BUSY_TIMEOUT: Setting = Setting {
    name: "sqlite_busy_timeout",
    variable: "WORKER_SQLITE_BUSY_TIMEOUT",
    flag: None,
    meaning: "how long a write waits for another process's",
    form: "a duration from 1ms to 10 minutes, such as `5s`",
    default: "5s",
    why: "writes take milliseconds; a longer wait means that a process hangs with the lock",
    secret: false,
};

pub(super) static SQLITE_LEASE: Setting = Setting {
    name: "sqlite_lease",
    variable: "WORKER_SQLITE_LEASE",
    flag: None,
    meaning: "how long a frozen process keeps its jobs; a dead one loses them within a second",
    form: "a duration from 1s to 1 hour, such as `30s`",
    default: "30s",
    why: "outlives a suspended virtual machine's short pauses without duplicates",
    secret: false,
};

pub(super) static RABBITMQ_HEARTBEAT: Setting = Setting {
    name: "rabbitmq_heartbeat",
    variable: "WORKER_RABBITMQ_HEARTBEAT",
    flag: None,
    meaning: "how often either side of a connection shows that it lives; after two silent ones it counts as lost",
    form: "a duration from 1s to 5 minutes in whole seconds, such as `15s`",
    default: "15s",
    why: "a lost connection is noticed within half a minute, and a busy machine is not taken for a dead one",
    secret: false,
};

pub(super) static RABBITMQ_CONFIRM_TIMEOUT: Setting = Setting {
    name: "rabbitmq_confirm_timeout",
    variable: "WORKER_RABBITMQ_CONFIRM_TIMEOUT",
    flag: None,
    meaning: "how long RabbitMQ may take to confirm what was published to it",
    form: "a duration from 1ms to 1 hour, such as `10s`",
    default: "10s",
    why: "a quorum queue confirms in milliseconds, and elects a new leader within seconds",
    secret: false,
};

pub(super) static RABBITMQ_QUEUE_TYPE: Setting = Setting {
    name: "rabbitmq_queue_type",
    variable: "WORKER_RABBITMQ_QUEUE_TYPE",
    flag: None,
    meaning: "what kind of queues is declared; queues that exist already are used as they are",
    form: "`quorum` or `classic`",
    default: "quorum",
    why: "survives the loss of a node, and dead-letters without losing anything",
    secret: false,
};

pub(super) static RABBITMQ_CONSUMER_TIMEOUT: Setting = Setting {
    name: "rabbitmq_consumer_timeout",
    variable: "WORKER_RABBITMQ_CONSUMER_TIMEOUT",
    flag: None,
    meaning: "before RabbitMQ 4.3: the server's `consumer_timeout`, after which it takes a job away; jobs that may run longer are refused at the start",
    form: "a duration from 1s to 366 days, such as `2h`",
    default: "30m",
    why: "the server's own default, which it tells nobody",
    secret: false,
};

pub(super) static RABBITMQ_CHANNELS: Setting = Setting {
    name: "rabbitmq_channels",
    variable: "WORKER_RABBITMQ_CHANNELS",
    flag: None,
    meaning: "how many channels publish; what goes to one queue goes by one of them, in order",
    form: "1 to 64",
    default: "1",
    why: "one has 500 publishes on their way at once; a second is a tenth faster for hundreds of tasks that each wait for their enqueue, and a tenth slower with batches",
    secret: false,
};

pub(super) static RABBITMQ_REPLY_QUEUES: Setting = Setting {
    name: "rabbitmq_reply_queues",
    variable: "WORKER_RABBITMQ_REPLY_QUEUES",
    flag: None,
    meaning: "which queues the reply to a call may go to, where its message names one; a `*` at the end stands for any rest",
    form: "names, separated by commas, such as `amq.gen-*,replies.*`",
    default: "amq.gen-*,amq_*",
    why: "callers' queues are named by the server as a rule, or by aio-pika in its place, and a message must not choose any queue at all for a worker to write to",
    secret: false,
};

pub(super) static RABBITMQ_NAMESPACE: Setting = Setting {
    name: "rabbitmq_namespace",
    variable: "WORKER_RABBITMQ_NAMESPACE",
    flag: None,
    meaning: "what the names of the queues begin with that all programs of a virtual host share: `NAME.due`, `NAME.delay.LEVEL`",
    form: "1 to 128 of the characters a-z A-Z 0-9 . _ : -, not beginning with `amq.`",
    default: "worker",
    why: "one set of delay queues serves everybody; programs that must not share it get each their own",
    secret: false,
};

pub(crate) static RABBITMQ_CA_FILE: Setting = Setting {
    name: "rabbitmq_ca_file",
    variable: "WORKER_RABBITMQ_CA_FILE",
    flag: None,
    meaning: "with `amqps`: the file of the authority that signed RabbitMQ's certificate, as PEM",
    form: "a path",
    default: "the system's certificates",
    why: "a certificate from a public authority needs nothing",
    secret: false,
};

pub(crate) static RABBITMQ_CERT_FILE: Setting = Setting {
    name: "rabbitmq_cert_file",
    variable: "WORKER_RABBITMQ_CERT_FILE",
    flag: None,
    meaning: "with `amqps`: the file of the certificate that the program shows, as PEM",
    form: "a path",
    default: "no certificate",
    why: "RabbitMQ asks for one only if it was told to",
    secret: false,
};

pub(crate) static RABBITMQ_KEY_FILE: Setting = Setting {
    name: "rabbitmq_key_file",
    variable: "WORKER_RABBITMQ_KEY_FILE",
    flag: None,
    meaning: "the file of that certificate's key, as PEM",
    form: "a path",
    default: "no key",
    why: "belongs to the certificate",
    secret: false,
};

pub(crate) static RABBITMQ_SERVER_NAME: Setting = Setting {
    name: "rabbitmq_server_name",
    variable: "WORKER_RABBITMQ_SERVER_NAME",
    flag: None,
    meaning: "with `amqps`: the name that RabbitMQ's certificate must have",
    form: "a host's name or an address",
    default: "the host's name",
    why: "a certificate is for the host as a rule; behind a proxy or a tunnel it is for another name",
    secret: false,
};

pub(super) static RABBITMQ_MANAGEMENT_URL: Setting = Setting {
    name: "rabbitmq_management_url",
    variable: "WORKER_RABBITMQ_MANAGEMENT_URL",
    flag: None,
    meaning: "where RabbitMQ's management API is, by which `queues` and `health` know how many jobs workers hold",
    form: "`http://HOST:15672` or `https://USER:PASSWORD@HOST:15671`; without a user, the broker's asks",
    default: "no API",
    why: "AMQP does all the rest, and the API is often switched off or out of reach",
    secret: true,
};

pub(super) static LOG_FORMAT: Setting = Setting {
    name: "log_format",
    variable: "WORKER_LOG_FORMAT",
    flag: None,
    meaning: "how log lines look on standard error",
    form: "`auto`, `pretty` or `json`",
    default: "auto",
    why: "pretty on a terminal, JSON for whatever collects logs",
    secret: false,
};

/// Every setting there is.
pub static SETTINGS: [&Setting; 27] = [
    &BROKER_URL,
    &QUEUES,
    &CONCURRENCY,
    &PREFETCH,
    &SHUTDOWN_GRACE,
    &ADMIN,
    &TOPOLOGY,
    &UNKNOWN_JOB_PATIENCE,
    &ENQUEUE_TIMEOUT,
    &CONNECT_TIMEOUT,
    &PAYLOAD_MAX,
    &SQLITE_SYNCHRONOUS,
    &SQLITE_BUSY_TIMEOUT,
    &SQLITE_LEASE,
    &RABBITMQ_HEARTBEAT,
    &RABBITMQ_CONFIRM_TIMEOUT,
    &RABBITMQ_QUEUE_TYPE,
    &RABBITMQ_CONSUMER_TIMEOUT,
    &RABBITMQ_CHANNELS,
    &RABBITMQ_REPLY_QUEUES,
    &RABBITMQ_NAMESPACE,
    &RABBITMQ_CA_FILE,
    &RABBITMQ_CERT_FILE,
    &RABBITMQ_KEY_FILE,
    &RABBITMQ_SERVER_NAME,
    &RABBITMQ_MANAGEMENT_URL,
    &LOG_FORMAT,
];
