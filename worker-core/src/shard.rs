//! One queue that is several in the broker: what they are called, and into which a job goes. Pure.
//!
//! On RabbitMQ a quorum queue is one process on one node. A queue with shards is several, so that its
//! messages, and the work of replicating them, are spread over the nodes of a cluster.
//!
//! Shard 0 of `orders` is the queue `orders` itself: a queue gets shards without losing what waits in it, and
//! loses them again. Shard `n` is `orders.shard-n`.
//!
//! A key belongs to shard `FNV-1a-64(key as UTF-8) mod N`. That is [FNV-1a](http://www.isthe.com/chongo/tech/comp/fnv/)
//! of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv), ten lines in any language: begin with
//! `0xcbf29ce484222325`; for each byte, exclusive-or it in and multiply by `0x100000001b3`, modulo 2^64.
//!
//! # Examples
//!
//! ```
//! use worker_core::{QueueName, shard};
//!
//! let orders: QueueName = "orders".parse()?;
//! let shard = shard::of_key("customer-7", 4.try_into()?);
//! assert_eq!(shard::name(&orders, shard).unwrap(), "orders.shard-1");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::num::NonZeroU8;

use crate::name::{NAME_BYTES_MAX, QueueName};

/// The most shards of a queue.
///
/// 64: several for each node of the largest cluster that a quorum queue makes sense on. Each has up to
/// some dozens of queues of its own for retries.
pub const SHARDS_MAX: u8 = 64;

/// What stands between the name of a queue and the number of its shard.
const MARK: &str = ".shard-";

/// The most bytes in the name of a queue with shards: the number of the last is behind it.
pub const QUEUE_BYTES_MAX: usize = NAME_BYTES_MAX - MARK.len() - 2;

/// The queue that is shard `n` of `queue`; `None` where that is too long for a name.
#[must_use]
pub fn name(queue: &QueueName, n: u8) -> Option<QueueName> {
    if n == 0 { Some(queue.clone()) } else { format!("{queue}{MARK}{n}").parse().ok() }
}

/// The queue whose shard `name` is; itself, unless it is called like one.
#[must_use]
pub fn whole(name: &QueueName) -> QueueName {
    match split(name) {
        (_, 0) => name.clone(),
        // What stands before the mark is a part of a name and not empty.
        (queue, _) => queue.parse().unwrap_or_else(|_| name.clone()),
    }
}

/// Which shard `name` is: 0, unless it is called like another.
#[must_use]
pub fn number(name: &QueueName) -> u8 {
    split(name).1
}

/// Whether `name` is `queue` or is called like one of its shards.
#[must_use]
pub fn is_of(name: &QueueName, queue: &QueueName) -> bool {
    split(name).0 == queue.as_str()
}

/// The shard of `key` where there are so many.
#[must_use]
pub fn of_key(key: &str, shards: NonZeroU8) -> u8 {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Less than `shards`, which fits.
    u8::try_from(hash % u64::from(shards.get())).unwrap_or(0)
}

/// The queue and the number in `name`, which is written in one way only: `orders.shard-03` is no shard.
fn split(name: &QueueName) -> (&str, u8) {
    let whole = (name.as_str(), 0);
    let Some((queue, digits)) = name.as_str().rsplit_once(MARK) else { return whole };
    let canonical = !queue.is_empty() && !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit());
    match digits.parse::<u8>() {
        Ok(n) if canonical && n < SHARDS_MAX => (queue, n),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> QueueName {
        name.parse().unwrap()
    }

    #[test]
    fn the_first_shard_is_the_queue_itself_and_the_others_are_numbered() {
        let orders = queue("orders");
        let names: Vec<_> = (0..3).map(|n| name(&orders, n).unwrap().to_string()).collect();
        assert_eq!(names, ["orders", "orders.shard-1", "orders.shard-2"]);
    }

    #[test]
    fn a_shard_knows_its_queue_and_its_number() {
        let orders = queue("orders");
        for n in 0..SHARDS_MAX {
            let shard = name(&orders, n).unwrap();
            assert_eq!((whole(&shard), number(&shard)), (orders.clone(), n));
            assert!(is_of(&shard, &orders) && !is_of(&shard, &queue("order")));
        }
    }

    #[test]
    fn only_what_a_shard_would_be_called_is_one() {
        for other in [
            "orders.shard-0",
            "orders.shard-03",
            "orders.shard-64",
            "orders.shard-",
            "orders.shard-1_dlq",
            ".shard-1",
            "orders.shard-999",
            "orders-shard-1",
        ]
        .into_iter()
        .filter_map(|name| name.parse::<QueueName>().ok())
        {
            assert_eq!((whole(&other), number(&other)), (other.clone(), 0));
        }
    }

    #[test]
    fn the_longest_queue_with_shards_has_a_name_for_the_last() {
        let longest = queue(&"q".repeat(QUEUE_BYTES_MAX));
        assert_eq!(name(&longest, SHARDS_MAX - 1).unwrap().as_str().len(), NAME_BYTES_MAX);
        assert_eq!(name(&queue(&"q".repeat(NAME_BYTES_MAX)), 1), None);
    }

    /// With the whole range, modulo 64 is the lowest six bits of what its authors publish.
    #[test]
    fn a_key_is_hashed_as_others_hash_it() {
        let of = |key| of_key(key, NonZeroU8::new(64).unwrap());
        let published =
            [("", 0xcbf2_9ce4_8422_2325_u64), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)];
        for (key, hash) in published {
            assert_eq!(u64::from(of(key)), hash % 64, "{key}");
            let of_three = of_key(key, NonZeroU8::new(3).unwrap());
            assert_eq!(u64::from(of_three), hash % 3, "{key}");
        }
    }

    #[test]
    fn usual_keys_are_spread() {
        for shards in [2, 3, 4, 7, 16] {
            let mut counts = vec![0_u32; usize::from(shards)];
            for n in 0..4_000 {
                counts[usize::from(of_key(&format!("customer-{n}"), NonZeroU8::new(shards).unwrap()))] += 1;
            }
            let fair = 4_000 / u32::from(shards);
            assert!(counts.iter().all(|count| (fair / 2..fair * 2).contains(count)), "{shards}: {counts:?}");
        }
    }

    #[test]
    fn one_shard_has_all_keys() {
        assert_eq!(of_key("anything", NonZeroU8::MIN), 0);
    }
}
