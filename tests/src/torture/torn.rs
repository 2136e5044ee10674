//! What a loss of power leaves of a SQLite file: images made of a real one, opened again and looked through.
//!
//! Whatever was written before the last flush that a commit waited for is on the disk. Of what was written later each
//! sector may be there or not, old or torn. So an image has the write-ahead log up to the length that it had when a
//! job was acknowledged, and after that what came later, in pieces; and where pages were being copied from the log
//! into the database, some of those.

use std::{collections::BTreeSet, fmt, fs, io, path::Path, sync::Arc};

use fastrand::Rng;
use rusqlite::Connection;
use serde::Serialize;
use worker_core::{
    Client,
    broker::{Broker as _, Subscription, Topology},
    brokers::sqlite::{SqliteBroker, SqliteOptions},
    settlement::Settlement,
};

use crate::{
    consumer::Consumer,
    sample::{QUEUE, job, queue_name},
};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Images of one file before the next file is made.
const IMAGES_EACH: u64 = 100;

/// What came out.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct TornReport {
    /// How many images were opened.
    pub images: u64,
    /// How many files they were made of.
    pub files: u64,
    /// Those that end in the middle of the log.
    pub cut: u64,
    /// Those of which sectors of the log are wrong.
    pub torn: u64,
    /// Those with pages half copied into the database.
    pub checkpoints: u64,
    /// Jobs that had to be there, in all images together.
    pub jobs: u64,
    /// What is not as promised.
    pub problems: Vec<String>,
}

impl fmt::Display for TornReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, files, cut, torn, checkpoints, jobs, problems } = self;
        writeln!(f, "{images} images of {files} files on SQLite {}", rusqlite::version())?;
        writeln!(
            f,
            "  {cut} end in the middle of the log, in {torn} sectors of it are wrong, in {checkpoints} it is half copied"
        )?;
        writeln!(f, "  {jobs} acknowledged jobs looked for")?;
        super::report::verdict(f, problems)
    }
}

/// A file as it was at several moments.
struct Life {
    /// The database, before and after the log was copied into it.
    before: Vec<u8>,
    after: Vec<u8>,
    log: Vec<u8>,
    /// How long the log was when so many jobs were acknowledged.
    marks: Vec<(usize, usize)>,
    /// The jobs in the order in which they were acknowledged.
    jobs: Vec<String>,
    /// Those that a worker was done with, sooner or later.
    settled: BTreeSet<String>,
}

/// Makes images and looks through them, telling `tell` after each.
///
/// # Errors
///
/// The folder for the files cannot be used, or the file that images are made of.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn torn(images: u64, seed: u64, tell: impl Fn(&TornReport)) -> io::Result<TornReport> {
    let mut rng = Rng::with_seed(seed);
    let mut report = TornReport::default();
    while report.images < images {
        let folder = tempfile::tempdir()?;
        let life = live(folder.path(), &mut rng).await?;
        report.files += 1;
        for _ in 0..IMAGES_EACH.min(images - report.images) {
            let place = folder.path().join(format!("image-{}", report.images));
            fs::create_dir(&place)?;
            report.images += 1;
            if let Err(problem) = look_at(&life, &place, &mut rng, &mut report).await {
                let problem = format!("seed {seed}, image {}: {problem}", report.images);
                report.problems.push(problem);
            }
            fs::remove_dir_all(&place)?;
            tell(&report);
        }
    }
    Ok(report)
}

/// Lets a broker work, and remembers the file.
async fn live(folder: &Path, rng: &mut Rng) -> io::Result<Life> {
    let path = folder.join("jobs.db");
    let log = folder.join("jobs.db-wal");
    let broker = SqliteBroker::open(&path, SqliteOptions::default()).await.map_err(io::Error::other)?;
    broker.declare(&Topology::queues([queue_name(QUEUE)])).await.map_err(io::Error::other)?;
    let subscription = Subscription::new(queue_name(QUEUE), 8.try_into().expect("it is not 0"));
    let (source, settler) = broker.consume(subscription).await.map_err(io::Error::other)?;
    let mut consumer = Consumer::new(source, settler, std::time::Duration::ZERO);
    let (mut jobs, mut settled) = (Vec::new(), BTreeSet::new());
    // Sometimes so many that the log has been copied and begun anew already.
    for _ in 0..rng.u64(..60) {
        enqueue(&broker, &mut jobs, rng).await?;
    }
    checkpoint(&path)?;
    let before = fs::read(&path)?;
    let mut marks = vec![(0, jobs.len())];
    for _ in 0..rng.u64(5..60) {
        enqueue(&broker, &mut jobs, rng).await?;
        marks.push((usize::try_from(fs::metadata(&log)?.len()).map_err(io::Error::other)?, jobs.len()));
        if rng.u8(..3) == 0 {
            let delivery = consumer.one().await;
            settled.insert(delivery.envelope.id.to_string());
            consumer.settle(delivery, Settlement::Ack { reply: None }).await;
        }
    }
    // What a worker holds beside is not done with, and must be there.
    let (kept, log) = (fs::read(&path)?, fs::read(&log)?);
    if kept != before {
        return Err(io::Error::other("the log was copied meanwhile, which these few jobs are too few for"));
    }
    checkpoint(&path)?;
    let after = fs::read(&path)?;
    broker.close().await.map_err(io::Error::other)?;
    Ok(Life { before, after, log, marks, jobs, settled })
}

