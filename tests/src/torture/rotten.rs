//! A SQLite file that a disk did not keep as it was written: single bits, sectors, pages and ends of it are wrong.
//!
//! Of that nothing was promised: a database has no checksum for its pages. What is counted is how often it is noticed,
//! and nothing may hang or panic over it.

use std::{collections::BTreeMap, fmt, fs, io, panic::AssertUnwindSafe, path::Path, time::Duration};

use fastrand::Rng;
use futures_util::FutureExt as _;
use rusqlite::Connection;
use serde::Serialize;
use tokio::time::timeout;
use worker_core::{
    broker::{Broker as _, Subscription, Topology},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
    settlement::Settlement,
};

use crate::sample::{QUEUE, job, queue_name};

/// How long a worker may take over an image.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// How long a queue must be silent to be empty.
const QUIET: Duration = Duration::from_millis(60);

/// What a disk writes whole or not at all, and what SQLite does.
const SECTOR: usize = 512;
const PAGE: usize = 4_096;

/// Images of one file before the next file is made.
const IMAGES_EACH: u64 = 50;

/// What came out.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RottenReport {
    /// How many images were opened, by what is wrong with them.
    pub images: BTreeMap<&'static str, u64>,
    /// Refused when they were opened, with a word about the damage.
    pub refused: u64,
    /// Of which a later call said that something is wrong.
    pub told: u64,
    /// That gave all jobs, each as it was.
    pub whole: u64,
    /// That gave fewer jobs, and nobody was told.
    pub fewer: u64,
    /// That gave a job with another payload, or one that nobody had enqueued, and nobody was told.
    pub altered: u64,
    /// What may not be: a panic, or a worker that hangs.
    pub problems: Vec<String>,
}

impl fmt::Display for RottenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, refused, told, whole, fewer, altered, problems } = self;
        let kinds: Vec<_> = images.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(f, "{} images on SQLite {}: {}", images.values().sum::<u64>(), rusqlite::version(), kinds.join(", "))?;
        writeln!(f, "  {refused:>6} refused when they were opened")?;
        writeln!(f, "  {told:>6} opened, and a later call said that something is wrong")?;
        writeln!(f, "  {whole:>6} gave all jobs, each as it was")?;
        writeln!(f, "  {fewer:>6} gave fewer jobs without a word")?;
        writeln!(f, "  {altered:>6} gave a job that is not as it was, without a word")?;
        super::report::verdict(f, problems)
    }
}

/// What a worker met in an image.
enum Met {
    Refused,
    Told,
    Jobs(BTreeMap<String, Vec<u8>>),
}

/// Makes images and works on them, telling `tell` after each.
///
/// # Errors
///
/// The folder for the files cannot be used, or the file that images are made of.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn rotten(images: u64, seed: u64, tell: impl Fn(u64)) -> io::Result<RottenReport> {
    let mut rng = Rng::with_seed(seed);
    let mut report = RottenReport::default();
    let mut made = 0;
    while made < images {
        let folder = tempfile::tempdir()?;
        let (jobs, files) = live(folder.path(), &mut rng).await?;
        for _ in 0..IMAGES_EACH.min(images - made) {
            made += 1;
            let place = folder.path().join(format!("image-{made}"));
            fs::create_dir(&place)?;
            let mut image = files.clone();
            let kind = spoil(&mut image, &mut rng);
            *report.images.entry(kind).or_default() += 1;
            let path = place.join("jobs.db");
            fs::write(&path, &image.0)?;
            fs::write(place.join("jobs.db-wal"), &image.1)?;
            let met = AssertUnwindSafe(timeout(LOOK_MAX, work(&path))).catch_unwind().await;
            match met {
                Err(_) => report.problems.push(format!("seed {seed}, image {made}, {kind}: a panic")),
                Ok(Err(_)) => report.problems.push(format!("seed {seed}, image {made}, {kind}: it hangs")),
                Ok(Ok(met)) => report.count(&met, &jobs),
            }
            fs::remove_dir_all(&place)?;
            tell(made);
        }
    }
    Ok(report)
}

