//! What all rows share: the node, how much is measured, and the sides of a comparison in turn.

use std::{
    process,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;
use tokio::sync::OnceCell;
use worker_tests::rabbit::Node;

use crate::{
    measure::{Line, Sample},
    processor,
};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Few jobs: whether everything runs.
    Quick,
    Usual,
    /// A million jobs too.
    Full,
}

/// What all rows share.
pub(crate) struct Stage {
    pub(crate) scale: Scale,
    pub(crate) rounds: usize,
    server: OnceCell<Server>,
}

/// A node that runs, and the process that it is.
pub(crate) struct Server {
    pub(crate) node: Node,
    pid: u32,
}

impl Server {
    async fn of(node: Node) -> Self {
        let pid = node.eval("list_to_binary(os:getpid())").await;
        let pid = pid.as_str().unwrap().parse().unwrap();
        Self { node, pid }
    }
}

impl Stage {
    pub(crate) fn new(scale: Scale, rounds: usize) -> Self {
        Self { scale, rounds, server: OnceCell::new() }
    }

    /// A node of the benchmark's own, started when it is first asked for.
    pub(crate) async fn node(&self) -> &Node {
        &self.server().await.node
    }

    /// The same, with its process.
    pub(crate) async fn server(&self) -> &Server {
        let start = async || {
            eprintln!("starting a RabbitMQ node");
            Server::of(Node::start().await).await
        };
        self.server.get_or_init(start).await
    }

    /// Several nodes that are one server, which ends when this is dropped.
    pub(crate) async fn cluster(&self, count: usize) -> Vec<Server> {
        eprintln!("starting a cluster of {count} nodes");
        let mut servers = Vec::new();
        for node in Node::start_cluster(count).await {
            servers.push(Server::of(node).await);
        }
        servers
    }

    /// The node's version, where one was started.
    pub(crate) async fn node_version(&self) -> Option<String> {
        let Server { node, .. } = self.server.get()?;
        let version = node.eval("list_to_binary(rabbit_misc:version())").await;
        Some(version.as_str().unwrap().to_owned())
    }

    /// `usual` jobs, or `quick` ones where it is only seen whether everything runs.
    pub(crate) const fn jobs(&self, usual: u64, quick: u64) -> u64 {
        if matches!(self.scale, Scale::Quick) { quick } else { usual }
    }

    /// The processor times from now on.
    pub(crate) fn meter(&self) -> Meter {
        Meter::of(&[process::id()], self.server.get().map(std::slice::from_ref).unwrap_or_default())
    }
}

/// The processor times since a moment: of the clients' processes and of the servers'.
pub(crate) struct Meter {
    clients: Vec<u32>,
    servers: Vec<u32>,
    before: (Duration, Duration),
    began: Instant,
}

impl Meter {
    /// From now on.
    pub(crate) fn of(clients: &[u32], servers: &[Server]) -> Self {
        let (clients, servers) = (clients.to_vec(), servers.iter().map(|server| server.pid).collect::<Vec<_>>());
        let before = (times(&clients), times(&servers));
        Self { clients, servers, before, began: Instant::now() }
    }

    /// `jobs` took until now.
    pub(crate) fn rate(self, jobs: u64) -> Sample {
        let took = self.began.elapsed();
        self.rate_in(jobs, took)
    }

    /// `jobs` took until then.
    pub(crate) fn rate_until(self, jobs: u64, at: Instant) -> Sample {
        let took = at - self.began;
        self.rate_in(jobs, took)
    }

    /// `jobs` took this long.
    pub(crate) fn rate_in(self, jobs: u64, took: Duration) -> Sample {
        let per_100_000 = |time: Duration| time.as_secs_f64() * 1e5 / jobs as f64;
        let client_cpu = Some(per_100_000(times(&self.clients).saturating_sub(self.before.0)));
        let broker_cpu = per_100_000(times(&self.servers).saturating_sub(self.before.1));
        let broker_cpu = (!self.servers.is_empty()).then_some(broker_cpu);
        Sample { value: jobs as f64 / took.as_secs_f64(), client_cpu, broker_cpu }
    }
}

/// The processor times of several processes.
fn times(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| processor::time(*pid)).sum()
}

type Measurement<'a> = Box<dyn Fn() -> LocalBoxFuture<'a, Vec<Sample>> + 'a>;

/// Sides that are measured in turn, round by round.
pub(crate) struct Contest<'a> {
    stage: &'a Stage,
    row: &'a str,
    sides: Vec<(String, Measurement<'a>)>,
}

impl<'a> Contest<'a> {
    pub(crate) const fn new(stage: &'a Stage, row: &'a str) -> Self {
        Self { stage, row, sides: Vec::new() }
    }

    /// One more side, which gives as many figures each time.
    pub(crate) fn side(mut self, name: impl Into<String>, measure: impl AsyncFn() -> Vec<Sample> + 'a) -> Self {
        let measure = Rc::new(measure);
        let measure = move || -> LocalBoxFuture<'a, _> {
            let measure = Rc::clone(&measure);
            Box::pin(async move { measure().await })
        };
        self.sides.push((name.into(), Box::new(measure)));
        self
    }

    pub(crate) async fn run(self) -> Results {
        let mut results = Results(self.sides.iter().map(|(name, _)| (name.clone(), Vec::new())).collect());
        for round in 0..self.stage.rounds {
            let mut order: Vec<_> = (0..self.sides.len()).collect();
            // Who is first may have a warmer or a cooler machine.
            if round % 2 == 1 {
                order.reverse();
            }
            for side in order {
                let (name, measure) = &self.sides[side];
                let began = Instant::now();
                let samples = measure().await;
                let figures: Vec<_> = samples.iter().map(|sample| format!("{:.2}", sample.value)).collect();
                eprintln!(
                    "{} round {}/{}, {name}: {} ({:.1} s)",
                    self.row,
                    round + 1,
                    self.stage.rounds,
                    figures.join(", "),
                    began.elapsed().as_secs_f64()
                );
                results.0[side].1.push(samples);
            }
        }
        results
    }
}

/// What the sides of a contest gave, round by round.
pub(crate) struct Results(Vec<(String, Vec<Vec<Sample>>)>);

impl Results {
    /// The `n`th figure of a side.
    pub(crate) fn of(&self, name: &str, n: usize) -> Vec<Sample> {
        let side = self.0.iter().find(|(side, _)| side == name);
        side.into_iter().flat_map(|(_, rounds)| rounds.iter().map(|samples| samples[n])).collect()
    }

    /// `line`, beside the `n`th figure of this side.
    pub(crate) fn beside(&self, line: Line, name: &str, n: usize) -> Line {
        line.beside(name, self.of(name, n))
    }
}
