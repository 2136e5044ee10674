//! Whose turn it is among the shards of a queue.

use std::{
    collections::HashMap,
    num::NonZeroU8,
    sync::{Mutex, PoisonError},
};

use crate::name::QueueName;

/// Of each queue, the shard that had the last job without a key.
///
/// For each by itself: with one counter for all, a program that enqueues into two queues in turn would fill
/// every other shard of each.
#[derive(Default)]
pub(super) struct Turns {
    last: Mutex<HashMap<QueueName, u8>>,
}

impl Turns {
    /// The shard of the next job. The first is drawn, or those of a thousand short-lived programs that enqueue
    /// one job each would all be in one shard.
    pub(super) fn next(&self, queue: &QueueName, shards: NonZeroU8) -> u8 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(queue) {
            Some(last) => {
                // Two types of job may disagree about the number until a worker refuses them.
                *last = last.wrapping_add(1) % shards;
                *last
            }
            None => *last.entry(queue.clone()).or_insert_with(|| fastrand::u8(..shards.get())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_of_each_queue_has_its_turn() {
        let (turns, four) = (Turns::default(), NonZeroU8::new(4).unwrap());
        let mut seen = [[0; 4]; 2];
        for n in 0..16 {
            // Two queues in turn.
            let queue = format!("q{}", n % 2).parse().unwrap();
            seen[n % 2][usize::from(turns.next(&queue, four))] += 1;
        }
        assert_eq!(seen, [[2; 4]; 2]);
    }
}
