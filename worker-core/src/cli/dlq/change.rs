//! `dlq replay` and `dlq drop`: the same steps, and one of two things done to each job.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    ops::ControlFlow,
};

use clap::Args;
use serde::Serialize;

use super::{
    Desk, Filter,
    scan::{each, groups, job_text},
};
use crate::{
    broker::Selection,
    cli::{
        exit,
        fail::Fail,
        out::{Out, count, say},
        progress::Progress,
        signals::Signals,
        table::{Column, Table},
    },
    error::BrokerError,
    id::JobId,
    name::QueueName,
    outcome::FailureKind,
    registry::{Entry, Registry},
    suggest::did_you_mean,
};

/// Jobs that are changed in one step: Ctrl-C waits for at most so many.
const BATCH: usize = 200;

/// Put dead jobs back into their queues, to be run again from the first attempt
#[derive(Debug, Args)]
#[command(after_help = r#"A replayed job keeps its id, payload and headers, loses its expiry date, and
has all its retries again. What dies while the replay goes on is left alone.
Ctrl-C stops after the batch at work; the same command goes on where it
stopped.

Examples:
  myapp dlq replay 0199a1b2-…
  myapp dlq replay --job send_welcome --kind timed_out --dry-run
  myapp dlq replay --all --yes

JSON:
  {"action", "dry_run", "selected", "done", "left", "unmatched_ids": [id],
   "groups": [{"job", "kind", "jobs"}]}, groups with --dry-run alone"#)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    pub(super) what: ChangeArgs,
}

/// Remove dead jobs for good
#[derive(Debug, Args)]
#[command(after_help = r#"A dropped job is gone. What dies while the command runs is left alone. Ctrl-C
stops after the batch at work; the same command goes on where it stopped.

Examples:
  myapp dlq drop 0199a1b2-…
  myapp dlq drop --kind expired --dry-run

JSON:
  {"action", "dry_run", "selected", "done", "left", "unmatched_ids": [id],
   "groups": [{"job", "kind", "jobs"}]}, groups with --dry-run alone"#)]
pub(super) struct DropArgs {
    #[command(flatten)]
    pub(super) what: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Which, as `dlq list` has them
    #[arg(value_name = "ID", conflicts_with_all = ["all", "queue", "job", "kind"])]
    ids: Vec<JobId>,
    /// All dead jobs
    #[arg(long, conflicts_with_all = ["queue", "job", "kind"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl ChangeArgs {
    pub(super) const fn queue(&self) -> Option<&QueueName> {
        self.filter.queue.as_ref()
    }

    /// What can be refused before the broker is asked.
    pub(super) fn check(&self) -> Result<(), Fail> {
        if self.ids.is_empty() && !self.all && self.filter.is_empty() {
            return Err(Fail::usage("nothing is selected: give ids, --queue, --job, --kind, or --all"));
        }
        if !self.yes && !self.dry_run && !io::stdin().is_terminal() {
            return Err(Fail::usage("standard input is no terminal, so nobody can be asked: add --yes")
                .hint("--dry-run shows what would be done"));
        }
        Ok(())
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    Replay,
    Drop,
}

impl Change {
    const fn verb(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop => "drop",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    action: Change,
    dry_run: bool,
    selected: u64,
    done: u64,
    left: u64,
    unmatched_ids: &'a [JobId],
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Group]>,
}

#[derive(Serialize)]
struct Group {
    job: String,
    kind: FailureKind,
    jobs: u64,
}

pub(super) async fn change(
    change: Change,
    args: &ChangeArgs,
    desk: &Desk<'_>,
    registry: &Registry,
) -> Result<u8, Fail> {
    let mut selection = args.filter.selection(desk);
    (selection.ids, selection.died_until) = (args.ids.clone(), Some(desk.now));
    let selected = desk.inspector.count_dead(&selection).await?;
    let unmatched = unmatched(&selection, desk).await?;
    for id in &unmatched {
        say(format_args!("no dead job has the id `{id}`"));
    }
    if selected == 0 {
        return Err(nothing_matched(args, registry));
    }
    let code = if unmatched.is_empty() { exit::OK } else { exit::NOTHING_MATCHED };
    let mut document = Document {
        action: change,
        dry_run: args.dry_run,
        selected,
        done: 0,
        left: selected,
        unmatched_ids: &unmatched,
        groups: None,
    };
    if args.dry_run {
        dry_run(document, &by_job_and_kind(&selection, desk).await?, args.json, desk.out)?;
        return Ok(code);
    }
    if !args.yes {
        confirm(change, selected, &by_job_and_kind(&selection, desk).await?)?;
    }
    let (done, stop) = work(change, &selection, selected, desk).await?;
    let left = desk.inspector.count_dead(&selection).await.unwrap_or_else(|_| selected.saturating_sub(done));
    if args.json {
        (document.done, document.left) = (done, left);
        desk.out.json(&document)?;
    }
    let done = format!("{} {}", change.done(), count(done, "job"));
    match stop {
        Stop::Finished => {
            say(format_args!("{done}"));
            Ok(code)
        }
        Stop::Asked => {
            say(format_args!("stopped: {done}, {left} left; the same command goes on"));
            Ok(exit::PARTIAL)
        }
        Stop::Failed(error) => Err(Fail::new(exit::PARTIAL, format_args!("{done}, {left} left: {}", error.detail()))
            .hint("the same command goes on where it stopped")),
    }
}

/// Shows what would be done.
fn dry_run<'a>(mut document: Document<'a>, groups: &'a [Group], json: bool, out: Out) -> Result<(), Fail> {
    if json {
        document.groups = Some(groups);
        return out.json(&document);
    }
    say(format_args!("would {} {}", document.action.verb(), count(document.selected, "job")));
    out.table(&table(groups))
}

