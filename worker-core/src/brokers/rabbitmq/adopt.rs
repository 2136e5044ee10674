//! Looks at queues that others declared: what they are, and whether a dead-letter queue loses what it holds.
//!
//! AMQP does not show a queue's arguments. It compares them: a declaration with
//! others is refused, and the refusal names the first that differs and what the
//! queue has. Taking that over and declaring again leads to what the queue was
//! declared with, without touching it ([`Declare::Compared`]). What a policy sets does not show.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::{
    brokers::rabbitmq::{
        declare::Declarer,
        inspect::LOOKS_KEPT,
        lapin_link::GUARD,
        link::{Declare, LinkError, LinkErrorKind},
        ranks::Nature,
        topology,
    },
    name::QueueName,
    telemetry::TARGET,
};

/// The most declarations for one queue: one per argument that RabbitMQ 3.10 to 4.3 compares, and one that is accepted.
const ROUNDS_MAX: usize = 16;

/// A kind of queue from which nothing is ever taken.
pub(super) const STREAM: &str = "stream";

/// Arguments by which a queue loses what nobody has taken, and what they do with it.
const LOSING: [(&str, &str); 5] = [
    (topology::MESSAGE_TTL, "drops a dead letter after so many milliseconds"),
    ("x-max-length", "drops the oldest above so many dead letters"),
    ("x-max-length-bytes", "drops the oldest above so many bytes"),
    ("x-delivery-limit", "drops a dead letter that was looked at more often"),
    ("x-expires", "is deleted with all dead letters after so many milliseconds without use"),
];

/// Warns of each argument by which the dead-letter queue of `queue` loses dead letters.
///
/// Where that cannot be learnt, for lack of the right to declare or of an answer, nothing is said.
pub(super) async fn warn_of_losses(declarer: &Declarer, queue: &QueueName) {
    let (name, asked) = (declarer.dead_letters(queue), declarer.asked(queue).dead_letter_ttl);
    match arguments(declarer, &name, declarer.dead_letter_arguments(queue)).await {
        Ok(None) => {}
        Ok(Some(Learnt { arguments, .. })) => {
            for (argument, value, what) in losses(&arguments, asked) {
                tracing::warn!(
                    target: TARGET,
                    queue = name,
                    argument,
                    value,
                    "the dead-letter queue was declared by others, with an argument by which it {what}"
                );
            }
        }
        Err(error) => {
            tracing::debug!(target: TARGET, queue = name, %error, "what a dead-letter queue was declared with cannot be learnt");
        }
    }
}

/// What the queue `name` is: `None` where it does not exist, `Some(None)` where that cannot be learnt.
pub(super) async fn nature(
    declarer: &Declarer,
    name: &str,
    guess: FieldTable,
) -> Result<Option<Option<Nature>>, LinkError> {
    match arguments(declarer, name, guess).await {
        Ok(None) => Ok(None),
        Ok(Some(Learnt { arguments, whole })) => Ok(Some(whole.then(|| Nature::read(&arguments)))),
        Err(error) if error.kind == LinkErrorKind::Refused => {
            tracing::debug!(target: TARGET, queue = name, %error, "what a queue was declared with cannot be learnt");
            Ok(Some(None))
        }
        Err(error) => Err(error),
    }
}

/// What a queue was declared with.
pub(super) struct Learnt {
    pub(super) arguments: FieldTable,
    /// All of it, as opposed to what was learnt until the server said something else.
    whole: bool,
}

/// What the queue `name` was declared with, beginning with a guess; `None` where it does not exist. It makes none.
pub(super) async fn arguments(
    declarer: &Declarer,
    name: &str,
    mut wanted: FieldTable,
) -> Result<Option<Learnt>, LinkError> {
    for _ in 0..ROUNDS_MAX {
        let channel = declarer.channel().await?;
        match channel.declare(name, Declare::Compared(wanted.clone())).await {
            Ok(_) => {
                channel.close().await;
                return Ok(Some(Learnt { arguments: wanted, whole: true }));
            }
            Err(error) if error.kind == LinkErrorKind::Mismatch => match conflict(&error.text, &wanted) {
                // Only a stream looks at that one.
                Some((argument, _)) if argument.as_str() == GUARD => {
                    wanted.insert("x-queue-type".into(), AMQPValue::LongString(STREAM.into()));
                    return Ok(Some(Learnt { arguments: wanted, whole: false }));
                }
                Some((argument, current)) => wanted = adopted(&wanted, &argument, current),
                None if error.text.contains("invalid arg") => return Ok(None),
                // It differs in more than arguments, or in words that no version we know uses.
                None => break,
            },
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Learnt { arguments: wanted, whole: false }))
}

/// The argument that differs from `wanted`, with what the queue has, `None` for nothing.
///
/// `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value '1' of type 'signedint'`,
/// and where both have it, without its type: `received '2' but current is '1'`.
fn conflict(told: &str, wanted: &FieldTable) -> Option<(ShortString, Option<AMQPValue>)> {
    let (argument, rest) = told.split_once("inequivalent arg '")?.1.split_once('\'')?;
    // Whether it is durable, say, is no argument.
    let argument = ShortString::try_new(argument).ok().filter(|name| name.as_str().starts_with("x-"))?;
    // The last of them: a text of ours before it may hold anything.
    let (_, current) = rest.rsplit_once("but current is ")?;
    if current.starts_with("none") {
        return Some((argument, None));
    }
    let (text, kind) = match current.strip_prefix("the value '") {
        Some(typed) => {
            let (text, kind) = typed.rsplit_once("' of type '")?;
            (text, kind.split('\'').next()?)
        }
        None => (current.strip_prefix('\'')?.rsplit_once('\'')?.0, type_of(wanted.inner().get(argument.as_str())?)),
    };
    let value = match kind {
        "longstr" => AMQPValue::LongString(text.into()),
        "bool" => AMQPValue::Boolean(text.parse().ok()?),
        // An integer is compared by its value, whatever its width.
        _ => AMQPValue::LongLongInt(text.parse().ok()?),
    };
    Some((argument, Some(value)))
}

