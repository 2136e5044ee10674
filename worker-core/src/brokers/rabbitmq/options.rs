//! Where the server is, who we are, and how queues are declared.

use std::{fmt, num::NonZeroU8, time::Duration};

use crate::queue::QueueType;

/// Pauses between two signs of life on a connection: 15 s, so that a dead peer is
/// noticed within 30 s. RabbitMQ's own default, 60 s, takes two minutes.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

/// How long a publish may take until its fate is unknown: 10 s. A confirm takes
/// milliseconds, and seconds where a cluster elects a new leader.
pub const CONFIRM_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Channels that publish: one, on which 500 publishes are on their way at once.
///
/// Two are a tenth faster where hundreds of tasks each wait for an enqueue of their own, and a tenth slower
/// with batches (`cargo bench-channels`: 1.13 and 0.88 of one channel's rate over 8 queues); one queue keeps
/// its order by staying on one channel, and gains nothing.
pub const CHANNELS_DEFAULT: NonZeroU8 = NonZeroU8::MIN;

/// Queues that replies may go to: those that the server has named, as a caller declares them for itself, and those
/// that aio-pika's `connect_robust` names in their place (`amq_` and 32 digits), since it must find them again.
pub const REPLY_QUEUES_DEFAULT: [&str; 2] = ["amq.gen-*", "amq_*"];

/// How long the server lets a worker hold a job: its own default, 30 min. From RabbitMQ 4.3 on the worker says it.
pub const CONSUMER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// How long connecting may take at the start: 30 s, a restart of a node.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The prefix of the queues that all programs on a vhost share.
pub const NAMESPACE_DEFAULT: &str = "worker";

/// Where a RabbitMQ server is, who we are, and how queues are declared.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RabbitOptions {
    /// Nodes of one cluster, tried in turn: names or addresses, with ports.
    pub hosts: Vec<(String, u16)>,
    /// The virtual host. Default `/`.
    pub vhost: String,
    /// Who we are. Default `guest`, which a server lets in from its own machine only.
    pub credentials: Credentials,
    /// TLS, with the server's certificate verified; `None` for none.
    pub tls: Option<Tls>,
    /// See [`HEARTBEAT_DEFAULT`]; whole seconds, at least one.
    pub heartbeat: Duration,
    /// See [`CONFIRM_TIMEOUT_DEFAULT`].
    pub confirm_timeout: Duration,
    /// See [`CONNECT_TIMEOUT_DEFAULT`].
    pub connect_timeout: Duration,
    /// What type of queue is declared where there is none, and its jobs ask for none. Default [`QueueType::Quorum`].
    pub queue_type: QueueType,
    /// The server's `consumer_timeout`, where it is not the default: see [`CONSUMER_TIMEOUT_DEFAULT`]. A worker whose
    /// jobs may run longer does not start.
    pub consumer_timeout: Duration,
    /// Channels that publish, see [`CHANNELS_DEFAULT`]. What goes to one queue goes by one of them.
    pub channels: NonZeroU8,
    /// Queues that replies may go to, beside callers that are answered directly: names, or beginnings of
    /// names with a `*` at the end. Whoever can enqueue chooses where the reply goes; without this list it
    /// could have the worker write into any queue. See [`REPLY_QUEUES_DEFAULT`].
    pub reply_queues: Vec<String>,
    /// The server's management API, which tells how many jobs workers hold; AMQP does not. `None`, the default: that is
    /// not known.
    pub management: Option<Management>,
    /// Whether queues, exchanges and bindings that are missing are declared. Default `true`. If not, somebody else
    /// declares what [`plan`](Self::plan) says, and what is missing is an error that names it.
    pub declare: bool,
    /// See [`NAMESPACE_DEFAULT`].
    pub namespace: String,
    /// What this program calls itself towards the server, at most 100 bytes. Default `worker`.
    pub app_id: String,
}

impl Default for RabbitOptions {
    fn default() -> Self {
        Self {
            hosts: vec![("localhost".into(), 5672)],
            vhost: "/".into(),
            credentials: Credentials::new("guest", "guest"),
            tls: None,
            heartbeat: HEARTBEAT_DEFAULT,
            confirm_timeout: CONFIRM_TIMEOUT_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            queue_type: QueueType::default(),
            consumer_timeout: CONSUMER_TIMEOUT_DEFAULT,
            channels: CHANNELS_DEFAULT,
            reply_queues: REPLY_QUEUES_DEFAULT.map(Into::into).into(),
            management: None,
            declare: true,
            namespace: NAMESPACE_DEFAULT.into(),
            app_id: "worker".into(),
        }
    }
}

/// A user and a password, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl Credentials {
    /// Of this user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a server's management API is, and who asks it.
///
/// It is asked by [`health`](crate::Client::health) and by the command `queues`, for numbers that are up to 5 s old.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Management {
    /// The host: a name or an address.
    pub host: String,
    /// The port. Default 15672.
    pub port: u16,
    /// What stands before `/api` (`management.path_prefix`). Default nothing.
    pub path: String,
    /// TLS, as for the broker, with the server's certificate verified; `None`, the default, for none.
    pub tls: Option<Tls>,
    /// Who asks: a user with the tag `management` and a right in the virtual host. `None`, the default, for the
    /// broker's user.
    pub credentials: Option<Credentials>,
}

impl Management {
    /// At `host`, with all the defaults.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), port: 15_672, path: String::new(), tls: None, credentials: None }
    }
}

/// How TLS is done. The server's certificate is always verified.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// Certificates of authorities to trust beside the system's, PEM.
    pub authorities: Option<String>,
    /// A certificate of our own and its key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must have, where it is not the host's: behind a proxy or a
    /// tunnel, say. `None` for the host's name.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