/// The ids that no dead job has.
async fn unmatched(selection: &Selection, desk: &Desk<'_>) -> Result<Vec<JobId>, BrokerError> {
    if selection.ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = HashSet::new();
    each(&*desk.inspector, selection, |job| {
        found.insert(job.id);
        ControlFlow::Continue(())
    })
    .await?;
    Ok(selection.ids.iter().filter(|id| !found.contains(*id)).cloned().collect())
}

fn nothing_matched(args: &ChangeArgs, registry: &Registry) -> Fail {
    if !args.ids.is_empty() {
        return Fail::silent(exit::NOTHING_MATCHED); // Each of them was named.
    }
    let mut message = "no dead job matches".to_owned();
    if args.all {
        message = "there are no dead jobs".into();
    }
    let known: Vec<_> = registry.entries().map(|entry: &Entry| entry.name.as_str()).collect();
    if let Some(job) = args.filter.job.as_ref().filter(|job| !known.contains(&job.as_str())) {
        let meant = did_you_mean(job.as_str(), known.iter().copied());
        message = format!("{message}, and no job is called `{job}`{meant}");
    }
    Fail::new(exit::NOTHING_MATCHED, message)
}

async fn by_job_and_kind(selection: &Selection, desk: &Desk<'_>) -> Result<Vec<Group>, BrokerError> {
    let groups = groups(&*desk.inspector, selection, |job| (job_text(job), job.failure.kind)).await?;
    Ok(groups.into_iter().map(|((job, kind), group)| Group { job, kind, jobs: group.dead }).collect())
}

fn table(rows: &[Group]) -> Table {
    let mut table = Table::new([Column::text("JOB"), Column::text("KIND"), Column::number("JOBS")]);
    for row in rows {
        table.row([row.job.clone(), row.kind.to_string(), row.jobs.to_string()]);
    }
    table
}

/// Shows at the terminal what will be done, and asks; `Err` unless the answer is yes.
fn confirm(change: Change, selected: u64, groups: &[Group]) -> Result<(), Fail> {
    let (verb, jobs) = (change.verb(), count(selected, "job"));
    say(format_args!("this will {verb} {jobs}:\n{}", table(groups).aligned(None, false).trim_end()));
    let for_good = if change == Change::Drop { " for good" } else { "" };
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{verb} {jobs}{for_good}? [y/N] ").and_then(|()| stderr.flush());
    drop(stderr);
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    if answered.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Fail::new(exit::FAILURE, "not confirmed; nothing was changed"))
}

/// Why the work ended.
enum Stop {
    Finished,
    Asked,
    Failed(BrokerError),
}

/// Changes the selected jobs, a batch at a time; how many, and why it ended.
async fn work(change: Change, selection: &Selection, selected: u64, desk: &Desk<'_>) -> Result<(u64, Stop), Fail> {
    // Not before: until here Ctrl-C may simply end the program.
    let signals = Signals::listen().map_err(|error| Fail::new(exit::FAILURE, format_args!("signals: {error}")))?;
    let mut progress = Progress::new(change.done(), Some(selected));
    let mut done = 0;
    loop {
        if signals.any() {
            return Ok((done, Stop::Asked));
        }
        let changed = match change {
            Change::Replay => desk.inspector.replay(selection, BATCH).await,
            Change::Drop => desk.inspector.drop_dead(selection, BATCH).await,
        };
        match changed {
            Ok(0) => return Ok((done, Stop::Finished)),
            Ok(changed) => {
                done += changed;
                progress.advance(changed);
            }
            Err(error) if done == 0 => return Err(error.into()),
            Err(error) => return Ok((done, Stop::Failed(error))),
        }
    }
}
