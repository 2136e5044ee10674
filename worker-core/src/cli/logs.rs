//! Log lines on standard error: pretty for a person, JSON for a collector.
//!
//! A JSON line has `timestamp`, `level`, `target`, `message`, the event's own
//! fields, and `span` with `job`, `job_id`, `queue` and `attempt` where it is
//! about a job.

use std::io::{self, IsTerminal as _};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt as _, registry::LookupSpan};

use crate::{
    cli::{
        exit,
        fail::Fail,
        out::{escape, wants_style},
    },
    config::LogFormat,
};

const VARIABLE: &str = "RUST_LOG";

/// What is logged about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A worker, whose log is collected.
    Work,
    /// A command, which says something only when it must, beside its other messages.
    Command,
}

/// Logs from now on what `RUST_LOG` asks for, or what suits the purpose.
///
/// An application that has installed a subscriber of its own keeps it.
pub(super) fn start(format: LogFormat, purpose: Purpose) -> Result<(), Fail> {
    let level = match purpose {
        Purpose::Work => "info",
        Purpose::Command => "warn",
    };
    let filter = filter(std::env::var_os(VARIABLE).as_deref(), level)?;
    let terminal = io::stderr().is_terminal();
    let pretty = match format {
        LogFormat::Auto => terminal || purpose == Purpose::Command,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal && wants_style());
    if pretty {
        install(lines.compact().finish());
    } else {
        install(lines.json().flatten_event(true).with_span_list(false).finish());
    }
    Ok(())
}

fn install(subscriber: impl Subscriber + Send + Sync + for<'a> LookupSpan<'a>) {
    drop(tracing::subscriber::set_global_default(subscriber.with(filter_fn(is_harmless))));
}

/// What carries AMQP writes whole frames into its debug and trace lines: the
/// password of the handshake, and payloads.
const CARRIERS: [&str; 4] = ["amq_protocol", "async_rs", "tcp_stream", "rustls"];

/// This one also calls an error what is our question whether a queue exists.
/// What it fails at, it tells us, and we say it.
const SILENT: &str = "lapin";

/// Whether a line may be written, whatever `RUST_LOG` asks for.
fn is_harmless(line: &Metadata<'_>) -> bool {
    let root = line.target().split("::").next().unwrap_or_default();
    root != SILENT && (*line.level() <= Level::INFO || !CARRIERS.contains(&root))
}

fn filter(wanted: Option<&std::ffi::OsStr>, level: &str) -> Result<EnvFilter, Fail> {
    let bad = |text: &str, why: &str| {
        let text = escape(text);
        let message = format!("{VARIABLE} is `{text}`, which is no filter{why}");
        Fail::new(exit::CONFIG, message)
            .hint(format_args!("write `{VARIABLE}=debug` or `{VARIABLE}=info,worker=debug`"))
    };
    let wanted = match wanted.map(|text| text.to_str().ok_or(text)) {
        None | Some(Ok("")) => level,
        Some(Ok(text)) => text,
        Some(Err(text)) => return Err(bad(&text.to_string_lossy(), ": it is not UTF-8")),
    };
    EnvFilter::builder().parse(wanted).map_err(|error| bad(wanted, &format!(": {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_the_variable_or_the_commands_own() {
        assert_eq!(filter(None, "info").unwrap().to_string(), "info");
        assert_eq!(filter(Some("".as_ref()), "warn").unwrap().to_string(), "warn");
        assert_eq!(filter(Some("worker=debug".as_ref()), "warn").unwrap().to_string(), "worker=debug");
    }

    #[test]
    fn a_bad_filter_is_a_problem_of_the_configuration() {
        let fail = filter(Some("worker=loud".as_ref()), "info").unwrap_err();
        assert_eq!(fail.code, exit::CONFIG);
        assert!(format!("{fail:?}").contains("worker=loud"), "{fail:?}");
    }
}
