//! Takes jobs that wait on the ladder from level to level, and to their queue when they are due.
//!
//! One porter per worker process, whatever queues it serves: a level is left by
//! the server, and entered by whichever porter is free. A job waits at the
//! server all the time; a porter holds it for as long as a publish takes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use crate::{
    brokers::rabbitmq::{
        acks::Unacked,
        connection::{Up, closed},
        course::{self, Onward, Place},
        link::{Address, LinkError, LinkErrorKind},
        publisher::PublishError,
        shared::{Shared, publish_error},
        topology::{Ladder, Level},
        wire::{Copy, Incoming, Message},
    },
    error::BrokerError,
    outcome::{Failure, FailureKind},
    telemetry::TARGET,
    time::monotonic_now,
};

/// The most jobs in a porter's hands.
const HANDS: u16 = 200;

/// The first and the longest pause after a failure. They grow by a half each: what a node refuses while it
/// starts is tried again soon after it is ready.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How much longer a job waits whose queue does not take it now.
const AGAIN_MS: u64 = 4_096;

/// How long a job that is due waits for a queue that is gone. Workers declare theirs again within two seconds of its
/// deletion.
const GONE_MAX: Duration = Duration::from_secs(10);

/// How long the porter may take to put down what it carries.
const PUT_DOWN_WAIT_MAX: Duration = Duration::from_secs(2);

const TAG: &str = "porter";

/// Starts this process's porter, once.
pub(super) fn start(shared: &Arc<Shared>) {
    if !shared.porter.swap(true, Ordering::SeqCst) {
        shared.lanes.spawn(carry_on(Arc::downgrade(shared), shared.lanes.closing.clone()));
    }
}

/// Carries until the broker is closed or dropped.
async fn carry_on(shared: std::sync::Weak<Shared>, closing: tokio_util::sync::CancellationToken) {
    let mut pause = PAUSE.0;
    while !closing.is_cancelled() {
        let Some(shared) = shared.upgrade() else { return };
        let began = monotonic_now();
        let Err(error) = carry(&shared).await else { return };
        if began.elapsed() >= PAUSE.1 {
            pause = PAUSE.0;
        }
        if error.kind != LinkErrorKind::Gone {
            tracing::warn!(target: TARGET, queue = shared.declarer.ladder.due(), %error, "delayed jobs are not carried on; trying again");
        }
        if error.kind == LinkErrorKind::NotFound {
            shared.declarer.forget(&shared.declarer.ladder.due());
        }
        drop(shared);
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 3 / 2).min(PAUSE.1);
    }
}

type Errands = FuturesUnordered<BoxFuture<'static, (Incoming, Result<(), BrokerError>)>>;

/// Carries on one connection until it is lost, or the broker is closed (`Ok`).
async fn carry(shared: &Arc<Shared>) -> Result<(), LinkError> {
    let closing = &shared.lanes.closing;
    let up: Arc<Up> = tokio::select! {
        biased;
        () = closing.cancelled() => return Ok(()),
        up = shared.consume.up() => up.ok_or_else(closed)?,
    };
    let declared = shared.declarer.due().await;
    declared.map_err(|error| LinkError::new(LinkErrorKind::Refused, error.detail()))?;
    let channel = up.link.channel().await?;
    let mut messages = channel.consume(&shared.declarer.ladder.due(), TAG, HANDS, None).await?;
    let (mut unacked, mut errands) = (Unacked::default(), Errands::new());
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            () = up.lost.cancelled() => return Err(closed()),
            Some((incoming, carried)) = errands.next(), if !errands.is_empty() => {
                finish(shared, &mut unacked, &mut errands, incoming, carried);
                while let Some(Some((incoming, carried))) = errands.next().now_or_never() {
                    finish(shared, &mut unacked, &mut errands, incoming, carried);
                }
                for ack in unacked.take() {
                    channel.ack(ack.tag, ack.multiple).await?;
                }
            }
            message = messages.next() => {
                let Some(incoming) = message.transpose()? else {
                    return Err(LinkError::new(LinkErrorKind::NotFound, "the server cancelled the consumer"));
                };
                unacked.delivered(incoming.tag);
                errands.push(carried(Arc::clone(shared), incoming, Duration::ZERO));
            }
        }
    }
    // What is in our hands comes to where it belongs, or back with the end of the channel.
    channel.cancel(TAG).await?;
    let put_down = async {
        while let Some((incoming, carried)) = errands.next().await {
            if carried.is_ok() {
                unacked.finished(incoming.tag, monotonic_now());
            }
        }
    };
    drop(timeout(PUT_DOWN_WAIT_MAX, put_down).await);
    for ack in unacked.take() {
        channel.ack(ack.tag, ack.multiple).await?;
    }
    channel.close().await;
    Ok(())
}

