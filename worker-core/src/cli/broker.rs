//! The broker of a command: connected to, with what a person can do when that fails.

use std::{io, sync::Arc, time::Duration};

use crate::{
    broker::Inspector,
    cli::{exit, fail::Fail},
    client::Client,
    config::{Settings, Target},
    name::QueueName,
    registry::Registry,
    telemetry::TARGET,
};

/// Whether a command may make the database that it finds missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
}

/// How long a command waits for the broker to let go of everything.
pub(super) const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Does a command's work on what other processes work on, and closes the broker behind it.
pub(super) async fn with_client<T>(
    settings: &Settings,
    missing: Missing,
    work: impl AsyncFnOnce(&Client) -> Result<T, Fail>,
) -> Result<T, Fail> {
    check(settings, missing)?;
    let client = settings.connect().await?;
    let done = work(&client).await;
    close(&client, CLOSE_WAIT_MAX).await;
    done
}

/// Lets go of the broker; what is not finished by then loses nothing.
pub(super) async fn close(client: &Client, within: Duration) {
    if let Ok(Err(error)) = tokio::time::timeout(within, client.close()).await {
        tracing::warn!(target: TARGET, error = error.detail(), "the broker was not closed cleanly");
    }
}

/// What can be known without connecting.
pub(super) fn check(settings: &Settings, missing: Missing) -> Result<(), Fail> {
    let origin = settings.entries().iter().find(|entry| entry.setting.name == "broker_url");
    let origin = origin.map(crate::config::Entry::origin_text).unwrap_or_default();
    match settings.broker_url.target() {
        Target::Memory => {
            let message = "the jobs of `memory:` live inside one process, so this command could not see another's";
            Err(Fail::new(exit::CONFIG, message).hint(format_args!(
                "name a file that the processes share: `sqlite:PATH` (`memory:` is from: {origin})"
            )))
        }
        Target::Sqlite(path) if missing == Missing::Refuse => match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                Err(Fail::new(exit::UNAVAILABLE, format_args!("there is no database at `{}`", whole.display())).hint(
                    format_args!(
                        "`run` and `enqueue` create it; if the jobs are elsewhere, say so with `--broker sqlite:PATH` or \
                         WORKER_BROKER_URL (`{}` is from: {origin})",
                        settings.broker_url
                    ),
                ))
            }
            // Anything else is found, and said better, by opening it.
            _ => Ok(()),
        },
        Target::Sqlite(_) | Target::Amqp(_) => Ok(()),
    }
}

/// The queues that a command can name to a broker that cannot list its own: those of the registered jobs and
/// those that WORKER_QUEUES adds.
pub(super) fn known_queues(settings: &Settings, registry: &Registry) -> Vec<QueueName> {
    let mut known = registry.queues();
    known.extend(settings.queues.iter().flatten().map(|served| served.queue.clone()));
    known.sort_unstable();
    known.dedup();
    known
}

/// The broker's view for people, where it must know where the dead letters of the registered jobs are.
pub(super) fn inspector_of(client: &Client, registry: &Registry) -> Result<Arc<dyn Inspector>, Fail> {
    registry.queues().iter().for_each(|queue| client.broker().know(&registry.topology(queue)));
    inspector(client)
}

/// The broker's view for people.
pub(super) fn inspector(client: &Client) -> Result<Arc<dyn Inspector>, Fail> {
    let broker = client.broker();
    broker.inspector().ok_or_else(|| {
        Fail::new(exit::FAILURE, format_args!("the {} broker cannot be looked into", broker.capabilities().broker))
    })
}
