//! The plans: how many jobs, on what, and what is done to them meanwhile.

use super::fate::Mix;
use clap::ValueEnum;
use worker_core::brokers::rabbitmq::Mutant;

/// Where the jobs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A RabbitMQ server of so many nodes.
    Nodes(usize),
    /// A file of SQLite's.
    File,
}

/// Something bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A worker is killed (SIGKILL), and started anew.
    KillWorker,
    /// A worker is stopped (SIGSTOP) for a while.
    FreezeWorker,
    /// A worker is asked to end (SIGTERM), and started anew when it has.
    RestartWorker,
    /// A producer is killed, and started anew after the last job it tried.
    KillProducer,
    /// A node is killed and started again.
    KillNode,
    /// The node that leads the queue is killed and started again.
    KillLeader,
    /// A node is stopped for a while.
    FreezeNode,
    /// A node is stopped in an orderly way (SIGTERM), and started again.
    RestartNode,
    /// A node and the others lose sight of each other for a while.
    Partition,
    /// Nothing gets through between a node and the others for a while, and neither side is told.
    Silence,
    /// Nothing that a node says gets through to the others.
    Mute,
    /// Nothing that the others say gets through to a node.
    Deaf,
    /// The server closes all connections.
    CloseConnections,
    /// All connections end with a reset.
    Reset,
    /// What the server says does not arrive for a while.
    StallToClient,
    /// What clients say does not arrive for a while.
    StallToNode,
    /// Few bytes a second go through.
    Slow,
    /// Frames arrive damaged.
    Corrupt,
    /// The server is short of memory for a while, and takes no jobs.
    MemoryAlarm,
    /// The same with its disk.
    DiskAlarm,
    /// The server gives workers almost no time to acknowledge, and closes the channels of those that take more.
    ConsumerTimeout,
    /// The queue is deleted with all that is in it. What was there is gone, and is counted apart.
    DeleteQueue,
}

impl Fault {
    /// Whether it is done to one of our processes, and not to what they are connected to.
    #[must_use]
    pub const fn is_of_a_process(self) -> bool {
        matches!(self, Self::KillWorker | Self::FreezeWorker | Self::RestartWorker | Self::KillProducer)
    }

    /// Whether it is done to the network between nodes, which must then be the run's own.
    #[must_use]
    pub const fn is_of_the_network(self) -> bool {
        matches!(self, Self::Silence | Self::Mute | Self::Deaf)
    }

    /// Whether a node is lost by it, to its clients or to the others.
    #[must_use]
    pub const fn costs_nodes(self) -> bool {
        let dies = matches!(self, Self::KillNode | Self::KillLeader | Self::RestartNode | Self::FreezeNode);
        dies || self.is_of_the_network() || matches!(self, Self::Partition)
    }

    /// Whether connections are lost by it.
    #[must_use]
    pub const fn costs_connections(self) -> bool {
        let takes_none = matches!(self, Self::Slow | Self::MemoryAlarm | Self::DiskAlarm | Self::DeleteQueue);
        !self.is_of_a_process() && !takes_none
    }

    /// Its name, as in the report and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A run as it is planned; a seed decides the order of the faults, whom they hit, and how long they last.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the jobs are.
    pub place: Place,
    /// How many there are.
    pub jobs: u64,
    /// What they do.
    pub mix: Mix,
    /// How many worker processes run.
    pub workers: usize,
    /// How many processes enqueue.
    pub producers: usize,
    /// How many jobs may wait before producers pause.
    pub backlog: u64,
    /// How many jobs a worker runs at once,
    pub concurrency: u16,
    /// and how many it holds.
    pub prefetch: u16,
    /// How many jobs may be in one message.
    pub bundle: u16,
    /// What happens, and how often.
    pub faults: Vec<(Fault, usize)>,
    /// The most duplicates in a hundred jobs, where the plan has such a goal.
    pub duplicates_percent_max: Option<f64>,
    /// The longest pause after a server is back until a job begins, in milliseconds: the median, and the 99th in 100.
    pub resumes_ms_max: Option<(u64, u64)>,
    /// The variant, known to be bad, that all processes are; it must be caught.
    pub mutant: Option<Mutant>,
}

/// Most jobs do nothing; one in twenty fails once, one in a thousand for good, some take a few milliseconds.
const USUAL: Mix = Mix { fails_once: 20, fails: 1_000, kills: 0, takes_time: 100, millis_max: 50 };

/// What others are made of.
const BASE: Plan = Plan {
    place: Place::Nodes(1),
    jobs: 20_000,
    mix: USUAL,
    workers: 3,
    producers: 2,
    backlog: 10_000,
    concurrency: 16,
    prefetch: 32,
    bundle: 1,
    faults: Vec::new(),
    duplicates_percent_max: None,
    resumes_ms_max: None,
    mutant: None,
};

