//! The page of metrics, and the recorder that it is made of.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::telemetry::{SECONDS_BUCKETS, TARGET, describe_metrics};

/// Where the process's metrics are.
pub(super) enum Page {
    /// In our recorder.
    Ours(PrometheusHandle),
    /// In a recorder of the application's.
    Elsewhere,
}

impl Page {
    /// Installs a recorder where there is none.
    pub(super) fn install() -> Self {
        let ours = PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS).and_then(PrometheusBuilder::install_recorder);
        match ours {
            Ok(handle) => {
                describe_metrics();
                Self::Ours(handle)
            }
            Err(error) => {
                tracing::info!(target: TARGET, %error, "the application records metrics by itself; `/metrics` has none");
                Self::Elsewhere
            }
        }
    }

    /// The text of the page; none where the metrics are elsewhere.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Ours(handle) => Some(handle.render()),
            Self::Elsewhere => None,
        }
    }

    /// Frees what was recorded since the last time, which is kept raw until then. To be called every few seconds.
    pub(super) fn tidy_up(&self) {
        if let Self::Ours(handle) = self {
            handle.run_upkeep();
        }
    }
}
