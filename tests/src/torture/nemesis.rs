//! Does the faults of a plan, in an order that a seed decides.
//!
//! What is done to processes and what is done to servers goes on side by side, so that a worker is killed while the
//! server is away. A fault comes when so much of the work is done, and not at a time: each then hits work. And not all
//! may be enqueued before it, so that each is followed by work.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    join,
    time::{Instant, sleep},
};

use super::{
    crew::Slot,
    plan::Fault,
    record::{count, now},
    stage::{QUEUE, Stage, VHOST},
};
use crate::{
    eventually::eventually,
    rabbit::{Alarm, Direction, Node, Proxy, Ways},
};

/// How often it is looked how far the work is.
const LOOK: Duration = Duration::from_millis(20);

/// How long the work may stand still, the longest fault included, before the run is given up.
const STANDSTILL_MAX: Duration = Duration::from_secs(180);

/// How long a fault lasts, in milliseconds, where it lasts: shorter and longer than what notices it.
const LASTS: std::ops::Range<u64> = 500..6_000;

/// The same of a partition: longer than a confirm may take.
const PARTED: std::ops::Range<u64> = 10_000..18_000;

/// How long a worker may keep a job to itself while the server is impatient, and otherwise (RabbitMQ's default).
const IMPATIENT: Duration = Duration::from_millis(20);
const PATIENT: Duration = Duration::from_secs(1_800);

/// What was done.
#[derive(Debug, Clone, Copy)]
pub struct Deed {
    /// What.
    pub fault: Fault,
    /// When it began, in microseconds since 1970.
    pub begun_at: u64,
    /// When it was over, in microseconds since 1970: when the server's port answered again, where it was killed.
    pub healed_at: u64,
}

/// Whom faults are done to.
#[derive(Debug)]
pub struct Scene<'r> {
    /// The servers.
    pub stage: &'r Stage,
    /// The workers.
    pub workers: &'r [Slot],
    /// The producers.
    pub producers: &'r [Slot],
    /// Where the records are.
    pub folder: &'r Path,
    /// How many jobs there will be.
    pub jobs: u64,
    /// How long a worker is frozen, at most, in milliseconds.
    pub frozen_ms_max: u64,
    /// How many jobs went with a queue that was deleted, about.
    pub gone: AtomicU64,
}

/// All faults of a plan, each as often as it says, in an order of the seed's.
#[must_use]
pub fn order(faults: &[(Fault, usize)], rng: &mut Rng) -> Vec<Fault> {
    let mut all: Vec<_> = faults.iter().flat_map(|&(fault, times)| std::iter::repeat_n(fault, times)).collect();
    rng.shuffle(&mut all);
    all
}