/// The type of a value, as RabbitMQ calls it.
const fn type_of(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::LongString(_) => "longstr",
        AMQPValue::Boolean(_) => "bool",
        _ => "long",
    }
}

fn adopted(wanted: &FieldTable, argument: &ShortString, current: Option<AMQPValue>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in wanted.inner().iter().filter(|(name, _)| *name != argument) {
        table.insert(name.clone(), value.clone());
    }
    if let Some(value) = current {
        table.insert(argument.clone(), value);
    }
    table
}

/// Of `arguments` those that lose dead letters: name, value, and what it does. What was asked for is no loss.
pub(super) fn losses(arguments: &FieldTable, asked: Option<Duration>) -> Vec<(&'static str, i64, &'static str)> {
    let value = |name: &str| arguments.inner().get(name).and_then(super::headers::integer);
    let losing = LOSING.into_iter().filter_map(|(name, what)| Some((name, value(name)?, what)));
    let asked = asked.and_then(|ttl| i64::try_from(ttl.as_millis()).ok());
    let losing = losing.filter(|(name, value, _)| *name != topology::MESSAGE_TTL || asked != Some(*value));
    // Above it, a dead letter is renewed before the limit is reached.
    losing.filter(|(name, value, _)| *name != "x-delivery-limit" || *value <= LOOKS_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{QueueOptions, QueueType};

    fn told(argument: &str, received: &str, current: &str) -> String {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{argument}' for queue 'orders_dlq' in vhost '/': received \
             {received} but current is {current}"
        )
    }

    #[test]
    fn a_refusal_says_what_the_queue_has() {
        let mut wanted = FieldTable::default();
        wanted.insert("x-a".into(), AMQPValue::LongInt(2));
        wanted.insert("x-b".into(), AMQPValue::LongString("quorum".into()));
        let of = |name, received, current| conflict(&told(name, received, current), &wanted).map(|(_, value)| value);
        let (text, number) =
            (|text: &str| Some(AMQPValue::LongString(text.into())), |n| Some(AMQPValue::LongLongInt(n)));
        assert_eq!(of("x-a", "none", "the value '86400000' of type 'signedint'"), Some(number(86_400_000)));
        assert_eq!(of("x-a", "none", "the value '1' of type 'long'"), Some(number(1)));
        assert_eq!(of("x-a", "none", "the value 'true' of type 'bool'"), Some(Some(AMQPValue::Boolean(true))));
        assert_eq!(of("x-a", "none", "the value 'it's' of type 'longstr'"), Some(text("it's")));
        assert_eq!(of("x-a", "'2'", "'7'"), Some(number(7)), "both have it");
        assert_eq!(of("x-b", "'quorum'", "'classic'"), Some(text("classic")));
        assert_eq!(of("x-b", "'quorum'", "'7'"), Some(text("7")));
        assert_eq!(of("x-a", "the value '7' of type 'signedint'", "none"), Some(None));
    }

    #[test]
    fn what_is_no_such_refusal_says_nothing() {
        for text in [
            "",
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
            "PRECONDITION_FAILED - inequivalent arg 'x-a",
            "PRECONDITION_FAILED - invalid arg 'x-a' for queue 'q'",
            &told("x-a", "none", "the value '{table}' of type 'table'"),
            &told("x-a", "'1'", "'2'"),
        ] {
            assert_eq!(conflict(text, &FieldTable::default()), None, "{text}");
        }
    }

    #[test]
    fn step_by_step_it_comes_to_what_the_queue_has() {
        let start = topology::keeping_arguments(QueueType::Quorum);
        let refusals = [
            told("x-queue-type", "'quorum'", "'classic'"),
            told("x-delivery-limit", "the value '1000000000' of type 'signedint'", "none"),
            told("x-message-ttl", "none", "the value '86400000' of type 'signedint'"),
            told("x-max-length", "none", "the value '500' of type 'long'"),
        ];
        let found = refusals.iter().fold(start, |wanted, text| {
            let (argument, current) = conflict(text, &wanted).unwrap();
            adopted(&wanted, &argument, current)
        });
        assert!(!found.inner().contains_key("x-delivery-limit"));
        let lost: Vec<_> = losses(&found, None).into_iter().map(|(name, value, _)| (name, value)).collect();
        assert_eq!(lost, [("x-message-ttl", 86_400_000), ("x-max-length", 500)]);
    }

    #[test]
    fn a_queue_of_ours_loses_nothing() {
        for kind in [QueueType::Quorum, QueueType::Classic] {
            assert_eq!(losses(&topology::keeping_arguments(kind), None), []);
            let week = Duration::from_secs(7 * 86_400);
            let ours = topology::dead_letter_arguments(kind, &QueueOptions::default().dead_letter_ttl(week));
            assert_eq!(losses(&ours, Some(week)), [], "as it was asked for");
            assert_eq!(losses(&ours, Some(week * 2)).len(), 1);
            assert_eq!(losses(&ours, None).len(), 1);
        }
    }
}
