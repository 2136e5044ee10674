//! `enqueue --file`: many jobs, within a bound of memory.
//!
//! A thread reads and checks lines and hands them over in chunks, through a
//! channel of one; the client takes them as fast as the broker answers. When it
//! must end early, no more lines are taken, and what is on its way is waited
//! for, so that the number of durable jobs that is told is the true one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    arguments,
    lines::Lines,
    options::OptionArgs,
    prepared,
    tally::{End, Tally},
};
use crate::{
    cli::{
        broker::{Missing, with_client},
        exit,
        fail::Fail,
        out::{Out, count, say},
        signals::Signals,
    },
    client::Client,
    config::Settings,
    job::Prepared,
    registry::Entry,
};

/// The most problems that are listed.
const LISTED_MAX: usize = 10;

/// Lines in one chunk on their way to the client, and their bytes.
const CHUNK_LINES: usize = 500;
const CHUNK_BYTES: usize = 256 << 10;

/// What is to be enqueued.
pub(super) struct Order<'a> {
    pub(super) entry: &'a Arc<Entry>,
    pub(super) file: &'a Path,
    pub(super) options: &'a OptionArgs,
    pub(super) answers: bool,
    /// The program's name.
    pub(super) name: &'a str,
}

pub(super) async fn enqueue(order: &Order<'_>, settings: &Settings, out: Out) -> Result<u8, Fail> {
    let bytes_max = settings.payload_bytes_max;
    // What is wrong with the options is wrong for every line.
    drop(prepared(order.entry, Vec::new(), order.options).map_err(Fail::usage)?);
    if order.file == Path::new("-") {
        return send(order, settings, None, Lines::new(io::stdin(), bytes_max), out).await;
    }
    let unreadable = |error: io::Error| Fail::usage(format_args!("`{}` cannot be read: {error}", order.file.display()));
    let file = File::open(order.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Fail::usage(format_args!("`{}` is a folder", order.file.display())));
    }
    if !metadata.is_file() {
        return send(order, settings, None, Lines::new(file, bytes_max), out).await;
    }
    let total = check_all(order.entry, file, bytes_max).map_err(unreadable)??;
    let file = File::open(order.file).map_err(unreadable)?;
    send(order, settings, Some(total), Lines::new(file, bytes_max), out).await
}

/// Checks every line before anything is enqueued; how many jobs there are.
fn check_all(entry: &Entry, file: File, bytes_max: usize) -> io::Result<Result<u64, Fail>> {
    let (mut jobs, mut wrong, mut listed, mut note) = (0, 0_usize, Vec::new(), None);
    for line in Lines::new(file, bytes_max) {
        let line = line?;
        jobs += 1;
        match checked(entry, line.payload, bytes_max) {
            Ok(payload) => note = note.or_else(|| Some((line.number, arguments::ignored(entry, &payload)?))),
            Err(problem) => {
                wrong += 1;
                if listed.len() < LISTED_MAX {
                    listed.push(format!("line {}: {problem}", line.number));
                }
            }
        }
    }
    if wrong > 0 {
        if wrong > listed.len() {
            listed.push(format!("… and {} more", wrong - listed.len()));
        }
        let lines = count(wrong as u64, "line");
        let message = format!("{lines} of {jobs} wrong; nothing was enqueued\n  {}", listed.join("\n  "));
        return Ok(Err(Fail::new(exit::BAD_PAYLOAD, message)));
    }
    if let Some((number, note)) = note {
        say(format_args!("note: line {number}: {note}"));
    }
    Ok(Ok(jobs))
}

fn checked(entry: &Entry, payload: Result<Vec<u8>, u64>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let payload =
        payload.map_err(|bytes| format!("it has {bytes} bytes; the limit is {bytes_max} (WORKER_PAYLOAD_MAX)"))?;
    match arguments::problems_of_json(entry, &payload) {
        None => Ok(payload),
        Some(problem) => Err(problem),
    }
}

async fn send<R>(
    order: &Order<'_>,
    settings: &Settings,
    total: Option<u64>,
    lines: Lines<R>,
    out: Out,
) -> Result<u8, Fail>
where
    R: Read + Send + 'static,
{
    let work = async |client: &Client| stream_lines(client, order, settings.payload_bytes_max, total, lines, out).await;
    with_client(settings, Missing::Create, work).await
}

/// Enqueues what `lines` gives until its end, its first wrong line, a failure, or Ctrl-C.
async fn stream_lines<R>(
    client: &Client,
    order: &Order<'_>,
    bytes_max: usize,
    total: Option<u64>,
    lines: Lines<R>,
    out: Out,
) -> Result<u8, Fail>
where
    R: Read + Send + 'static,
{
    let signals = Signals::listen().map_err(|error| Fail::new(exit::FAILURE, format_args!("signals: {error}")))?;
    let ending = CancellationToken::new();
    let (sender, mut chunks) = mpsc::channel(1);
    let reader = Reader { entry: Arc::clone(order.entry), options: order.options.clone(), bytes_max };
    let reading = tokio::task::spawn_blocking(move || reader.read(lines, &sender));
    let numbers = Arc::new(Mutex::new(VecDeque::new()));
    let on_their_way = Arc::clone(&numbers);
    let jobs = stream::poll_fn(move |task| chunks.poll_recv(task)).flat_map(stream::iter).map(move |(number, job)| {
        on_their_way.lock().unwrap_or_else(PoisonError::into_inner).push_back(number);
        job
    });
    let mut answers = client.enqueue_stream(jobs.take_until(ending.clone().cancelled_owned()));
    let mut tally = Tally::new(order, out, total);
    let mut signal = std::pin::pin!(signals.nth(1));
    let mut asked = false;
    loop {
        let answer = tokio::select! {
            biased;
            _ = &mut signal, if !asked => {
                asked = true;
                ending.cancel();
                continue;
            }
            answer = answers.next() => answer,
        };
        let Some(answer) = answer else { break };
        let number = numbers.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or_default();
        if tally.count(number, answer) {
            ending.cancel();
        }
    }
    // A thread that waits for standard input cannot be stopped, and need not be.
    let end = if ending.is_cancelled() { Ok(End::Cancelled) } else { reading.await };
    tally.report(end.unwrap_or(End::Cancelled), asked)
}

/// The thread that reads.
struct Reader {
    entry: Arc<Entry>,
    options: OptionArgs,
    bytes_max: usize,
}

type Chunk = Vec<(u64, Prepared)>;

impl Reader {
    fn read<R: Read>(&self, mut lines: Lines<R>, sender: &mpsc::Sender<Chunk>) -> End {
        let (mut chunk, mut bytes) = (Chunk::new(), 0);
        let end = loop {
            let line = match lines.next() {
                None => break End::Over,
                Some(Err(error)) => break End::Unreadable(error),
                Some(Ok(line)) => line,
            };
            let job = checked(&self.entry, line.payload, self.bytes_max).and_then(|payload| {
                bytes += payload.len();
                prepared(&self.entry, payload, &self.options).map_err(|error| error.to_string())
            });
            match job {
                Ok(job) => chunk.push((line.number, job)),
                Err(problem) => break End::Wrong(format!("line {}: {problem}", line.number)),
            }
            if chunk.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES || lines.may_wait() {
                bytes = 0;
                if sender.blocking_send(std::mem::take(&mut chunk)).is_err() {
                    return End::Cancelled;
                }
            }
        };
        if !chunk.is_empty() && sender.blocking_send(chunk).is_err() {
            return End::Cancelled;
        }
        end
    }
}
