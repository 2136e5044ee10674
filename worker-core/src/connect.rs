//! From a URL to a client: the one place where an application's text chooses a broker.

use std::sync::Arc;
#[cfg(feature = "rabbitmq")]
use std::time::Duration;

use crate::{
    broker::{Broker, Needs, Plan},
    brokers::memory::MemoryBroker,
    client::{Client, ClientOptions},
    config::{Settings, Target},
    error::{ConfigError, ConnectError},
    telemetry::TARGET,
};

impl Client {
    /// Connects to the broker of this URL.
    ///
    /// | URL | broker |
    /// |---|---|
    /// | `sqlite:jobs.db` | the embedded broker, in this file, which is created if missing |
    /// | `amqp://USER:PASSWORD@HOST/VHOST`, `amqps://…` | RabbitMQ, with the feature `rabbitmq` |
    /// | `memory:` | jobs in this process's memory, for tests and trials |
    ///
    /// A RabbitMQ broker is tried for up to `WORKER_CONNECT_TIMEOUT`'s default, 30 s, or the
    /// URL's `connection_timeout`; once it was reached, a lost connection is made again by itself.
    ///
    /// The environment is not read: everything but the URL is at its default.
    /// [`from_env`](Self::from_env) reads it.
    ///
    /// # Errors
    ///
    /// * [`ConnectError::Config`] — the URL is none of these; the message says
    ///   what is, and never repeats what may be a password.
    /// * [`ConnectError::Broker`] — the broker could not be opened or reached.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing but the file is left behind.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let settings = Settings::of_url(url.parse()?)?;
        settings.warn();
        settings.connect().await
    }

    /// Connects as the variables of this process say; where none names a
    /// broker, to `sqlite:jobs.db`.
    ///
    /// # Errors
    ///
    /// * [`ConnectError::Config`] — everything that is wrong with the variables.
    /// * [`ConnectError::Broker`] — the broker could not be opened or reached.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing but the file is left behind.
    pub async fn from_env() -> Result<Self, ConnectError> {
        let settings = Settings::from_env()?;
        settings.warn();
        settings.connect().await
    }
}

impl Settings {
    /// Everything that must exist in the broker of these settings for `needs`. Nobody is asked: it needs no
    /// connection. [`Registry::needs`](crate::Registry::needs) has those of a program's jobs.
    #[must_use]
    pub fn plan(&self, needs: &Needs) -> Plan {
        match self.broker_url.target() {
            #[cfg(feature = "rabbitmq")]
            Target::Amqp(url) => self.rabbit_options(url).plan(needs),
            _ => Plan::plain(needs),
        }
    }