impl RottenReport {
    fn count(&mut self, met: &Met, jobs: &BTreeMap<String, Vec<u8>>) {
        let count = match met {
            Met::Refused => &mut self.refused,
            Met::Told => &mut self.told,
            Met::Jobs(found) if found == jobs => &mut self.whole,
            Met::Jobs(found) if found.iter().all(|(id, body)| jobs.get(id) == Some(body)) => &mut self.fewer,
            Met::Jobs(_) => &mut self.altered,
        };
        *count += 1;
    }
}

/// A file with jobs, half of them in its log alone: the jobs, the database and the log.
async fn live(folder: &Path, rng: &mut Rng) -> io::Result<(BTreeMap<String, Vec<u8>>, (Vec<u8>, Vec<u8>))> {
    let path = folder.join("jobs.db");
    let broker = SqliteBroker::open(&path, SqliteOptions::default()).await.map_err(io::Error::other)?;
    broker.declare(&Topology::queues([queue_name(QUEUE)])).await.map_err(io::Error::other)?;
    let mut jobs = BTreeMap::new();
    for half in 0..2 {
        for n in 0..rng.usize(20..200) {
            let job = job(format!("job-{half}-{n}"));
            jobs.insert(job.id.to_string(), job.body.0.to_vec());
            for answer in broker.enqueue(vec![job]).await {
                answer.map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        if half == 0 {
            let db = Connection::open(&path).map_err(io::Error::other)?;
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(io::Error::other)?;
        }
    }
    let files = (fs::read(&path)?, fs::read(folder.join("jobs.db-wal"))?);
    broker.close().await.map_err(io::Error::other)?;
    Ok((jobs, files))
}

/// Makes something wrong, and says what.
fn spoil((database, log): &mut (Vec<u8>, Vec<u8>), rng: &mut Rng) -> &'static str {
    let at = |length: usize, whole: usize, rng: &mut Rng| rng.usize(..length) / whole * whole;
    match rng.u8(..8) {
        0..3 => {
            let byte = at(database.len(), 1, rng);
            database[byte] ^= 1 << rng.u8(..8);
            "a bit of the database"
        }
        3..5 => {
            let byte = at(log.len(), 1, rng);
            log[byte] ^= 1 << rng.u8(..8);
            "a bit of the log"
        }
        5 => {
            let first = at(database.len(), SECTOR, rng);
            rng.fill(&mut database[first..first + SECTOR]);
            "a sector of the database"
        }
        6 => {
            let first = at(database.len(), PAGE, rng);
            database[first..first + PAGE].fill(0);
            "a page of zeros"
        }
        _ => {
            database.truncate(at(database.len(), PAGE, rng));
            "the end of the database"
        }
    }
}

/// Opens an image as a worker does, and takes and settles all jobs in it.
async fn work(path: &Path) -> Met {
    let Ok(broker) = SqliteBroker::open(path, SqliteOptions::default()).await else { return Met::Refused };
    let met = work_off(&broker).await.map_or(Met::Told, Met::Jobs);
    let is_closed = broker.close().await.is_ok();
    if is_closed { met } else { Met::Told }
}

async fn work_off(broker: &SqliteBroker) -> Option<BTreeMap<String, Vec<u8>>> {
    let subscription = Subscription::new(queue_name(QUEUE), 500.try_into().expect("it is not 0"));
    broker.declare(&Topology::queues([queue_name(QUEUE)])).await.ok()?;
    let (mut source, settler) = broker.consume(subscription).await.ok()?;
    let mut found = BTreeMap::new();
    while let Ok(batch) = timeout(QUIET, source.next_batch(500)).await {
        for delivery in batch.ok()? {
            found.insert(delivery.envelope.id.to_string(), delivery.envelope.body.0.to_vec());
            settler.submit(delivery, Settlement::Ack { reply: None }).await.ok()?;
        }
    }
    // Who asks how it is learns of what is wrong, too.
    let left = broker.inspector()?.queues(&[]).await.ok()?;
    left.iter().all(|queue| queue.unfinished() == 0).then_some(found)
}
