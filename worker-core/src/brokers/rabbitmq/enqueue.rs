//! Enqueueing: one publish per job, pipelined, with an answer each.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    brokers::rabbitmq::{
        bundle,
        course::{Place, delayed},
        declare::broker_error,
        exchanges,
        link::{Address, LinkErrorKind},
        publisher::{PublishError, Publisher},
        ranks::Nature,
        shared::Shared,
        wire::{self, Copy, Message},
    },
    envelope::{Due, Envelope, Priority, Route},
    error::{BrokerError, BrokerErrorKind, EnqueueFailure},
    name::{ExchangeName, QueueName},
};

type Pending = BoxFuture<'static, Result<(), EnqueueFailure>>;

pub(super) async fn enqueue(shared: &Arc<Shared>, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
    let count = batch.len();
    let (mut carried, mut pending) = (Vec::with_capacity(count), Vec::<Pending>::with_capacity(count));
    for packed in bundle::pack(batch) {
        let message = bundle::encode(&packed, &shared.app_id);
        // Sent one after the other, so that they keep their order; confirmed all together.
        pending.push(match publish(shared, &shared.publisher, &packed.envelope, message).await {
            Ok(pending) => pending,
            Err(failure) => Box::pin(std::future::ready(Err(failure))),
        });
        carried.push(packed.jobs);
    }
    let mut answers: Vec<_> = (0..count).map(|_| Ok(())).collect();
    for (jobs, pending) in carried.into_iter().zip(pending) {
        // What became of a message became of each job in it. All are under way: to wait for one holds up no other.
        if let Err(failure) = pending.await {
            jobs.into_iter().for_each(|job| answers[job] = Err(failure.copy()));
        }
    }
    answers
}

/// Sends a job by one of the publishers; what is returned waits for its confirm.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    publisher: &Publisher,
    envelope: &Envelope,
) -> Result<Pending, EnqueueFailure> {
    publish(shared, publisher, envelope, wire::encode(envelope, &shared.app_id)).await
}

/// Sends `message` to where `envelope` goes, and when that says.
async fn publish(
    shared: &Arc<Shared>,
    publisher: &Publisher,
    envelope: &Envelope,
    message: Message,
) -> Result<Pending, EnqueueFailure> {
    shared.check().map_err(EnqueueFailure::Refused)?;
    if envelope.priority != Priority::DEFAULT {
        ranked(shared, envelope).await.map_err(EnqueueFailure::Refused)?;
    }
    match &envelope.route {
        Route::Queue(queue) => to_queue(shared, publisher, queue, envelope.due, message).await,
        Route::Exchange { .. } if envelope.due != Due::Now => {
            let ways_out = "publish it when it is due";
            let error = BrokerError::unsupported("RabbitMQ", "delays to an exchange", ways_out);
            Err(EnqueueFailure::Refused(error))
        }
        Route::Exchange { name, key, mandatory } => {
            exchanges::check(&shared.declarer, name).await.map_err(EnqueueFailure::Refused)?;
            let to = Address { exchange: name.to_string(), key: key.clone(), mandatory: *mandatory };
            Ok(to_exchange(shared, publisher, name.clone(), to, message).await)
        }
    }
}

/// Sees that where an envelope goes its priority counts.
async fn ranked(shared: &Arc<Shared>, envelope: &Envelope) -> Result<(), BrokerError> {
    let (server, declarer) = (&shared.server, &shared.declarer);
    match &envelope.route {
        Route::Queue(queue) => {
            let failed = |error| broker_error(&format!("queue `{queue}` could not be looked at"), &error);
            // What cannot be learnt was declared by others, for whom the priority may count. A queue that does not
            // exist is refused as such.
            let refusal = |nature: Option<Nature>| nature?.refusal(server, queue.as_str(), envelope.priority);
            if refusal(declarer.nature(queue).await.map_err(failed)?).is_none() {
                return Ok(());
            }
            // It may have been made anew since, as the refusal says.
            refusal(declarer.nature_now(queue).await.map_err(failed)?).map_or(Ok(()), Err)
        }
        // Which queues an exchange sends it to is not to be seen: that it counts in all of them must be certain.
        Route::Exchange { name, .. } => {
            let can = server.capabilities(declarer.default_type);
            if can.priorities || can.two_priorities {
                return Ok(());
            }
            let what = format!(
                "priority {} through exchange `{name}`, behind which there may be no priorities: {server} has none in quorum queues",
                envelope.priority
            );
            let ways_out = "leave the priority out, enqueue into a queue with `max_priority`, or use quorum queues on \
                            RabbitMQ 4.3 or later";
            Err(BrokerError::unsupported("RabbitMQ", &what, ways_out))
        }
    }
}

