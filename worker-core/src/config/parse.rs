//! From a setting's text to its value.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU8,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::{
    config::{LogFormat, RabbitmqQueueType, ServedQueue, SqliteSynchronous, TopologyMode, table},
    name::QueueName,
    retry::DELAY_MAX,
    worker::CONCURRENCY_MAX,
};

/// Why a text is no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It has not the form that the table describes.
    Form,
    /// Something that can be said better, as the end of a sentence that begins with the value.
    Because(String),
}

use Misfit::{Because, Form};

const DAY: Duration = Duration::from_secs(86_400);
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn concurrency(text: &str) -> Result<usize, Misfit> {
    count(text, CONCURRENCY_MAX)
}

pub(super) fn prefetch(text: &str) -> Result<usize, Misfit> {
    count(text, usize::from(u16::MAX))
}

fn count(text: &str, max: usize) -> Result<usize, Misfit> {
    text.parse().ok().filter(|count| (1..=max).contains(count)).ok_or(Form)
}

pub(super) fn shutdown_grace(text: &str) -> Result<Duration, Misfit> {
    bounded(text, Duration::ZERO, 7 * DAY)
}

pub(super) fn unknown_job_patience(text: &str) -> Result<Duration, Misfit> {
    bounded(text, Duration::ZERO, DELAY_MAX)
}

pub(super) fn enqueue_timeout(text: &str) -> Result<Duration, Misfit> {
    bounded(text, MS, HOUR)
}

pub(super) fn connect_timeout(text: &str) -> Result<Duration, Misfit> {
    bounded(text, MS, table::CONNECT_TIMEOUT_MAX)
}

pub(super) fn sqlite_busy_timeout(text: &str) -> Result<Duration, Misfit> {
    bounded(text, MS, HOUR / 6)
}

pub(super) fn sqlite_lease(text: &str) -> Result<Duration, Misfit> {
    bounded(text, table::SQLITE_LEASE_MIN, HOUR)
}

/// In whole seconds, as the protocol counts them.
pub(super) fn rabbitmq_heartbeat(text: &str) -> Result<Duration, Misfit> {
    let beat = bounded(text, table::HEARTBEAT_MIN, table::HEARTBEAT_MAX)?;
    if beat.subsec_nanos() == 0 { Ok(beat) } else { Err(Form) }
}

pub(super) fn rabbitmq_confirm_timeout(text: &str) -> Result<Duration, Misfit> {
    bounded(text, MS, HOUR)
}

pub(super) fn rabbitmq_consumer_timeout(text: &str) -> Result<Duration, Misfit> {
    bounded(text, 1_000 * MS, 366 * 24 * HOUR)
}

pub(super) fn rabbitmq_channels(text: &str) -> Result<NonZeroU8, Misfit> {
    text.trim().parse::<NonZeroU8>().ok().filter(|count| count.get() <= 64).ok_or(Form)
}

/// A name as a certificate has it.
pub(super) fn rabbitmq_server_name(text: &str) -> Result<String, Misfit> {
    let is_name = !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
    if is_name { Ok(text.into()) } else { Err(Form) }
}

/// Names of queues, or beginnings of names; none for none.
pub(super) fn rabbitmq_reply_queues(text: &str) -> Result<Vec<String>, Misfit> {
    let names: Vec<String> =
        text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let is_name = |name: &String| {
        let plain = name.strip_suffix('*').unwrap_or(name);
        name.len() <= 255 && !plain.contains('*') && plain.chars().all(|c| !c.is_control() && !c.is_whitespace())
    };
    if names.iter().all(is_name) { Ok(names) } else { Err(Form) }
}

fn bounded(text: &str, min: Duration, max: Duration) -> Result<Duration, Misfit> {
    let value = duration(text).map_err(Because)?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(Form) }
}

/// `127.0.0.1:9091`, `[::1]:9091`, `9091` or `off`. Names are not looked up: one address is meant.
pub(super) fn admin(text: &str) -> Result<Option<SocketAddr>, Misfit> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let port = text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let address = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(|| text.parse().ok());
    address.map(Some).ok_or(Form)
}

/// A duration with its unit. The error continues a sentence that begins with the text.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("needs a unit: write `{text}s`"));
    }
    humantime::parse_duration(text).map_err(|_| "is no duration; write `500ms`, `30s`, `5m` or `1h 30m`".into())
}

/// A size in bytes; units of 1024 (`KiB`, `MiB`) and of 1000 (`kB`, `MB`).
pub(super) fn payload_max(text: &str) -> Result<usize, Misfit> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        _ => return Err(Form),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| (1..=table::PAYLOAD_BYTES_LIMIT).contains(bytes)).ok_or(Form)
}

/// `emails=4,orders`.
pub(super) fn queues(text: &str) -> Result<Vec<ServedQueue>, Misfit> {
    let mut served: Vec<ServedQueue> = Vec::new();
    for part in text.split(',') {
        let (name, slots) = match part.split_once('=') {
            Some((name, slots)) => (name.trim(), Some(slots.trim())),
            None => (part.trim(), None),
        };
        if name.is_empty() {
            return Err(Because("has a name that is empty; write `emails=4,orders`".into()));
        }
        let queue = QueueName::from_str(name).map_err(|problem| Because(format!("is no list of queues: {problem}")))?;
        if served.iter().any(|other| other.queue == queue) {
            return Err(Because(format!("names queue `{queue}` twice")));
        }
        let slots = slots.map(concurrency).transpose().map_err(|_| {
            Because(format!("has no good number of slots for queue `{queue}`; write `{queue}=N`, N from 1 to 10000"))
        })?;
        served.push(ServedQueue { queue, slots });
    }
    Ok(served)
}

