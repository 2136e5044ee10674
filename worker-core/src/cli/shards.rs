//! The queues of the broker that a queue of jobs is, those included that it was when it had more shards.

use crate::{
    broker::{Inspector, QueueStats},
    cli::fail::Fail,
    client::Client,
    name::QueueName,
    registry::Registry,
    shard,
};

/// Whether shards are looked for where a queue has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It costs a question, which the server answers by closing a channel.
    OfAll,
    OfSharded,
}

/// How the queues in the broker are that `queues` are, and those that the broker lists by itself.
///
/// A broker that lists none is asked for one more shard of each queue until there is none: whoever has made four
/// of them two must see what is left in the others. They are emptied and deleted from the last on.
pub(super) async fn stats(
    client: &Client,
    inspector: &dyn Inspector,
    registry: &Registry,
    queues: &[QueueName],
    former: Former,
) -> Result<Vec<QueueStats>, Fail> {
    // Where the dead letters are of one that is named by itself.
    queues.iter().for_each(|queue| client.broker().know(&registry.topology(queue)));
    let wanted: Vec<_> = queues.iter().flat_map(|queue| registry.shards(queue)).collect();
    let mut found = inspector.queues(&wanted).await?;
    if client.broker().capabilities().counts_all {
        return Ok(found);
    }
    for queue in queues.iter().filter(|queue| shard::number(queue) == 0) {
        let declared = registry.shards(queue).len();
        if declared == 1 && former == Former::OfSharded {
            continue;
        }
        for n in (1..shard::SHARDS_MAX).skip_while(|n| usize::from(*n) < declared) {
            let Some(name) = shard::name(queue, n) else { break };
            // Where its dead letters are.
            client.broker().know(&registry.topology(&name));
            // Whose rights end with the shards that there are has none of others.
            if inspector.exists(&name).await? != Some(true) {
                break;
            }
            let asked = inspector.queues(std::slice::from_ref(&name)).await?;
            let Some(stats) = asked.into_iter().find(|stats| stats.queue == name) else { break };
            found.push(stats);
        }
    }
    found.sort_by_key(|stats| order(&stats.queue));
    found.dedup_by(|a, b| a.queue == b.queue);
    Ok(found)
}

/// By queue, and then by number: `orders.shard-10` comes after `orders.shard-9`.
fn order(name: &QueueName) -> (QueueName, u8) {
    (shard::whole(name), shard::number(name))
}

/// The shards of a queue as one: what is unknown of one is unknown of all.
pub(super) fn sum(queue: QueueName, shards: &[QueueStats]) -> QueueStats {
    let mut total = QueueStats::empty(queue);
    for QueueStats { ready, running, delayed, retrying, dead, consumers, queue: _ } in shards {
        total.ready += ready;
        total.running = total.running.zip(*running).map(|(a, b)| a + b);
        total.delayed = total.delayed.zip(*delayed).map(|(a, b)| a + b);
        total.retrying = total.retrying.zip(*retrying).map(|(a, b)| a + b);
        total.dead += dead;
        total.consumers += consumers;
    }
    total
}

/// What was found by queue, each with its shards; one that `named` has by itself is one.
pub(super) fn by_queue(found: Vec<QueueStats>, named: &[QueueName]) -> Vec<(QueueName, Vec<QueueStats>)> {
    let mut queues: Vec<(QueueName, Vec<QueueStats>)> = Vec::new();
    for stats in found {
        let whole = shard::whole(&stats.queue);
        let alone = named.contains(&stats.queue) && !named.contains(&whole);
        let of = if alone { stats.queue.clone() } else { whole };
        match queues.iter_mut().find(|(queue, _)| *queue == of) {
            Some((_, shards)) => shards.push(stats),
            None => queues.push((of, vec![stats])),
        }
    }
    queues.iter_mut().for_each(|(_, shards)| shards.sort_by_key(|stats| shard::number(&stats.queue)));
    queues
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, ready: u64, running: Option<u64>) -> QueueStats {
        QueueStats {
            ready,
            running,
            delayed: Some(1),
            dead: 1,
            consumers: 2,
            ..QueueStats::empty(name.parse().unwrap())
        }
    }

    #[test]
    fn shards_are_added_up_and_what_is_unknown_stays_so() {
        let total = sum("q".parse().unwrap(), &[stats("q", 3, Some(1)), stats("q.shard-1", 4, None)]);
        let expected = QueueStats {
            ready: 7,
            running: None,
            delayed: Some(2),
            dead: 2,
            consumers: 4,
            retrying: Some(0),
            queue: total.queue.clone(),
        };
        assert_eq!(total, expected);
        assert_eq!(
            sum("q".parse().unwrap(), &[stats("q", 3, Some(1)), stats("q.shard-1", 0, Some(1))]).running,
            Some(2)
        );
    }

    #[test]
    fn shards_stand_with_their_queue_in_the_order_of_their_numbers() {
        let found = ["q", "q.shard-10", "q.shard-9", "r", "s.shard-2"].map(|name| stats(name, 0, None)).to_vec();
        let names = |named: &[QueueName]| {
            let queues = by_queue(found.clone(), named).into_iter();
            queues
                .map(|(queue, shards)| {
                    format!(
                        "{queue}: {}",
                        shards.iter().map(|stats| stats.queue.as_str()).collect::<Vec<_>>().join(" ")
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["q: q q.shard-9 q.shard-10", "r: r", "s: s.shard-2"]);
        let named = ["r", "s.shard-2"].map(|name| name.parse().unwrap());
        assert_eq!(names(&named)[1..], ["r: r", "s.shard-2: s.shard-2"]);
    }
}
