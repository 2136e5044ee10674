//! Exchanges and bindings: declared as they are found, and looked at before something is published.

use crate::{
    brokers::rabbitmq::{
        declare::{Declarer, broker_error, nothing_declared},
        link::{DeclareExchange, LinkError, LinkErrorKind},
        wire,
    },
    error::{BrokerError, BrokerErrorKind},
    exchange::{Binding, Criterion, Exchange},
    name::ExchangeName,
};

/// Makes sure that an exchange exists, of this kind.
///
/// An exchange of others is used as it is, whatever else it was declared with.
pub(super) async fn declare(declarer: &Declarer, exchange: &Exchange) -> Result<(), BrokerError> {
    let Exchange { name, kind } = exchange;
    let failed = |error: &LinkError| broker_error(&format!("exchange `{name}` could not be declared"), error);
    if !declarer.declares {
        if !exists(declarer, name).await? {
            return Err(nothing_declared(&format!("exchange `{name}`")));
        }
        declarer.saw(&seen_as(name));
        return Ok(());
    }
    let channel = declarer.channel().await.map_err(|error| failed(&error))?;
    let declared = channel.declare_exchange(name.as_str(), DeclareExchange::Durable(*kind)).await;
    if declared.is_ok() {
        channel.close().await;
    }
    // Its place is for the next question, which may be ours.
    drop(channel);
    match declared {
        Ok(()) => {}
        Err(error) if error.kind == LinkErrorKind::Mismatch => match kind_there(&error.text) {
            Some(found) => {
                let message = format!(
                    "exchange `{name}` exists as {found}, and {kind} was asked for; write `kind = \"{found}\"`, choose \
                     another name, or delete it when nobody needs it"
                );
                return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
            }
            None if error.text.contains("inequivalent arg") => {}
            None => return Err(failed(&error)),
        },
        // Who may not declare uses what is there.
        Err(error) if error.kind == LinkErrorKind::Refused && exists(declarer, name).await? => {}
        Err(error) => return Err(failed(&error)),
    }
    declarer.saw(&seen_as(name));
    Ok(())
}

/// Makes sure that a binding exists; where nothing is declared, somebody else has: AMQP does not show bindings.
pub(super) async fn bind(declarer: &Declarer, binding: &Binding) -> Result<(), BrokerError> {
    if !declarer.declares {
        return Ok(());
    }
    let Binding { exchange, queue, on } = binding;
    let key = if let Criterion::Key(key) = on { key } else { "" };
    let failed = |error: &LinkError| {
        let missing = match &*error.text {
            text if error.kind == LinkErrorKind::NotFound && text.contains("no exchange") => {
                format!("exchange `{exchange}`")
            }
            _ if error.kind == LinkErrorKind::NotFound => format!("queue `{queue}`"),
            _ => return broker_error(&format!("queue `{queue}` could not be bound to exchange `{exchange}`"), error),
        };
        BrokerError::new(BrokerErrorKind::Permanent, format!("{missing} was not declared"))
    };
    let channel = declarer.channel().await.map_err(|error| failed(&error))?;
    let bound = channel.bind(queue.as_str(), exchange.as_str(), key, wire::binding_arguments(on)).await;
    bound.map_err(|error| failed(&error))?;
    channel.close().await;
    Ok(())
}

/// Sees that an exchange exists before something is published to it: a publish to none closes the
/// channel, with everything on it that waits for a confirm.
pub(super) async fn check(declarer: &Declarer, name: &ExchangeName) -> Result<(), BrokerError> {
    let seen = seen_as(name);
    if declarer.is_seen(&seen) {
        return Ok(());
    }
    if let Some(why) = declarer.refusal(&seen) {
        let message = format!("exchange `{name}` may not be published to: {why}; it is tried again later");
        return Err(BrokerError::new(BrokerErrorKind::Transient, message));
    }
    if !declarer.looks().shared(&seen, exists(declarer, name)).await? {
        let message = format!(
            "exchange `{name}` was not declared; run a program that consumes from it first, or `topology apply`"
        );
        return Err(BrokerError::new(BrokerErrorKind::Permanent, message));
    }
    declarer.saw(&seen);
    Ok(())
}

/// The server refused what was published to it, and ended the channel: the next try waits a while.
pub(super) fn note_refusal(declarer: &Declarer, name: &ExchangeName, why: &str) {
    // It may have been another's on the same channel.
    if why.contains(&format!("'{name}'")) {
        declarer.note_refusal(&seen_as(name), why);
    }
}

/// What was published to it has no certain answer: it may be gone.
pub(super) fn forget(declarer: &Declarer, name: &ExchangeName) {
    declarer.forget(&seen_as(name));
}

/// Not a name that a queue can have.
fn seen_as(name: &ExchangeName) -> String {
    format!("exchange {name}")
}

async fn exists(declarer: &Declarer, name: &ExchangeName) -> Result<bool, BrokerError> {
    let failed = |error: LinkError| broker_error(&format!("exchange `{name}` could not be looked at"), &error);
    let channel = declarer.channel().await.map_err(failed)?;
    match channel.declare_exchange(name.as_str(), DeclareExchange::Passive).await {
        Ok(()) => {
            channel.close().await;
            Ok(true)
        }
        Err(error) if error.kind == LinkErrorKind::NotFound => Ok(false),
        // It may not be looked at: the publish will tell.
        Err(error) if error.kind == LinkErrorKind::Refused => Ok(true),
        Err(error) => Err(failed(error)),
    }
}

/// Which kind the exchange has that is there, where that is what differs.
///
/// `PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'events' in vhost '/': received 'fanout' but current is 'topic'`
pub(super) fn kind_there(told: &str) -> Option<&str> {
    let rest = told.split_once("inequivalent arg 'type'")?.1;
    rest.split_once("current is '")?.1.split('\'').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_kind_is_read_as_one() {
        let told = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'events' in vhost '/': received 'fanout' \
                    but current is 'topic'";
        assert_eq!(kind_there(told), Some("topic"));
        let durable = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'events' in vhost '/': received \
                       'true' but current is 'false'";
        assert_eq!(kind_there(durable), None);
    }
}
