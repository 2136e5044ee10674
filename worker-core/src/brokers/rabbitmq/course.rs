//! What is to be done with a message, on its arrival and at its end. Pure.
//!
//! A job that may have killed its worker is moved to a lane of its own, where
//! being delivered means being started: a job's first delivery is free, and
//! only those that came back are watched. Each move is a copy with one more
//! start on it, so that all workers share the count, without a database.

use std::{sync::Arc, time::Duration};

use crate::{
    broker::{STARTS_MAX, attempts_failed, crashed},
    brokers::rabbitmq::{
        bundle,
        topology::{self, Ladder, Level, Rung, Rungs},
        version::Server,
        wire::{self, Copy, DeathDate, Decoded, Incoming, Message},
    },
    envelope::{Caller, Envelope},
    name::QueueName,
    outcome::{Failure, FailureKind},
    reply::Reply,
    settlement::{Note, Settlement},
    time::Timestamp,
};

/// Which of a subscription's lines a message came by; each has a channel of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    Main,
    /// Of the queue, too, while more of it is held: by its number.
    Extra(u32),
    Suspects,
}

/// What to do with a message that arrived.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arrival {
    /// Hand it to the worker.
    Deliver(Decoded),
    /// It is a bundle: hand its jobs to the worker.
    Unpack { jobs: Vec<Envelope>, retries: u32 },
    /// It is a bundle that came back: each of its jobs goes on by itself, into this line of its queue.
    Scatter { into: Line, messages: Vec<Message> },
    /// Its worker may have died of it: it goes on in the suspects' line with these starts.
    Suspect { starts: u32 },
    /// Its worker lives, as far as can be seen: it goes back where it was, without the mark.
    Unmark,
    /// It can never be run.
    Bury { failure: Failure, attempts: u32, starts: u32 },
}

/// What speaks for a job that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alibi {
    /// Nothing: its worker may have died of it.
    None,
    /// This process had it, lost it with a connection, and lives.
    Outlived,
    /// This process has lost its own connection a moment ago, and whoever had the job may have lost no more than that.
    Shared,
}

/// Decides what to do with a message of `queue` that arrived by `line`.
pub(super) fn arrival(
    incoming: &Incoming,
    line: Line,
    alibi: Alibi,
    queue: &QueueName,
    server: &Server,
    now: Timestamp,
) -> Arrival {
    let undecodable = |what| {
        let failure = Failure::new(FailureKind::Undecodable, what);
        Arrival::Bury { failure, attempts: 0, starts: 0 }
    };
    if let Some(bytes) = wire::excess(&incoming.message) {
        return undecodable(format!(
            "its headers have {bytes} bytes; larger than may travel on, they were left behind"
        ));
    }
    if let Some(what) = wire::unreadable(&incoming.message) {
        return undecodable(what);
    }
    let decoded = match wire::decode(&incoming.message, queue, now) {
        Ok(decoded) => decoded,
        Err(what) => return undecodable(what),
    };
    // A classic queue counts nothing, on any version; what a quorum queue of 4.3 has given out before says how often.
    let is_counted = server.nack_is_free() && incoming.message.header("x-acquired-count").is_some();
    let came_back =
        incoming.message.delivery_count() > 0 && server.nack_is_free() || incoming.redelivered && !is_counted;
    if bundle::is_bundle(&incoming.message) {
        return match bundle::unpack(&incoming.message, &decoded.envelope) {
            Err(what) => undecodable(what),
            Ok(jobs) if !came_back && line != Line::Suspects => Arrival::Unpack { jobs, retries: decoded.retries },
            Ok(jobs) => scatter(&incoming.message, &jobs, line, alibi),
        };
    }
    if !came_back {
        return Arrival::Deliver(decoded);
    }
    let starts = match (alibi, line) {
        (Alibi::Outlived, _) | (Alibi::Shared, Line::Main | Line::Extra(_)) => return Arrival::Unmark,
        // What was counted before stays counted, and nothing is added.
        (Alibi::Shared, Line::Suspects) => decoded.starts.max(1),
        (Alibi::None, Line::Main | Line::Extra(_)) => 1,
        (Alibi::None, Line::Suspects) => decoded.starts.max(1) + 1,
    };
    if starts >= STARTS_MAX {
        let failure = crashed(starts);
        let attempts = attempts_failed(failure.kind, decoded.retries + 1);
        return Arrival::Bury { failure, attempts, starts };
    }
    Arrival::Suspect { starts }
}