async fn to_queue(
    shared: &Arc<Shared>,
    publisher: &Publisher,
    queue: &QueueName,
    due: Due,
    message: Message,
) -> Result<Pending, EnqueueFailure> {
    let now = shared.now();
    match due.date(now) {
        None => Ok(answered(shared, publisher, queue.clone(), None, message).await),
        Some(due_at) => {
            // The ladder takes anything; that there is a queue at its end is seen now.
            known(shared, queue).await?;
            let (level, copy) = delayed(Copy::of(&message), queue.as_str(), due_at, now);
            let place = Place::Ladder(level);
            shared.declarer.place(place, queue).await.map_err(EnqueueFailure::Refused)?;
            let name = place.name(queue, &shared.declarer.ladder);
            Ok(answered(shared, publisher, queue.clone(), Some(name), copy.message()).await)
        }
    }
}

async fn known(shared: &Arc<Shared>, queue: &QueueName) -> Result<(), EnqueueFailure> {
    if shared.declarer.is_seen(queue.as_str()) {
        return Ok(());
    }
    match shared.declarer.exists(queue.as_str()).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(EnqueueFailure::Unroutable),
        Err(error) if error.kind == LinkErrorKind::Refused => Ok(()), // It may not be looked at; the publish will tell.
        Err(error) => {
            let what = format!("queue `{queue}` could not be looked at");
            Err(EnqueueFailure::Refused(broker_error(&what, &error)))
        }
    }
}

/// Sends a message to an exchange; what is returned waits for its confirm.
async fn to_exchange(
    shared: &Arc<Shared>,
    publisher: &Publisher,
    name: ExchangeName,
    to: Address,
    message: Message,
) -> Pending {
    let sent = publisher.begin(to, message).await;
    let shared = Arc::clone(shared);
    Box::pin(async move {
        let answer = sent.await;
        if let Err(PublishError::Unknown(kind, why)) = &answer {
            exchanges::forget(&shared.declarer, &name);
            if *kind == LinkErrorKind::Refused {
                exchanges::note_refusal(&shared.declarer, &name, why);
            }
        }
        answer.map_err(failure)
    })
}

/// Sends a message to `queue`, or to the one of this name on the way to it; what is returned waits for its confirm.
async fn answered(
    shared: &Arc<Shared>,
    publisher: &Publisher,
    queue: QueueName,
    on_the_way: Option<String>,
    message: Message,
) -> Pending {
    let sent = publisher.begin(Address::queue(on_the_way.as_deref().unwrap_or(queue.as_str())), message).await;
    let shared = Arc::clone(shared);
    Box::pin(async move {
        let answer = sent.await;
        if answer == Err(PublishError::Unroutable) {
            shared.declarer.forget(on_the_way.as_deref().unwrap_or(queue.as_str()));
            if let Some(name) = on_the_way {
                // A level that was deleted: it is declared again the next time.
                let message = format!("the delay queue `{name}` was deleted meanwhile; try again");
                return Err(EnqueueFailure::Refused(BrokerError::new(BrokerErrorKind::Transient, message)));
            }
        }
        answer.map_err(failure)
    })
}

/// What a publish that did not succeed means for whoever enqueued.
fn failure(error: PublishError) -> EnqueueFailure {
    match error {
        PublishError::Unroutable => EnqueueFailure::Unroutable,
        PublishError::NotSent(kind, why) => {
            let kind = match kind {
                LinkErrorKind::Mismatch => BrokerErrorKind::Permanent,
                _ => BrokerErrorKind::Transient,
            };
            EnqueueFailure::Refused(BrokerError::new(kind, why))
        }
        // The server refuses what a full queue cannot take; but a node that died with it in
        // its hands says the same, and may have it when it is back (measured on 3.10).
        PublishError::Nacked => {
            let message = "the server refused it: its queue may be full, or its node away";
            EnqueueFailure::Unknown(BrokerError::new(BrokerErrorKind::Transient, message))
        }
        PublishError::Unknown(_, why) => EnqueueFailure::Unknown(BrokerError::new(BrokerErrorKind::Transient, why)),
    }
}
