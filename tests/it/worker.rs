//! The worker as an application meets it: what becomes of each job, and when.
//!
//! On the memory broker in virtual time, so that an hour passes at once and
//! every time can be compared exactly; some cases of `journeys`, `prefetch` and `shards` run on real brokers, too.

/// Runs each of these cases, which are generic in a fixture, on every broker.
macro_rules! on_all_brokers {
    ($($case:ident)*) => {
        mod memory {$(
            #[test]
            fn $case() {
                super::run::<super::MemoryFixture<true>>(super::$case);
            }
        )*}
        mod sqlite {$(
            #[test]
            fn $case() {
                super::run::<super::SqliteFixture>(super::$case);
            }
        )*}
        mod rabbitmq {$(
            #[test]
            fn $case() {
                super::run::<super::RabbitFixture>(super::$case);
            }
        )*}
    };
}

mod calls;
mod events;
mod faults;
mod journeys;
mod limits;
mod many;
mod meter;
mod outcomes;
mod prefetch;
mod shards;
mod start;
mod status;
mod suspects;
mod timeouts;
mod together;
mod unknown;