/// Takes a bundle apart that came back. Whichever of its jobs its worker died of, each is watched by itself from then
/// on; and where none is to blame, because a connection was lost, what is done of them is done for good the next time.
fn scatter(message: &Message, jobs: &[Envelope], line: Line, alibi: Alibi) -> Arrival {
    let is_suspect = line == Line::Suspects || alibi == Alibi::None;
    let copy = |job| {
        let single = bundle::single(message, job);
        if is_suspect { single.integer(wire::STARTS, 1) } else { single }.message()
    };
    let into = if is_suspect { Line::Suspects } else { Line::Main };
    Arrival::Scatter { into, messages: jobs.iter().map(copy).collect() }
}

/// Where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Into its queue.
    Queue,
    /// Into the suspects' line of its queue.
    Suspects,
    /// Into the queue of this rung.
    Retry(Rung),
    /// Into this level of the shared ladder.
    Ladder(Level),
    /// Among the dead of its queue.
    DeadLetters,
}

impl Line {
    /// Where it comes from.
    pub(super) const fn place(self) -> Place {
        match self {
            Self::Main | Self::Extra(_) => Place::Queue,
            Self::Suspects => Place::Suspects,
        }
    }
}

impl Place {
    /// The name of the queue that this is, for jobs of `queue`.
    pub(super) fn name(self, queue: &QueueName, ladder: &Ladder) -> String {
        match self {
            Self::Queue => queue.to_string(),
            Self::Suspects => topology::suspects(queue),
            Self::Retry(rung) => topology::retry(queue, rung),
            Self::Ladder(level) => ladder.name(level),
            Self::DeadLetters => topology::dead_letters(queue),
        }
    }
}

/// A delivery, as the lane keeps it until it is settled.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) line: Line,
    /// What the channel knows it by.
    pub(super) tag: u64,
    pub(super) carried: Carried,
    pub(super) id: crate::id::JobId,
    pub(super) attempt: u32,
    /// Who waits for it.
    pub(super) caller: Option<Caller>,
}

/// How a job came.
#[derive(Debug, Clone)]
pub(super) enum Carried {
    /// In a message of its own.
    Alone(Box<Message>),
    /// In a bundle, as this job of it.
    Bundled(Arc<Message>, Box<Envelope>),
}

impl Held {
    fn copy(&self) -> Copy {
        match &self.carried {
            Carried::Alone(message) => Copy::of(message).id(&self.id),
            Carried::Bundled(bundle, job) => bundle::single(bundle, job),
        }
    }

    /// What came with it, and goes when all of that is settled.
    pub(super) fn bundled(&self) -> Option<(&Arc<Message>, &Envelope)> {
        match &self.carried {
            Carried::Alone(_) => None,
            Carried::Bundled(bundle, job) => Some((bundle, job)),
        }
    }

    /// What the server knows it by when it comes back.
    pub(super) fn carrier(&self) -> crate::id::JobId {
        self.bundled().map_or_else(|| self.id.clone(), |(bundle, _)| bundle.id())
    }
}

/// What makes a settlement true.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Acknowledge it.
    Ack,
    /// Give it back as it is.
    Requeue,
    /// Publish this copy there, and acknowledge it then.
    Publish(Place, Message),
    /// Answer its caller, and acknowledge it then; where there is no caller any more, this is published
    /// among the dead.
    Answer { caller: Caller, reply: Reply, kept: Option<Message> },
}