async fn enqueue(broker: &SqliteBroker, jobs: &mut Vec<String>, rng: &mut Rng) -> io::Result<()> {
    let batch: Vec<_> = (0..rng.usize(1..5)).map(|n| job(format!("job-{}", jobs.len() + n))).collect();
    let ids: Vec<_> = batch.iter().map(|job| job.id.to_string()).collect();
    for answer in broker.enqueue(batch).await {
        answer.map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    jobs.extend(ids);
    Ok(())
}

fn checkpoint(path: &Path) -> io::Result<()> {
    let db = Connection::open(path).map_err(io::Error::other)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(io::Error::other)
}

/// Makes one image, and says what is wrong with it.
async fn look_at(life: &Life, place: &Path, rng: &mut Rng, report: &mut TornReport) -> Result<(), String> {
    let (length, acknowledged) = life.marks[rng.usize(..life.marks.len())];
    let path = place.join("jobs.db");
    let (database, log) = if rng.u8(..4) == 0 {
        report.checkpoints += 1;
        (half_copied(life, rng), life.log.clone())
    } else {
        (life.before.clone(), half_written(&life.log, length, rng, report))
    };
    // Only where the log is whole, all are acknowledged.
    let acknowledged = if log == life.log { life.jobs.len() } else { acknowledged };
    fs::write(&path, database).and_then(|()| fs::write(place.join("jobs.db-wal"), log)).map_err(|e| e.to_string())?;
    let found = open(&path).await?;
    let promised = &life.jobs[..acknowledged];
    report.jobs += promised.len() as u64;
    let lost: Vec<_> = promised.iter().filter(|id| !found.contains(*id) && !life.settled.contains(*id)).collect();
    if !lost.is_empty() {
        return Err(format!("{lost:?} are lost, of {acknowledged} acknowledged; the log was {length} bytes long"));
    }
    match found.iter().find(|id| !life.jobs.contains(*id)) {
        None => Ok(()),
        Some(stranger) => Err(format!("{stranger} was never enqueued")),
    }
}

/// The log up to `length`, and of the rest what may be there.
fn half_written(log: &[u8], length: usize, rng: &mut Rng, report: &mut TornReport) -> Vec<u8> {
    let end = rng.usize(length..=log.len());
    let mut image = log[..end].to_vec();
    report.cut += u64::from(end < log.len());
    if rng.bool() {
        let mut is_torn = false;
        // A flush writes whole sectors, so that the one in which it ends is on the disk too.
        for sector in image[length..].chunks_mut(SECTOR) {
            match rng.u8(..6) {
                0 => sector.fill(0),
                1 => rng.fill(sector),
                _ => continue,
            }
            is_torn = true;
        }
        report.torn += u64::from(is_torn);
    }
    image
}

/// The database while the log is copied into it: of each sector what was there, or what will be.
fn half_copied(life: &Life, rng: &mut Rng) -> Vec<u8> {
    let mut image = life.before.clone();
    image.resize(life.after.len(), 0);
    for (sector, after) in image.chunks_mut(SECTOR).zip(life.after.chunks(SECTOR)) {
        if rng.bool() {
            sector.copy_from_slice(after);
        }
    }
    image
}

/// Opens an image as a program does, and says which jobs are there.
async fn open(path: &Path) -> Result<BTreeSet<String>, String> {
    let broker = SqliteBroker::open(path, SqliteOptions::default()).await.map_err(|error| error.detail())?;
    let client = Client::new(Arc::new(broker));
    let inspector = client.broker().inspector().ok_or("it cannot be looked into")?;
    let queues = inspector.queues(&[]).await.map_err(|error| error.detail())?;
    let counted: u64 = queues.iter().map(worker_core::broker::QueueStats::unfinished).sum();
    client.close().await.map_err(|error| error.detail())?;
    let ids = ids(path).map_err(|error| error.to_string())?;
    if counted != ids.len() as u64 {
        return Err(format!("{counted} jobs were counted, and {} are there", ids.len()));
    }
    Ok(ids)
}

pub(super) fn ids(path: &Path) -> rusqlite::Result<BTreeSet<String>> {
    let db = Connection::open(path)?;
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    assert_eq!(whole, "ok", "it was checked when it was opened");
    let mut select = db.prepare("SELECT id FROM jobs UNION SELECT id FROM dead_letters")?;
    select.query_map([], |row| row.get(0))?.collect()
}
