//! The end of the server's patience with who holds a message for too long: its `consumer_timeout`.
//!
//! Before 4.3 the channel is closed with all that it holds, and what comes back counts as a failed delivery (measured on
//! 3.10.8). Since then the queue asks: a quorum queue cancels the consumer and takes its messages back, the channel
//! stays, and a late settlement is answered as any other and changes nothing (measured: the cancelling; said by its
//! source: the rest). Classic queues are patient there.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{ChannelId, ChannelState, Consumer, Given, Outgoing, Return, State, Unacked, Way};
use crate::brokers::rabbitmq::simulated::refusal;

impl State {
    /// Takes away what somebody has held for so long or longer; how many messages.
    pub(in super::super) fn lose_patience(&mut self, held: Duration, now: Instant) -> usize {
        let is_late = |unacked: &Unacked| now.saturating_duration_since(unacked.since) >= held;
        let late = |(_, state): &(&ChannelId, &ChannelState)| state.unacked.values().any(is_late);
        let channels: Vec<_> = self.channels.iter().filter(late).map(|(channel, _)| *channel).collect();
        let mut taken = 0;
        for channel in channels {
            taken += if self.modern { self.cancel_late(channel, is_late, now) } else { self.close_late(channel, now) };
        }
        taken
    }

    fn close_late(&mut self, channel: ChannelId, now: Instant) -> usize {
        let Some(state) = self.channels.get(&channel) else { return 0 };
        let (end, held) = (Arc::clone(&state.end), state.unacked.len());
        // Who consumes there hears the reason, and not before it that there is nothing more.
        let ways: Vec<Way> = state.consumers.values().map(|consumer| consumer.way.clone()).collect();
        let deed = move || {
            end(&refusal::too_late());
            drop(ways);
        };
        self.outgoing.push(Outgoing { connection: channel.0, deed: Box::new(deed) });
        self.close(channel, now);
        held
    }

    fn cancel_late(
        &mut self,
        (connection, number): ChannelId,
        is_late: impl Fn(&Unacked) -> bool,
        now: Instant,
    ) -> usize {
        let Some(state) = self.channels.get_mut(&(connection, number)) else { return 0 };
        let is_asked = |unacked: &Unacked| self.queues.get(&unacked.queue).is_some_and(|queue| queue.quorum);
        let late = state.unacked.values().filter(|unacked| is_asked(unacked) && is_late(unacked));
        let tags: BTreeSet<String> = late.filter_map(|unacked| unacked.consumer.clone()).collect();
        let mut taken = Vec::new();
        for tag in tags {
            let is_its = |unacked: &Unacked| unacked.consumer.as_ref() == Some(&tag);
            let (its, others) = mem::take(&mut state.unacked).into_iter().partition(|(_, unacked)| is_its(unacked));
            let its: BTreeMap<u64, Unacked> = its;
            state.unacked = others;
            state.taken_away.extend(its.keys());
            taken.extend(its.into_values());
            let Some(Consumer { queue, way, .. }) = state.consumers.remove(&tag) else { continue };
            if let Some(queue) = self.queues.get_mut(&queue) {
                queue.consumers.retain(|id| *id != (connection, number, tag.clone()));
            }
            self.outgoing.push(Outgoing::given(connection, way, Given::Cancelled));
        }
        let count = taken.len();
        taken.into_iter().for_each(|unacked| self.come_back(unacked, Return::Lost, now));
        count
    }
}