fn finish(
    shared: &Arc<Shared>,
    unacked: &mut Unacked,
    errands: &mut Errands,
    incoming: Incoming,
    carried_on: Result<(), BrokerError>,
) {
    match carried_on {
        Ok(()) => {
            unacked.finished(incoming.tag, monotonic_now());
        }
        Err(error) => {
            tracing::warn!(target: TARGET, id = %incoming.message.id(), error = error.detail(), "a delayed job could not be carried on; trying again");
            errands.push(carried(Arc::clone(shared), incoming, Duration::from_secs(1)));
        }
    }
}

fn carried(
    shared: Arc<Shared>,
    incoming: Incoming,
    pause: Duration,
) -> BoxFuture<'static, (Incoming, Result<(), BrokerError>)> {
    async move {
        sleep(pause).await;
        let carried = carry_one(&shared, &incoming.message).await;
        (incoming, carried)
    }
    .boxed()
}

/// Carries one message on. What its next queue does not take now waits on in the ladder: it must
/// not stand in the way of those for other queues.
async fn carry_one(shared: &Arc<Shared>, message: &Message) -> Result<(), BrokerError> {
    let Err(error) = next_step(shared, message).await else { return Ok(()) };
    tracing::warn!(target: TARGET, id = %message.id(), error = error.detail(), "a delayed job could not be carried on; it waits a little longer");
    to_ladder(shared, Ladder::level(AGAIN_MS), Copy::of(message).message()).await
}

async fn next_step(shared: &Arc<Shared>, message: &Message) -> Result<(), BrokerError> {
    match course::onward(message, shared.now()) {
        Onward::Wait(level, copy) => to_ladder(shared, level, copy).await,
        Onward::Due(queue, target, copy, overdue) => {
            let to = Address::queue(&*target);
            match shared.publisher.publish_once(to, copy.clone(), shared.publisher.timeout).await {
                // Only the suspects' line is gone, which is made again.
                Err(PublishError::Unroutable) if target != queue.as_str() => {
                    shared.declarer.forget(&target);
                    shared.send(Place::Suspects, &queue, copy).await
                }
                Err(PublishError::Unroutable) if overdue >= GONE_MAX => {
                    let why = format!("queue `{target}` was gone when the job became due");
                    let failure = Failure::new(FailureKind::Unroutable, why);
                    tracing::warn!(target: TARGET, queue = target, id = %copy.id(), "a delayed job's queue is gone; the job is dead-lettered");
                    let dead = Copy::of(&copy).dead(&queue, &failure, 0, shared.death()).message();
                    shared.send(Place::DeadLetters, &queue, dead).await
                }
                sent => sent.map_err(|error| publish_error(&target, &error)),
            }
        }
        Onward::Astray(what) => {
            let due = shared.declarer.ladder.due();
            let queue = due.parse().map_err(|_| astray(&due))?;
            let failure = Failure::new(FailureKind::Undecodable, what);
            let dead = Copy::of(message).dead(&queue, &failure, 0, shared.death()).message();
            shared.send(Place::DeadLetters, &queue, dead).await
        }
    }
}

async fn to_ladder(shared: &Arc<Shared>, level: Level, copy: Message) -> Result<(), BrokerError> {
    let anywhere = &*shared.declarer.ladder.due();
    let queue = anywhere.parse().map_err(|_| astray(anywhere))?;
    shared.send(Place::Ladder(level), &queue, copy).await
}

fn astray(name: &str) -> BrokerError {
    BrokerError::new(crate::error::BrokerErrorKind::Permanent, format!("`{name}` is no queue's name"))
}