pub(super) fn topology(text: &str) -> Result<TopologyMode, Misfit> {
    match text.to_ascii_lowercase().as_str() {
        "apply" => Ok(TopologyMode::Apply),
        "check" => Ok(TopologyMode::Check),
        _ => Err(Form),
    }
}

pub(super) fn sqlite_synchronous(text: &str) -> Result<SqliteSynchronous, Misfit> {
    match text.to_ascii_lowercase().as_str() {
        "full" => Ok(SqliteSynchronous::Full),
        "normal" => Ok(SqliteSynchronous::Normal),
        _ => Err(Form),
    }
}

pub(super) fn rabbitmq_queue_type(text: &str) -> Result<RabbitmqQueueType, Misfit> {
    match text.to_ascii_lowercase().as_str() {
        "quorum" => Ok(RabbitmqQueueType::Quorum),
        "classic" => Ok(RabbitmqQueueType::Classic),
        _ => Err(Form),
    }
}

/// The rules are those of a queue's name, and RabbitMQ keeps `amq.` to itself.
pub(super) fn rabbitmq_namespace(text: &str) -> Result<String, Misfit> {
    let name = QueueName::from_str(text).map_err(|_| Form)?;
    if text.starts_with("amq.") { Err(Form) } else { Ok(name.to_string()) }
}

/// A file's path, taken as it is.
pub(super) fn path(text: &str) -> Result<PathBuf, Misfit> {
    match text {
        "" => Err(Form),
        _ if text == "~" || text.starts_with("~/") => {
            Err(Because("begins with `~`, which only a shell expands; write the whole path".into()))
        }
        _ => Ok(text.into()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Misfit> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(LogFormat::Auto),
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err(Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(text: &str) -> Vec<(String, Option<usize>)> {
        queues(text).unwrap().into_iter().map(|served| (served.queue.to_string(), served.slots)).collect()
    }

    fn because(misfit: Misfit) -> String {
        match misfit {
            Because(text) => text,
            Form => "the form".into(),
        }
    }

    #[test]
    fn a_bare_number_is_told_its_unit() {
        assert_eq!(duration("30").unwrap_err(), "needs a unit: write `30s`");
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_secs(5_400));
        assert!(duration("soon").is_err() && duration("").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn a_value_outside_its_range_has_not_the_form() {
        assert_eq!(concurrency("0"), Err(Form));
        assert_eq!(concurrency("10001"), Err(Form));
        assert_eq!(prefetch("65536"), Err(Form));
        assert_eq!(sqlite_lease("999ms"), Err(Form));
        assert_eq!(shutdown_grace("8d"), Err(Form));
        assert_eq!(shutdown_grace("0s"), Ok(Duration::ZERO));
        assert_eq!(rabbitmq_heartbeat("0s"), Err(Form));
        assert_eq!(rabbitmq_heartbeat("1500ms"), Err(Form));
        assert_eq!(rabbitmq_heartbeat("301s"), Err(Form));
        assert_eq!(rabbitmq_heartbeat("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(payload_max("16MiB"), Err(Form));
        assert_eq!(payload_max("99999999999999999999"), Err(Form));
    }

    #[test]
    fn a_size_is_bytes_or_has_a_unit() {
        for (text, bytes) in [("1", 1), ("65536", 65_536), ("64 KiB", 65_536), ("1MB", 1_000_000), ("15MiB", 15 << 20)]
        {
            assert_eq!(payload_max(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1mib", "1GiB", "-1"] {
            assert_eq!(payload_max(text), Err(Form), "{text}");
        }
    }

    #[test]
    fn a_namespace_can_begin_the_name_of_a_queue() {
        assert_eq!(rabbitmq_namespace("team-a.jobs"), Ok("team-a.jobs".into()));
        for text in ["", "a b", "amq.x", &"x".repeat(129)] {
            assert_eq!(rabbitmq_namespace(text), Err(Form), "{text}");
        }
    }

    #[test]
    fn an_admin_server_is_on_the_loopback_address_unless_another_is_written() {
        for (text, address) in [
            ("9091", "127.0.0.1:9091"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:9091", "0.0.0.0:9091"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(admin(text), Ok(Some(address.parse().unwrap())), "{text}");
        }
        assert_eq!(admin("OFF"), Ok(None));
        // `:9091` means every address elsewhere, which nobody should get by a short word.
        for text in [":9091", "65536", "+1", "localhost:9091", "127.0.0.1", "::1:80", "http://127.0.0.1:80", "on", ""] {
            assert_eq!(admin(text), Err(Form), "{text}");
        }
    }

    #[test]
    fn queues_have_slots_or_not() {
        assert_eq!(served("emails=4, orders"), [("emails".into(), Some(4)), ("orders".into(), None)]);
        for (text, part) in
            [("a,,b", "empty"), ("a=0", "`a=N`"), ("a=x", "`a=N`"), ("a,a=2", "twice"), ("a b", "contains a space")]
        {
            assert!(because(queues(text).unwrap_err()).contains(part), "{text}");
        }
    }
}