impl Scene<'_> {
    /// Does all of them, and tells of each to `tell`.
    ///
    /// # Errors
    ///
    /// The work stands still, in words.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: what was begun may last.
    pub async fn rage(&self, faults: Vec<Fault>, seed: u64, tell: impl Fn(Fault)) -> Result<Vec<Deed>, String> {
        let (of_processes, of_servers): (Vec<_>, Vec<_>) =
            faults.into_iter().partition(|fault| fault.is_of_a_process());
        let pace = Pace::new(self, [of_processes.len(), of_servers.len()]);
        let (processes, servers) = join!(
            self.one_by_one(of_processes, seed, &pace, 0, &tell),
            self.one_by_one(of_servers, !seed, &pace, 1, &tell)
        );
        Ok([processes?, servers?].concat())
    }

    async fn one_by_one(
        &self,
        faults: Vec<Fault>,
        seed: u64,
        pace: &Pace<'_>,
        line: usize,
        tell: &impl Fn(Fault),
    ) -> Result<Vec<Deed>, String> {
        let mut rng = Rng::with_seed(seed);
        let mut deeds = Vec::new();
        let parts = faults.len() as u64 + 1;
        for (n, fault) in (1..).zip(faults) {
            // The last of them comes before the last job, so that each finds work.
            self.until_done(self.jobs * n / parts * 9 / 10).await?;
            tell(fault);
            let begun_at = now();
            let healed_at = self.commit(fault, &mut rng).await;
            deeds.push(Deed { fault, begun_at, healed_at });
            pace.one_more(line);
        }
        Ok(deeds)
    }

    /// Waits until so many jobs have ended, about.
    ///
    /// # Errors
    ///
    /// None has for a long time, in words.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn until_done(&self, jobs: u64) -> Result<(), String> {
        let (mut best, mut since) = (0, Instant::now());
        loop {
            let done = self.done();
            if done >= jobs {
                return Ok(());
            }
            if done > best {
                (best, since) = (done, Instant::now());
            }
            if since.elapsed() > STANDSTILL_MAX {
                return Err(format!("no job has run for {STANDSTILL_MAX:?}; {done} of {} have ended", self.jobs));
            }
            sleep(LOOK).await;
        }
    }

    /// How many jobs have ended or are gone, about: each that runs makes two records.
    #[must_use]
    pub fn done(&self) -> u64 {
        count(self.folder, "worker").unwrap_or_default() / 2 + self.gone.load(Ordering::Relaxed)
    }

    /// Does one, waits until it is over, and says when it was.
    async fn commit(&self, fault: Fault, rng: &mut Rng) -> u64 {
        match (fault, self.stage) {
            (Fault::KillWorker, _) => self.workers[rng.usize(..self.workers.len())].kill(),
            (Fault::RestartWorker, _) => self.workers[rng.usize(..self.workers.len())].end(),
            (Fault::KillProducer, _) => self.producers[rng.usize(..self.producers.len())].kill(),
            (Fault::FreezeWorker, _) => {
                let worker = &self.workers[rng.usize(..self.workers.len())];
                worker.freeze();
                sleep(Duration::from_millis(rng.u64(100..self.frozen_ms_max))).await;
                worker.thaw();
            }
            (Fault::KillLeader, Stage::Nodes(nodes)) => {
                let leader = self.stage.leader().await;
                return kill(&nodes[leader].0).await;
            }
            (Fault::KillNode, Stage::Nodes(nodes)) => return kill(&nodes[rng.usize(..nodes.len())].0).await,
            (Fault::Partition, Stage::Nodes(nodes)) => {
                let parted = rng.usize(..nodes.len());
                let others: Vec<_> = (0..nodes.len()).filter(|&n| n != parted).map(|n| &nodes[n].0).collect();
                nodes[parted].0.part(&others).await;
                sleep(Duration::from_millis(rng.u64(PARTED))).await;
                nodes[parted].0.rejoin(&others).await;
            }
            (Fault::Silence | Fault::Mute | Fault::Deaf, Stage::Nodes(nodes)) => {
                let quiet = rng.usize(..nodes.len());
                let others: Vec<_> = (0..nodes.len()).filter(|&n| n != quiet).map(|n| &nodes[n].0).collect();
                let ways = match fault {
                    Fault::Mute => Ways::Out,
                    Fault::Deaf => Ways::In,
                    _ => Ways::Both,
                };
                nodes[quiet].0.silence(&others, ways).await;
                sleep(Duration::from_millis(rng.u64(PARTED))).await;
                nodes[quiet].0.unsilence(&others).await;
            }
            (Fault::DeleteQueue, Stage::Nodes(nodes)) => {
                let node = &nodes[0].0;
                // One deletion may follow soon upon another.
                let queue = eventually("the queue was declared again", || async {
                    node.list_queues(VHOST).await.into_iter().find(|queue| queue.name == QUEUE)
                })
                .await;
                node.delete_queue(VHOST, QUEUE).await;
                self.gone.fetch_add(queue.ready + queue.unacked, Ordering::Relaxed);
            }
            (_, Stage::Nodes(nodes)) => {
                let (node, proxy) = &nodes[rng.usize(..nodes.len())];
                let lasts = Duration::from_millis(rng.u64(LASTS));
                harm(fault, node, proxy, lasts).await;
            }
            (_, Stage::File(_)) => unreachable!("a file has no {}", fault.name()),
        }
        now()
    }
}

