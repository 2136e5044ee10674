//! `queue_type`, `max_priority`, `dead_letter_…` and `shards`: the checks of what a job asks of its queue.

use syn::{LitInt, LitStr};

use crate::{
    args::Args,
    check::{PRIORITY_MAX, checked_duration, checked_name, checked_number},
    duration,
    mistake::Mistakes,
    text::text,
};

/// The most shards of a queue: that of `worker_core`.
const SHARDS_MAX: u32 = 64;

/// What a job asks of its queue.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) queue_type: Option<QueueType>,
    pub(crate) max_priority: Option<u32>,
    pub(crate) dead_letter_queue: Option<String>,
    pub(crate) dead_letter_ttl_ms: Option<u64>,
    pub(crate) shards: Option<u32>,
}

/// How the server keeps the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueType {
    Quorum,
    Classic,
}

impl QueueType {
    /// The variant of `worker_core`'s.
    pub(crate) const fn variant(self) -> &'static str {
        match self {
            Self::Quorum => "Quorum",
            Self::Classic => "Classic",
        }
    }
}

/// Checks all of it together, and the job's own priority beside it.
pub(crate) fn asked(args: &Args, mistakes: &mut Mistakes) -> Asked {
    let queue_type = args.queue_type.as_ref().and_then(|literal| queue_type(literal, mistakes));
    let max_priority = args.max_priority.as_ref().and_then(|number| {
        let fix = "write 1 to 31: the highest priority that the queue tells apart; 10 is usual";
        checked_number(number, "max_priority", 1..=PRIORITY_MAX, fix, mistakes)
    });
    if let Some(literal) = &args.max_priority
        // A type that is none has been met already.
        && (args.queue_type.is_none() || queue_type == Some(QueueType::Quorum))
    {
        let what = format!("`max_priority` is for classic queues: {}", text(literal));
        mistakes.add(
            literal,
            what,
            "write `queue_type = \"classic\"` beside it, which is not replicated; RabbitMQ 4.3 needs neither",
        );
    }
    let priority = args.priority.as_ref().and_then(|literal| Some((literal, literal.base10_parse::<u32>().ok()?)));
    match (priority, queue_type, max_priority) {
        (Some((literal, asked)), _, Some(max)) if asked > max && asked <= PRIORITY_MAX => {
            let what = format!("`priority` is above `max_priority`, which is {max}: {}", text(literal));
            mistakes.add(literal, what, "lower it, or raise `max_priority` on all jobs of the queue");
        }
        (Some((literal, _)), Some(QueueType::Classic), None) if args.max_priority.is_none() => {
            let what = format!("a classic queue ignores priorities without `max_priority`: {}", text(literal));
            mistakes.add(literal, what, "write `max_priority = 10` on all jobs of the queue");
        }
        _ => {}
    }
    let dead_letter_queue = args.dead_letter_queue.as_ref().and_then(|name| dead_letter_queue(name, args, mistakes));
    let dead_letter_ttl_ms = args.dead_letter_ttl.as_ref().and_then(|literal| {
        let example = "\"7d\" or \"12h\": a dead letter is deleted then";
        checked_duration(literal, "dead_letter_ttl", example, duration::millis, mistakes)
    });
    let shards = args.shards.as_ref().and_then(|number| shards(number, args, mistakes));
    Asked { queue_type, max_priority, dead_letter_queue, dead_letter_ttl_ms, shards }
}

fn shards(number: &LitInt, args: &Args, mistakes: &mut Mistakes) -> Option<u32> {
    let fix = "write 1 to 64: how many queues of the broker it is; several for each node of a cluster are enough";
    let shards = checked_number(number, "shards", 1..=SHARDS_MAX, fix, mistakes);
    if let Some(on) = &args.on
        && shards != Some(1)
    {
        let what = format!("each shard would get a copy of what a job runs for: {}", text(on));
        let fix = "remove `shards`; or enqueue another job, whose queue has them, from this one";
        mistakes.add(on, what, fix);
        return None;
    }
    shards
}

fn dead_letter_queue(literal: &LitStr, args: &Args, mistakes: &mut Mistakes) -> Option<String> {
    if args.queue.as_ref().is_some_and(|queue| queue.value() == literal.value()) {
        let what = format!("dead letters in the job's own queue would be run again: {}", text(literal));
        mistakes.add(literal, what, "name another queue, or remove the option: then it is the queue's name and `_dlq`");
        return None;
    }
    checked_name(literal, "dead_letter_queue", mistakes)
}

fn queue_type(literal: &LitStr, mistakes: &mut Mistakes) -> Option<QueueType> {
    match &*literal.value() {
        "quorum" => return Some(QueueType::Quorum),
        "classic" => return Some(QueueType::Classic),
        _ => {}
    }
    let what = format!("`queue_type` is none that jobs can be in: {}", text(literal));
    mistakes.add(literal, what, "write `quorum` or `classic`; the kind of an exchange is `kind`");
    None
}
