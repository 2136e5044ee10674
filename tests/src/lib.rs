//! What tests the framework from outside: nothing here is published.
//!
//! | where | what | run alone with |
//! |---|---|---|
//! | [`mod@conformance`] | the broker contract, at least one case per clause | `cargo test -p worker-tests memory::` |
//! | `it/worker`, `it/shutdown`, `it/client` | the worker and the client as applications meet them | `cargo test -p worker-tests worker::` |
//! | [`mod@sim`], `it/sim` | whole runs decided by a seed | `cargo sim --seeds 10000`, `cargo test -p worker-tests sim::` |
//! | [`mod@torture`], `it/torture` | real processes and servers that a seed torments, and the count at the end | `cargo torture run smoke` |
//! | `fuzz`, `it/fuzz` | what reads bytes of others, over a corpus that is kept and its mutations | `cargo test -p worker-tests fuzz::` |
//! | `it/rabbit_interop` | programs in Python on the same queues, and what the guides say of RabbitMQ | `cargo test -p worker-tests rabbit_interop::` |
//! | `it/from_pika`, `it/from_celery` | the programs on the pages for those who come from there | `cargo test -p worker-tests from_` |
//! | `bin/bench`, `it/benchmark` | what is claimed of speed, beside bare loops | `cargo bench-all` |
//! | `it/system` | real processes on a SQLite file, killed, frozen and stopped | `cargo test -p worker-tests system::` |
//! | `it/rabbit_faults` | the same on RabbitMQ, with nodes that die, freeze and refuse | `cargo test -p worker-tests rabbit_faults::` |
//! | `it/cli` | the operator's binary as its user has it | `cargo test -p worker-tests cli::` |
//! | `it/deploy`, `it/readme`, `it/config`, `it/tidy` | what pages and files for users say, and how the code is built | `cargo test -p worker-tests tidy::` |
//! | `it/macros`, `ui` | what `#[job]` says about mistakes | `cargo test -p worker-tests macros::` |
//! | [`mod@rabbit`] | RabbitMQ nodes of the tests' own | `cargo test -p worker-tests rabbit::` |
//!
//! `cargo test -p worker-tests` runs everything but the torture and the benchmark, which `tests/run.sh` runs alone; all tests are independent and
//! run in parallel. Time is virtual wherever the broker allows it, so a test
//! may wait for an hour; where it is real, nothing waits longer than it must,
//! and [`eventually`](eventually::eventually) is the only place that polls, but for the torture.
//!
//! A broker joins by implementing [`BrokerFixture`](fixture::BrokerFixture)
//! and one line, [`conformance!`].
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test says by panicking that something is wrong"
)]

pub mod conformance;
pub mod consumer;
pub mod disk;
pub mod elsewhere;
pub mod eventually;
pub mod exposition;
pub mod fault;
pub mod fixture;
pub mod noop;
pub mod process;
pub mod python;
pub mod rabbit;
pub mod sample;
pub mod sim;
pub mod torture;

/// The code in the pages for users, compiled as they print it.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/guides/quickstart.md")]
    struct Quickstart;
    #[doc = include_str!("../../docs/reliability.md")]
    struct Reliability;
    #[doc = include_str!("../../docs/guides/retries-and-dead-letters.md")]
    struct RetriesAndDeadLetters;
    #[doc = include_str!("../../docs/guides/shutdown.md")]
    struct Shutdown;
    #[doc = include_str!("../../docs/guides/testing.md")]
    struct Testing;
    #[doc = include_str!("../../docs/guides/exchanges.md")]
    struct Exchanges;
    #[doc = include_str!("../../docs/guides/calls.md")]
    struct Calls;
    #[doc = include_str!("../../docs/guides/from-celery.md")]
    struct FromCelery;
    #[doc = include_str!("../../docs/guides/from-pika.md")]
    struct FromPika;
    #[doc = include_str!("../../docs/guides/choosing-a-broker.md")]
    struct ChoosingABroker;
    #[doc = include_str!("../../docs/guides/configuration.md")]
    struct Configuration;
    #[doc = include_str!("../../docs/guides/observability.md")]
    struct Observability;
    #[doc = include_str!("../../docs/guides/rabbitmq.md")]
    struct RabbitMq;
    #[doc = include_str!("../../docs/guides/topology.md")]
    struct Topology;
}