/// How many jobs may be enqueued, by the faults that were done.
struct Pace<'r> {
    folder: &'r Path,
    jobs: u64,
    planned: [usize; 2],
    done: [AtomicUsize; 2],
}

impl<'r> Pace<'r> {
    fn new(scene: &Scene<'r>, planned: [usize; 2]) -> Self {
        let pace = Self { folder: scene.folder, jobs: scene.jobs, planned, done: Default::default() };
        pace.tell();
        pace
    }

    fn one_more(&self, line: usize) {
        self.done[line].fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        // Two parts ahead: one for the fault that comes, and one for after it.
        let allowed = |(planned, done): (&usize, &AtomicUsize)| {
            let (parts, done) = (*planned as u64 + 1, done.load(Ordering::Relaxed) as u64);
            if done == *planned as u64 { self.jobs } else { (self.jobs * (done + 2) / parts).min(self.jobs) }
        };
        let allowed = self.planned.iter().zip(&self.done).map(allowed).min().unwrap_or(self.jobs);
        allow(self.folder, allowed);
    }
}

/// Lets producers enqueue so many jobs together.
///
/// # Panics
///
/// When the folder cannot be written to.
pub fn allow(folder: &Path, jobs: u64) {
    let new = folder.join("allowed.new");
    fs::write(&new, jobs.to_string())
        .and_then(|()| fs::rename(&new, folder.join("allowed")))
        .expect("it can be written");
}

/// How many jobs producers may enqueue together; all, where nobody says.
#[must_use]
pub fn allowed(folder: &Path) -> u64 {
    fs::read_to_string(folder.join("allowed")).ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(u64::MAX)
}

async fn kill(node: &Node) -> u64 {
    // A queue that was declared a moment ago would have no leader again; that is tested elsewhere.
    node.keep_new_queues().await;
    node.kill();
    let ((), answered) = join!(node.restart(), async {
        node.answers().await;
        now()
    });
    answered
}

/// Does something to a node or to the way there.
async fn harm(fault: Fault, node: &Node, proxy: &Proxy, lasts: Duration) {
    match fault {
        Fault::FreezeNode => {
            node.freeze();
            sleep(lasts).await;
            node.thaw();
        }
        Fault::RestartNode => {
            node.keep_new_queues().await;
            node.stop().await;
            node.restart().await;
        }
        Fault::CloseConnections => drop(node.close_all_connections().await),
        Fault::Reset => proxy.cut().await,
        Fault::Corrupt => proxy.damage(),
        Fault::StallToClient => stall(proxy, Direction::ToClient, lasts).await,
        Fault::StallToNode => stall(proxy, Direction::ToNode, lasts).await,
        Fault::Slow => {
            proxy.slow(Some(200_000));
            sleep(lasts).await;
            proxy.slow(None);
        }
        Fault::MemoryAlarm => alarm(node, Alarm::Memory, lasts).await,
        Fault::DiskAlarm => alarm(node, Alarm::Disk, lasts).await,
        Fault::ConsumerTimeout => {
            node.set_consumer_timeout(IMPATIENT).await;
            // A channel looks as often as was said when it was opened.
            node.close_all_connections().await;
            sleep(lasts).await;
            node.set_consumer_timeout(PATIENT).await;
        }
        _ => unreachable!("{} is done elsewhere", fault.name()),
    }
}

async fn stall(proxy: &Proxy, direction: Direction, lasts: Duration) {
    proxy.stall(direction);
    sleep(lasts).await;
    proxy.resume(direction);
}

async fn alarm(node: &Node, alarm: Alarm, lasts: Duration) {
    node.set_alarm(alarm).await;
    sleep(lasts).await;
    node.clear_alarm(alarm).await;
}