/// What makes `settlement` true about `held`.
pub(super) fn step(
    held: &Held,
    settlement: &Settlement,
    queue: &QueueName,
    (ladder, rungs): (&Ladder, &Rungs),
    nack_is_free: bool,
    (now, died): (Timestamp, DeathDate),
) -> Step {
    match settlement {
        Settlement::Ack { reply } => match held.caller.as_ref().zip(reply.as_ref()) {
            None => Step::Ack,
            Some((caller, reply)) => {
                let kept = reply.unheard().map(|failure| {
                    let attempts = attempts_failed(failure.kind, held.attempt);
                    held.copy().dead(queue, failure, attempts, died).message()
                });
                Step::Answer { caller: caller.clone(), reply: reply.clone(), kept }
            }
        },
        Settlement::Release { after, note: None } if after.is_zero() => give_back(held, nack_is_free),
        Settlement::Release { after, note } => {
            let copy = match note {
                Some(Note::UnknownSince(since)) => held.copy().date(wire::UNKNOWN_SINCE, *since),
                None => held.copy(),
            };
            later(copy, held.line.place(), *after, queue, ladder, now)
        }
        Settlement::Retry { after, failure } => {
            let copy = held.copy().retried(held.attempt, failure, now);
            match rungs.of(*after) {
                Some(rung) => Step::Publish(Place::Retry(rung), copy.message()),
                None => later(copy, Place::Queue, *after, queue, ladder, now),
            }
        }
        Settlement::DeadLetter { failure } => {
            let attempts = attempts_failed(failure.kind, held.attempt);
            Step::Publish(Place::DeadLetters, held.copy().dead(queue, failure, attempts, died).message())
        }
    }
}

/// Gives a delivery back so that the next is a first one.
///
/// Where a `basic.nack` marks and counts it, as a death of its worker would (before
/// 4.3, and in a classic queue), a copy leaves no trace. Ten restarts of a worker with 200 prefetched
/// jobs would otherwise make 2,000 suspects. One job of a bundle cannot be given back in any other way.
pub(super) fn give_back(held: &Held, nack_is_free: bool) -> Step {
    if nack_is_free && held.bundled().is_none() {
        Step::Requeue
    } else {
        Step::Publish(held.line.place(), held.copy().message())
    }
}

fn later(copy: Copy, target: Place, after: Duration, queue: &QueueName, ladder: &Ladder, now: Timestamp) -> Step {
    if after.is_zero() {
        return Step::Publish(target, copy.message());
    }
    let (level, copy) = delayed(copy, &target.name(queue, ladder), now + after, now);
    Step::Publish(Place::Ladder(level), copy.message())
}

/// A copy that waits until `due_at` on its way to `target`, and the level where it waits first.
pub(super) fn delayed(copy: Copy, target: &str, due_at: Timestamp, now: Timestamp) -> (Level, Copy) {
    let remaining = u64::try_from(due_at.since(now).as_millis()).unwrap_or(u64::MAX);
    (Ladder::level(remaining), copy.date(wire::DUE_AT, due_at).text(wire::QUEUE, target))
}

/// What the next step of a message on the ladder is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Onward {
    /// It waits on, in this level.
    Wait(Level, Message),
    /// It is due, and has been for so long: into this queue.
    Due(QueueName, String, Message, Duration),
    /// It does not say where it belongs.
    Astray(String),
}

/// Where a message goes that has left a level.
pub(super) fn onward(message: &Message, now: Timestamp) -> Onward {
    let (Some(target), Some(due_at)) = (message.text(wire::QUEUE), message.date(wire::DUE_AT)) else {
        return Onward::Astray("it does not say where it belongs or when it is due".into());
    };
    let remaining = u64::try_from(due_at.since(now).as_millis()).unwrap_or(u64::MAX);
    if remaining > 0 {
        return Onward::Wait(Ladder::level(remaining), Copy::of(message).message());
    }
    // Its queue, or the suspects' line of it.
    let queue = target.strip_suffix("_suspects").unwrap_or(&target).parse::<QueueName>();
    match queue {
        Ok(queue) => {
            let copy = Copy::of(message).without(wire::DUE_AT).without(wire::QUEUE);
            Onward::Due(queue, target, copy.message(), now.since(due_at))
        }
        Err(problem) => Onward::Astray(format!("it belongs nowhere: {problem}")),
    }
}

#[cfg(test)]
mod tests;