    /// Connects as these settings say.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing but the file is left behind.
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        let broker: Arc<dyn Broker> = match self.broker_url.target() {
            Target::Memory => Arc::new(MemoryBroker::new()),
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => Arc::new(self.open(path).await?),
            #[cfg(feature = "rabbitmq")]
            Target::Amqp(url) => self.dial(url).await?,
            #[cfg(not(all(feature = "sqlite", feature = "rabbitmq")))]
            _ => return Err(ConfigError::new(self.broker_url.unsupported().into_iter().collect()).into()),
        };
        let mut options = ClientOptions::default();
        (options.enqueue_timeout, options.payload_bytes_max) = (self.enqueue_timeout, self.payload_bytes_max);
        Ok(Client::with_options(broker, options))
    }

    fn warn(&self) {
        for warning in self.warnings() {
            tracing::warn!(target: TARGET, "{warning}");
        }
    }

    /// All but what is read from files.
    #[cfg(feature = "rabbitmq")]
    fn rabbit_options(&self, url: &crate::config::AmqpUrl) -> crate::brokers::rabbitmq::RabbitOptions {
        use crate::{
            brokers::rabbitmq::{Credentials, RabbitOptions},
            config::{RabbitmqQueueType, TopologyMode},
            queue::QueueType,
        };
        RabbitOptions {
            hosts: url.hosts.iter().map(|host| (host.name.clone(), host.port)).collect(),
            vhost: url.vhost.clone(),
            credentials: Credentials::new(url.user.clone(), url.password.expose()),
            heartbeat: self.rabbitmq_heartbeat,
            confirm_timeout: self.publish_timeout(),
            connect_timeout: self.connect_timeout,
            consumer_timeout: self.rabbitmq_consumer_timeout,
            channels: self.rabbitmq_channels,
            reply_queues: self.rabbitmq_reply_queues.clone(),
            namespace: self.rabbitmq_namespace.clone(),
            queue_type: match self.rabbitmq_queue_type {
                RabbitmqQueueType::Quorum => QueueType::Quorum,
                RabbitmqQueueType::Classic => QueueType::Classic,
            },
            declare: self.topology == TopologyMode::Apply,
            ..RabbitOptions::default()
        }
    }

    #[cfg(feature = "rabbitmq")]
    async fn dial(&self, url: &crate::config::AmqpUrl) -> Result<Arc<dyn Broker>, ConnectError> {
        use crate::{
            brokers::rabbitmq::{RabbitBroker, Tls, check_certificates, check_key},
            config::table::{RABBITMQ_CA_FILE, RABBITMQ_CERT_FILE, RABBITMQ_KEY_FILE},
        };
        let mut options = self.rabbit_options(url);
        let management = self.rabbitmq_management_url.as_ref();
        if url.tls || management.is_some_and(|url| url.tls) {
            let mut tls = Tls::default();
            if let Some(path) = &self.rabbitmq_ca_file {
                let pem = read(&RABBITMQ_CA_FILE, path, check_certificates)?;
                tls.authorities = Some(String::from_utf8_lossy(&pem).into_owned());
            }
            if let (Some(certificate), Some(key)) = (&self.rabbitmq_cert_file, &self.rabbitmq_key_file) {
                let certificate = read(&RABBITMQ_CERT_FILE, certificate, check_certificates)?;
                tls.identity = Some((certificate, read(&RABBITMQ_KEY_FILE, key, check_key)?));
            }
            // It is the broker's: an API is behind another proxy, or none.
            options.management = management.map(|url| asked_at(url, url.tls.then(|| tls.clone())));
            tls.server_name.clone_from(&self.rabbitmq_server_name);
            options.tls = url.tls.then_some(tls);
        } else {
            options.management = management.map(|url| asked_at(url, None));
        }
        if let Some(name) = std::env::args_os().next() {
            let name = std::path::Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
            options.app_id = name.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        }
        Ok(Arc::new(RabbitBroker::connect(options).await?))
    }

    /// How long a publish may take: no longer than its enqueue.
    #[cfg(feature = "rabbitmq")]
    fn publish_timeout(&self) -> Duration {
        self.rabbitmq_confirm_timeout.min(self.enqueue_timeout)
    }

    #[cfg(feature = "sqlite")]
    async fn open(
        &self,
        path: &std::path::Path,
    ) -> Result<crate::brokers::sqlite::SqliteBroker, crate::error::BrokerError> {
        use crate::{
            brokers::sqlite::{SqliteBroker, SqliteOptions, Synchronous},
            config::SqliteSynchronous,
        };
        let synchronous = match self.sqlite_synchronous {
            SqliteSynchronous::Full => Synchronous::Full,
            SqliteSynchronous::Normal => Synchronous::Normal,
        };
        let (busy_timeout, lease) = (self.sqlite_busy_timeout, self.sqlite_lease);
        SqliteBroker::open(path, SqliteOptions { synchronous, busy_timeout, lease }).await
    }
}

/// Where the management API of these settings is.
#[cfg(feature = "rabbitmq")]
fn asked_at(
    url: &crate::config::ManagementUrl,
    tls: Option<crate::brokers::rabbitmq::Tls>,
) -> crate::brokers::rabbitmq::Management {
    use crate::brokers::rabbitmq::{Credentials, Management};

    let mut management = Management::new(url.host.clone());
    (management.port, management.path, management.tls) = (url.port, url.path.clone(), tls);
    management.credentials =
        url.user.as_ref().map(|(user, password)| Credentials::new(user.clone(), password.expose()));
    management
}

/// The content of a file that a setting names, which must be what `check` says.
#[cfg(feature = "rabbitmq")]
fn read(
    setting: &crate::config::Setting,
    path: &std::path::Path,
    check: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Vec<u8>, ConfigError> {
    let (name, file) = (setting.variable, path.display());
    let wrong = |what: String| ConfigError::new(vec![format!("{name}: `{file}` {what}")]);
    let content = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    check(&content).map_err(wrong)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "rabbitmq")]
    use crate::error::BrokerErrorKind;

    #[tokio::test]
    async fn a_url_chooses_the_broker() {
        let client = Client::connect("Memory:").await.unwrap();
        assert_eq!(client.broker().capabilities().broker, "memory");
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_file_is_created_where_the_url_says() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("jobs.db");
        let client = Client::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        assert_eq!(client.broker().capabilities().broker, "sqlite");
        client.close().await.unwrap();
        assert!(path.exists());
    }

    #[cfg(not(feature = "rabbitmq"))]
    #[tokio::test]
    async fn a_broker_that_this_program_lacks_is_named_without_the_password() {
        let error = Client::connect("amqp://user:hunter2@host").await.unwrap_err();
        assert!(matches!(error, ConnectError::Config(_)));
        let text = format!("{error} {error:?}");
        assert!(text.contains("the feature `rabbitmq`") && text.contains("`sqlite:PATH`"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[cfg(feature = "rabbitmq")]
    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_without_the_password() {
        // Nothing listens on port 1.
        let url = "amqp://user:hunter2@127.0.0.1:1?connection_timeout=1";
        let error = Client::connect(url).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Broker(error) if error.kind() == BrokerErrorKind::Transient), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("RabbitMQ cannot be reached") && !text.contains("hunter2"), "{text}");
    }
}
