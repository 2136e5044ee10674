//! Log lines on standard error: pretty for a person, JSON for a collector.
//!
//! A JSON line has `timestamp`, `level`, `target`, `message`, the event's own
//! fields, and `span` with `job`, `job_id`, `queue` and `attempt` where it is
//! about a job.

use std::{
    fmt::{self, Debug, Write as _},
    io::{self, IsTerminal as _, Write},
};

use tracing::{Level, Metadata, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    filter::filter_fn,
    fmt::{MakeWriter, SubscriberBuilder, format, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use crate::{
    cli::{
        exit,
        fail::Fail,
        out::{escape, escape_json, wants_style},
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
    if pretty {
        install(lines_for_people(filter, io::stderr, terminal && wants_style()));
    } else {
        install(lines_for_machines(filter, io::stderr));
    }
    Ok(())
}

fn install(subscriber: impl Subscriber + Send + Sync + for<'a> LookupSpan<'a>) {
    drop(tracing::subscriber::set_global_default(subscriber.with(filter_fn(is_harmless))));
}

fn lines_for_people<W>(filter: EnvFilter, writer: W, style: bool) -> impl Subscriber + for<'a> LookupSpan<'a>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = format::debug_fn(write_field).delimited(" ");
    SubscriberBuilder::default()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(style)
        .fmt_fields(fields)
        .compact()
        .finish()
}

/// One field on one line, whoever wrote the text: a server's word with a line's end in it would be a line of its own.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let mut text = String::new();
    // An error of the value's own is passed on: `format!` would panic.
    write!(text, "{value:?}")?;
    let value = text;
    match field.name() {
        "message" => writer.write_str(&escape(&value)),
        name => write!(writer, "{name}={}", escape(&value)),
    }
}

fn lines_for_machines<W>(filter: EnvFilter, writer: W) -> impl Subscriber + for<'a> LookupSpan<'a>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = SubscriberBuilder::default().with_env_filter(filter).with_ansi(false);
    lines.with_writer(Printable(writer)).json().flatten_event(true).with_span_list(false).finish()
}

/// Lines of JSON, without what a terminal acts on and JSON leaves as it is: they are also looked at on one.
struct Printable<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Printable<W> {
    type Writer = Printable<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Printable(self.0.make_writer())
    }
}

impl<W: Write> Write for Printable<W> {
    /// Of whole lines, as they come.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(escape_json(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged of these words by a server, a job and a name.
    fn logged(log: impl FnOnce(Arc<Mutex<Vec<u8>>>) -> tracing::Dispatch) -> String {
        const HOSTILE: &str = "refused\n2026-11-29 INFO all is well\u{1b}[2J\u{9b}31m\u{202e}\r";
        let written = Arc::<Mutex<Vec<u8>>>::default();
        tracing::dispatcher::with_default(&log(Arc::clone(&written)), || {
            let _job = tracing::info_span!("job", job_id = %HOSTILE).entered();
            tracing::info!(error = %HOSTILE, kind = HOSTILE, "it said {HOSTILE}");
        });
        let written = written.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn one_event_is_one_line_on_which_a_terminal_acts_in_nothing() {
        let filter = || EnvFilter::new("info");
        let people = logged(|to| lines_for_people(filter(), move || To(Arc::clone(&to)), false).into());
        let machines = logged(|to| lines_for_machines(filter(), move || To(Arc::clone(&to))).into());
        for log in [&people, &machines] {
            let line = log.strip_suffix('\n').unwrap();
            assert_eq!(escape(line), line);
            assert_eq!(line.matches("all is well").count(), 4, "{line}");
        }
        assert!(people.contains("it said refused\\n2026") && people.contains("error=refused\\n"), "{people}");
        let machines: serde_json::Value = serde_json::from_str(&machines).unwrap();
        assert!(machines["message"].as_str().unwrap().ends_with("\u{9b}31m\u{202e}\r"), "JSON says the same");
    }

    /// As a date does that is told to be shown in a way that there is not.
    struct Unshowable;

    impl fmt::Display for Unshowable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }

    #[test]
    fn a_value_that_cannot_be_shown_panics_in_no_log_call() {
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let to = Arc::clone(&written);
        let people = lines_for_people(EnvFilter::new("info"), move || To(Arc::clone(&to)), false);
        tracing::subscriber::with_default(people, || {
            tracing::info!(date = %Unshowable, "at {Unshowable}");
            tracing::info!("and the next");
        });
        assert!(String::from_utf8(written.lock().unwrap().clone()).unwrap().contains("and the next"));
    }

    struct To(Arc<Mutex<Vec<u8>>>);

    impl Write for To {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

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
