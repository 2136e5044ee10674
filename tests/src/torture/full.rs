//! A SQLite file whose disk is full at every page that it would grow by, one after the other, and has room again later.

use std::{collections::BTreeSet, fmt, io, path::Path, sync::Arc, time::Duration};

use fastrand::Rng;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use worker_core::{
    EnqueueFailure,
    broker::{Broker as _, Delivery, SettleError, Settler, Source, Subscription, Topology, Unsettled},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
    settlement::Settlement,
};

use super::torn::ids;
use crate::{
    disk::SmallDisk,
    sample::{QUEUE, job, queue_name, retry},
};

/// Enough for a file with all of its jobs.
const DISK: u64 = 8 << 20;

/// Calls that are made on a disk that is getting full, one after the other.
const CALLS: usize = 60;

/// How long any call may take: a broker that waits for room for ever has stuck a job.
const CALL_MAX: Duration = Duration::from_secs(20);

/// What came out.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct FullReport {
    /// How many disks were full, each a page later than the one before.
    pub disks: u64,
    /// Jobs that were acknowledged, on all of them together.
    pub acknowledged: u64,
    /// Enqueues that were refused because the disk was full.
    pub refused: u64,
    /// Settlements that were told so, and were made once there was room.
    pub put_off: u64,
    /// Disks that had room enough for all.
    pub never_full: u64,
    /// What is not as promised.
    pub problems: Vec<String>,
}

impl fmt::Display for FullReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disks, acknowledged, refused, put_off, never_full, problems } = self;
        writeln!(f, "{disks} disks, each full a page later, on SQLite {}", rusqlite::version())?;
        writeln!(f, "  {acknowledged} jobs acknowledged, {refused} enqueues refused for want of room")?;
        writeln!(f, "  {put_off} settlements put off until there was room; {never_full} disks were never full")?;
        super::report::verdict(f, problems)
    }
}

/// Fills a disk at each of so many pages, telling `tell` after each.
///
/// # Errors
///
/// No small file system can be mounted, or used.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn full(pages: u64, seed: u64, tell: impl Fn(&FullReport)) -> io::Result<FullReport> {
    let mut report = FullReport::default();
    for free in 0..pages {
        let disk = SmallDisk::mount(DISK)?;
        report.disks += 1;
        let mut rng = Rng::with_seed(seed.wrapping_add(free));
        if let Err(problem) = work_on(&disk, free, &mut rng, &mut report).await {
            report.problems.push(format!("seed {seed}, full after {free} pages: {problem}"));
        }
        tell(&report);
    }
    Ok(report)
}

/// One broker on one disk.
struct Scene {
    broker: SqliteBroker,
    source: Box<dyn Source>,
    settler: Arc<dyn Settler>,
    acknowledged: BTreeSet<String>,
    /// Of which the broker said that they are done.
    done: BTreeSet<String>,
    unsettled: Vec<Unsettled>,
}

async fn work_on(disk: &SmallDisk, free: u64, rng: &mut Rng, report: &mut FullReport) -> Result<(), String> {
    let path = disk.path().join("jobs.db");
    let mut scene = Scene::on(&path).await?;
    for n in 0..20 {
        scene.enqueue(n, report).await?;
    }
    if report.refused > 0 && scene.acknowledged.len() < 20 {
        return Err("a disk with room was full".into());
    }
    disk.fill_but(free).map_err(|error| error.to_string())?;
    let refused_before = report.refused + report.put_off;
    for n in 20..20 + CALLS {
        if rng.bool() { scene.enqueue(n, report).await? } else { scene.work(rng).await? }
    }
    report.put_off += scene.unsettled.len() as u64;
    report.never_full += u64::from(report.refused + report.put_off == refused_before);
    disk.relieve().map_err(|error| error.to_string())?;
    // With room all goes on.
    for Unsettled { delivery, settlement, .. } in std::mem::take(&mut scene.unsettled) {
        scene.settle(delivery, settlement).await?;
    }
    if !scene.unsettled.is_empty() {
        return Err(format!("a settlement was not made although there is room: {:?}", scene.unsettled[0].error));
    }
    let refused = report.refused;
    scene.enqueue(20 + CALLS, report).await?;
    if report.refused > refused {
        return Err("an enqueue was refused although there is room".into());
    }
    while !scene.acknowledged.is_subset(&scene.done) {
        scene.work_off().await?;
    }
    let Scene { broker, acknowledged, done, .. } = scene;
    broker.close().await.map_err(|error| error.detail())?;
    let left = ids(&path).map_err(|error| error.to_string())?;
    report.acknowledged += acknowledged.len() as u64;
    if !left.is_empty() {
        let done: Vec<_> = left.intersection(&done).collect();
        return Err(format!("{left:?} are still there: of them, {done:?} were done, and the others refused"));
    }
    Ok(())
}

