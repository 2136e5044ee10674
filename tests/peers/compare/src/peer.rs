//! Those that are compared, and what is to be reached beside each.

use crate::measure::Goal;

/// Where the jobs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// A queue of this type, as RabbitMQ names it.
    RabbitMq(&'static str),
    /// A file.
    Sqlite,
    /// With `appendfsync always`.
    Redis,
}

impl Store {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RabbitMq(kind) => kind,
            Self::Sqlite => "SQLite",
            Self::Redis => "Redis",
        }
    }
}

/// What a peer is written in, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// A package, in one of the two workspaces.
    Rust(&'static str),
    /// A script.
    Python(&'static str),
    /// A script.
    Node(&'static str),
}

/// One of our sides, and the goals beside it: at least so many times the peer's rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    pub(crate) store: Store,
    pub(crate) process: Goal,
    pub(crate) enqueue: Goal,
}

/// One of those that are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) program: Program,
    pub(crate) store: Store,
    /// How many jobs: so many that a round takes seconds, and few where each costs much.
    pub(crate) jobs: u64,
    pub(crate) beside: &'static [Beside],
    /// Whether its `Ok` says that the broker has the job.
    pub(crate) confirmed: bool,
    /// How durable it is, as it is measured here, and what was set.
    pub(crate) note: &'static str,
}

const QUORUM: Store = Store::RabbitMq("quorum");
const CLASSIC: Store = Store::RabbitMq("classic");

const fn at_least(process: f64, enqueue: Option<f64>) -> (Goal, Goal) {
    let enqueue = match enqueue {
        Some(ratio) => Goal::RatioAtLeast(ratio),
        None => Goal::None,
    };
    (Goal::RatioAtLeast(process), enqueue)
}

/// Ours in the same kind of queue as the peer.
const fn same(store: Store, (process, enqueue): (Goal, Goal)) -> Beside {
    Beside { store, process, enqueue }
}

/// Ours in a quorum queue, which is the default, beside a peer that has none.
const fn by_default((process, enqueue): (Goal, Goal)) -> Beside {
    Beside { store: QUORUM, process, enqueue }
}

/// No goal: it stands there to be compared with.
const NONE: (Goal, Goal) = (Goal::None, Goal::None);

/// Our framework; its store is that of the comparison.
pub(crate) const OURS: Peer = Peer {
    name: "ours",
    version: "this commit",
    program: Program::Rust("peer-ours"),
    store: QUORUM,
    // In a tenth of a second a worker has hardly started.
    jobs: 100_000,
    beside: &[],
    confirmed: true,
    note: "confirmed, mandatory, persistent; acknowledged after the run; SQLite with synchronous=FULL",
};

/// In the order in which they are measured.
pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: "apalis-amqp",
        version: "apalis-amqp 1.0.0, Rust",
        program: Program::Rust("peer-apalis-amqp"),
        store: QUORUM,
        jobs: 20_000,
        beside: &[same(QUORUM, at_least(1.5, Some(15.0)))],
        confirmed: false,
        note: "no confirms, not mandatory, transient by default; acknowledged after the run; prefetch 256",
    },
    Peer {
        name: "queuey",
        version: "queuey 1.1.0, Rust",
        program: Program::Rust("peer-queuey"),
        store: CLASSIC,
        jobs: 30_000,
        beside: &[same(CLASSIC, at_least(2.5, Some(1.8))), by_default((Goal::None, Goal::RatioAtLeast(4.0)))],
        confirmed: true,
        note: "confirmed, mandatory, persistent; acknowledged after the run; prefetch 256, 64 publishes at once",
    },
    Peer {
        name: "kojin",
        version: "kojin 0.4.0, Rust",
        program: Program::Rust("peer-kojin"),
        store: CLASSIC,
        jobs: 30_000,
        beside: &[same(CLASSIC, at_least(2.5, None)), by_default(NONE)],
        confirmed: false,
        note: "no confirms, not mandatory, persistent; acknowledged after the run; prefetch and concurrency 256",
    },
    Peer {
        name: "rusty-celery",
        version: "celery 0.5.5, Rust",
        program: Program::Rust("peer-rusty-celery"),
        store: CLASSIC,
        jobs: 30_000,
        beside: &[same(CLASSIC, NONE), by_default(at_least(3.0, None))],
        confirmed: false,
        note: "no confirms, not mandatory, persistent; acknowledged after the run as acks_late is set; prefetch 256",
    },
    Peer {
        name: "celery",
        version: "Celery 5.7.0, Python",
        program: Program::Python("celery_peer.py"),
        store: CLASSIC,
        jobs: 5_000,
        beside: &[same(CLASSIC, NONE), by_default(at_least(15.0, Some(20.0)))],
        confirmed: true,
        note: "confirm_publish and acks_late set; persistent, not mandatory; no results; a process for each processor, prefetch 64 each",
    },
    Peer {
        name: "dramatiq",
        version: "Dramatiq 2.2.1, Python",
        program: Program::Python("dramatiq_peer.py"),
        store: CLASSIC,
        jobs: 5_000,
        beside: &[same(CLASSIC, NONE), by_default(at_least(6.0, Some(20.0)))],
        confirmed: true,
        note: "confirm_delivery set; persistent; acknowledged after the run; a process with 8 threads for each processor, its default",
    },
    Peer {
        name: "apalis-sqlite",
        version: "apalis-sqlite 1.0.0, Rust",
        program: Program::Rust("peer-apalis-sqlite"),
        store: Store::Sqlite,
        jobs: 10_000,
        beside: &[same(Store::Sqlite, at_least(6.0, None))],
        confirmed: true,
        note: "WAL, synchronous=FULL set after its setup, which sets OFF; batches of 100; analysed first",
    },
    Peer {
        name: "riverqueue",
        version: "riverqueue 0.5.0, Rust",
        program: Program::Rust("peer-riverqueue"),
        store: Store::Sqlite,
        jobs: 10_000,
        beside: &[same(Store::Sqlite, at_least(10.0, None))],
        confirmed: true,
        note: "WAL, synchronous=FULL; 1,000 workers, cooldown of 1 ms between fetches",
    },
    Peer {
        name: "bullmq",
        version: "BullMQ 6.7.0, Node.js",
        program: Program::Node("bullmq_peer.mjs"),
        store: Store::Redis,
        jobs: 20_000,
        beside: &[same(QUORUM, at_least(5.0, None))],
        confirmed: true,
        note: "Redis with appendfsync=always; addBulk of 100; concurrency 100; moved to done after the run",
    },
];