/// The plans by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// RabbitMQ: every fault that one node can have, in two minutes
    Smoke,
    /// SQLite: processes that are killed and frozen, in half a minute
    SmokeSqlite,
    /// RabbitMQ: jobs of which ten share a message
    Bundles,
    /// RabbitMQ: a million jobs, 12 kills of the server, 300 of workers, 30 resets, 4 alarms
    Million,
    /// RabbitMQ: three nodes, 200,000 jobs, 6 leaders killed, 6 partitions
    Cluster,
    /// RabbitMQ: three nodes, of which one is cut off from the others without a word, both ways or one way
    Silence,
    /// RabbitMQ: jobs that kill their workers among 10,000 that do not
    Poison,
    /// RabbitMQ: 30 kills of the server; how soon workers go on
    Resume,
    /// SQLite: 2,000 kills of processes that commit
    Sqlite,
    /// SQLite: workers that are frozen for longer than their leases
    Zombies,
    /// RabbitMQ: jobs of up to two seconds, and no fault
    Long,
    /// RabbitMQ: a little of all that a bad variant could do wrong
    Mutants,
}

impl Name {
    /// The plan of this name.
    #[must_use]
    pub fn plan(self) -> Plan {
        match self {
            Self::Smoke => Plan {
                faults: vec![
                    (Fault::KillWorker, 10),
                    (Fault::FreezeWorker, 1),
                    (Fault::RestartWorker, 2),
                    (Fault::KillProducer, 2),
                    (Fault::KillNode, 2),
                    (Fault::RestartNode, 1),
                    (Fault::FreezeNode, 1),
                    (Fault::CloseConnections, 2),
                    (Fault::Reset, 2),
                    (Fault::StallToClient, 1),
                    (Fault::StallToNode, 1),
                    (Fault::Slow, 1),
                    (Fault::Corrupt, 2),
                    (Fault::MemoryAlarm, 1),
                    (Fault::DiskAlarm, 1),
                    (Fault::ConsumerTimeout, 1),
                    (Fault::DeleteQueue, 1),
                ],
                ..BASE
            },
            Self::Bundles => Plan {
                prefetch: 8,
                bundle: 10,
                faults: vec![
                    (Fault::KillWorker, 6),
                    (Fault::RestartWorker, 3),
                    (Fault::KillProducer, 1),
                    (Fault::KillNode, 1),
                    (Fault::CloseConnections, 2),
                    (Fault::Reset, 1),
                    (Fault::ConsumerTimeout, 1),
                ],
                ..BASE
            },
            Self::SmokeSqlite => Plan {
                place: Place::File,
                faults: vec![
                    (Fault::KillWorker, 10),
                    (Fault::FreezeWorker, 2),
                    (Fault::RestartWorker, 2),
                    (Fault::KillProducer, 4),
                ],
                ..BASE
            },
            Self::Million => Plan {
                jobs: 1_000_000,
                workers: 4,
                backlog: 20_000,
                // Jobs that take no time are all done before the server has read an acknowledgement: of what a worker
                // holds that is killed most runs twice.
                concurrency: 8,
                prefetch: 12,
                faults: vec![
                    (Fault::KillWorker, 300),
                    (Fault::KillProducer, 10),
                    (Fault::KillNode, 12),
                    (Fault::Reset, 30),
                    (Fault::MemoryAlarm, 2),
                    (Fault::DiskAlarm, 2),
                ],
                duplicates_percent_max: Some(0.5),
                ..BASE
            },
            Self::Cluster => Plan {
                place: Place::Nodes(3),
                jobs: 200_000,
                faults: vec![(Fault::KillWorker, 20), (Fault::KillLeader, 6), (Fault::Partition, 6)],
                ..BASE
            },
            Self::Silence => Plan {
                place: Place::Nodes(3),
                jobs: 100_000,
                faults: vec![(Fault::KillWorker, 10), (Fault::Silence, 4), (Fault::Mute, 2), (Fault::Deaf, 2)],
                ..BASE
            },
            Self::Poison => Plan {
                jobs: 10_010,
                mix: Mix { fails_once: 0, fails: 0, kills: 1_001, takes_time: 10, millis_max: 20 },
                workers: 2,
                prefetch: 50,
                ..BASE
            },
            Self::Resume => Plan {
                jobs: 150_000,
                mix: Mix { fails_once: 0, fails: 0, kills: 0, takes_time: 1, millis_max: 4 },
                workers: 2,
                backlog: 5_000,
                faults: vec![(Fault::KillNode, 30)],
                resumes_ms_max: Some((1_000, 2_000)),
                ..BASE
            },
            Self::Sqlite => Plan {
                place: Place::File,
                jobs: 1_000_000,
                workers: 3,
                producers: 3,
                faults: vec![(Fault::KillWorker, 1_000), (Fault::KillProducer, 1_000)],
                ..BASE
            },
            Self::Zombies => {
                Plan { place: Place::File, jobs: 200_000, workers: 4, faults: vec![(Fault::FreezeWorker, 500)], ..BASE }
            }
            Self::Long => Plan {
                jobs: 2_000,
                producers: 1,
                mix: Mix { fails_once: 0, fails: 0, kills: 0, takes_time: 1, millis_max: 2_000 },
                concurrency: 50,
                prefetch: 60,
                backlog: 1_000,
                ..BASE
            },
            Self::Mutants => Plan {
                jobs: 6_000,
                mix: Mix { fails_once: 5, fails: 50, kills: 0, takes_time: 10, millis_max: 50 },
                backlog: 2_000,
                faults: vec![
                    (Fault::KillWorker, 5),
                    (Fault::RestartWorker, 5),
                    (Fault::KillNode, 1),
                    (Fault::CloseConnections, 5),
                    (Fault::Reset, 5),
                    (Fault::StallToClient, 2),
                    (Fault::DeleteQueue, 3),
                ],
                ..BASE
            },
        }
    }
}