impl Scene {
    async fn on(path: &Path) -> Result<Self, String> {
        let broker = SqliteBroker::open(path, SqliteOptions::default()).await.map_err(|error| error.detail())?;
        broker.declare(&Topology::queues([queue_name(QUEUE)])).await.map_err(|error| error.detail())?;
        let subscription = Subscription::new(queue_name(QUEUE), 8.try_into().expect("it is not 0"));
        let (source, settler) = broker.consume(subscription).await.map_err(|error| error.detail())?;
        let (acknowledged, done) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { broker, source, settler, acknowledged, done, unsettled: Vec::new() })
    }

    async fn enqueue(&mut self, n: usize, report: &mut FullReport) -> Result<(), String> {
        let id = format!("job-{n}");
        let mut job = job(&id);
        // Some pages each, so that the file grows with every job.
        job.body.0 = "a".repeat(3_000).into();
        let answers = within("an enqueue", self.broker.enqueue(vec![job])).await?;
        match &answers[0] {
            Ok(()) => drop(self.acknowledged.insert(id)),
            Err(EnqueueFailure::Refused(error)) if error.to_string().contains("is full: free some space") => {
                report.refused += 1;
            }
            Err(other) => return Err(format!("an enqueue on a full disk failed with {other:?}")),
        }
        Ok(())
    }

    /// Takes a job, if one comes, and settles it in any way.
    async fn work(&mut self, rng: &mut Rng) -> Result<(), String> {
        let Some(delivery) = self.take().await? else { return Ok(()) };
        let settlement = if rng.bool() { Settlement::Ack { reply: None } } else { retry(Duration::ZERO) };
        self.settle(delivery, settlement).await
    }

    /// Takes a job, which must come, and is done with it.
    async fn work_off(&mut self) -> Result<(), String> {
        let taken = within("a job that is there", self.take()).await??;
        let delivery = taken.ok_or_else(|| {
            let lost: Vec<_> = self.acknowledged.difference(&self.done).collect();
            format!("{lost:?} do not come although there is room")
        })?;
        self.settle(delivery, Settlement::Ack { reply: None }).await?;
        match self.unsettled.pop() {
            Some(Unsettled { error, .. }) => Err(format!("a settlement failed although there is room: {error}")),
            None => Ok(()),
        }
    }

    /// A job, if one comes soon; none where the disk is too full to take one.
    async fn take(&mut self) -> Result<Option<Delivery>, String> {
        for _ in 0..100 {
            match timeout(Duration::from_millis(50), self.source.next_batch(1)).await {
                Ok(Ok(mut batch)) => return Ok(batch.pop()),
                Ok(Err(error)) if error.to_string().contains("is full: free some space") => return Ok(None),
                Ok(Err(error)) => return Err(format!("the next job cannot be had: {error}")),
                Err(_) if self.acknowledged.len() == self.done.len() => return Ok(None),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
        Ok(None)
    }

    async fn settle(&mut self, delivery: Delivery, settlement: Settlement) -> Result<(), String> {
        let id = delivery.envelope.id.to_string();
        if self.done.contains(&id) {
            return Err(format!("{id} came again although it was done"));
        }
        let is_done = matches!(settlement, Settlement::Ack { .. });
        match within("a settlement", self.settler.submit(delivery, settlement)).await? {
            Ok(()) if is_done => drop(self.done.insert(id)),
            Ok(()) => {}
            Err(SettleError::Unsettled(unsettled)) => self.unsettled.push(*unsettled),
            Err(lost) => return Err(format!("{id} was lost although its worker lives: {lost:?}")),
        }
        Ok(())
    }
}

async fn within<T>(what: &str, coming: impl Future<Output = T>) -> Result<T, String> {
    timeout(CALL_MAX, coming).await.map_err(|_| format!("{what} did not come within {CALL_MAX:?}"))
}
