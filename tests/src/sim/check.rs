//! A model of what each delivery may do, and the record held against it.
//!
//! The model knows for each job in which states it waits, and for each delivery
//! who owns it. It follows the record line by line; what it does not expect is
//! a broken promise. At the end nothing may wait and nobody may own anything.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::fault::Fault;
use worker_core::{
    DrainReport, FailureKind, UNKNOWN_JOB_PATIENCE_DEFAULT,
    broker::{DeadJob, STARTS_MAX, attempts_failed},
    settlement::Settlement,
};

use crate::sim::{
    plan::{Plan, Type},
    record::{Entry, Handed, What},
};

/// What is wrong with this record; nothing is as it should be.
pub(super) fn check(plan: &Plan, record: &[Entry], dead: &[DeadJob]) -> Vec<String> {
    let mut model = Model::new(plan);
    for entry in record {
        model.now = entry.at;
        let before = model.problems.len();
        model.follow(entry);
        for problem in &mut model.problems[before..] {
            *problem = format!("{problem}, at `{entry}`");
        }
    }
    model.finish(dead);
    model.problems
}

/// A job in its queue.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Waiting {
    attempt: u32,
    starts: u32,
    not_before: Duration,
}

/// A delivery in a worker.
#[derive(Debug)]
struct Owned {
    handed: Handed,
    process: u64,
    subscription: u64,
    begun: bool,
}

/// A handler that runs, or will at once.
#[derive(Debug)]
struct Active {
    handed: Handed,
    process: u64,
}

/// How a job left its queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    job: String,
    kind: Option<FailureKind>,
    attempts: u32,
    starts: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Process {
    slots: usize,
    prefetch: usize,
    settled: u64,
    released: u64,
    began: u64,
    trouble: bool,
}

struct Model<'a> {
    plan: &'a Plan,
    now: Duration,
    /// How far the hands of the clock were moved in all.
    moved: Duration,
    waiting: BTreeMap<String, Vec<Waiting>>,
    owned: BTreeMap<u64, Owned>,
    active: Vec<Active>,
    ran: HashMap<String, u64>,
    begun: HashMap<String, u64>,
    stored: BTreeMap<String, usize>,
    acknowledged: BTreeMap<String, usize>,
    processes: BTreeMap<u64, Process>,
    ends: Vec<End>,
    problems: Vec<String>,
}

impl<'a> Model<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            now: Duration::ZERO,
            moved: Duration::ZERO,
            waiting: BTreeMap::new(),
            owned: BTreeMap::new(),
            active: Vec::new(),
            ran: HashMap::new(),
            begun: HashMap::new(),
            stored: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            processes: BTreeMap::new(),
            ends: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn demand(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    fn follow(&mut self, Entry { process, what, .. }: &Entry) {
        match what {
            What::Stored { job, due_in } => {
                *self.stored.entry(job.clone()).or_default() += 1;
                self.put_back(job, 1, 0, *due_in);
            }
            What::Acknowledged { job } => *self.acknowledged.entry(job.clone()).or_default() += 1,
            What::Started { slots, prefetch } => {
                let (slots, prefetch) = (*slots, *prefetch);
                self.processes.insert(*process, Process { slots, prefetch, ..Process::default() });
            }
            What::Unsubscribed { subscription } => {
                self.lose(|owned| owned.subscription == *subscription, false);
            }
            What::Crashed | What::Lapsed => {
                self.processes.entry(*process).or_default().trouble = true;
                self.lose(|owned| owned.process == *process, true);
            }
            What::Delivered { subscription, handed } => self.delivered(*process, *subscription, handed),
            What::Began { handed } => self.began(*process, handed),
            What::Ran { job, .. } => self.run(*process, job),
            What::Returned { job, attempt, .. } => {
                let ended = |active: &Active| {
                    active.process == *process && active.handed.job == *job && active.handed.attempt == *attempt
                };
                let at = self.active.iter().position(ended);
                self.demand(at.is_some(), || format!("{job} returned, but had not begun"));
                at.map(|at| self.active.remove(at));
            }
            What::Settled { handed, settlement } => self.settled(*process, handed, settlement),
            What::TooLate { handed } => {
                let owned = self.owned.contains_key(&handed.tag);
                self.demand(!owned, || format!("{} was lost, but nobody took it", handed.job));
                self.active.retain(|active| active.handed.tag != handed.tag || active.process != *process);
            }
            What::Failed { call, fault } => {
                let counts = matches!(*call, "settle" | "begin") && *fault != Fault::None;
                self.processes.entry(*process).or_default().trouble |= counts;
            }
            // What waits for a date comes sooner by as much as the clock is set forward; later it may come.
            What::ClockSet { by_ms, .. } => {
                self.moved += Duration::from_millis(by_ms.unsigned_abs());
                let forward = Duration::from_millis(u64::try_from(*by_ms).unwrap_or(0));
                let waiting = self.waiting.values_mut().flatten();
                waiting.for_each(|waiting| waiting.not_before = waiting.not_before.saturating_sub(forward));
            }
            What::Ended { report: Ok(report) } => self.ended(*process, report),
            What::Ended { report: Err(_) }
            | What::Subscribed { .. }
            | What::Asked { .. }
            | What::Healed
            | What::Trouble { .. } => {}
        }
    }

    fn put_back(&mut self, job: &str, attempt: u32, starts: u32, after: Duration) {
        let waiting = Waiting { attempt, starts, not_before: self.now + after };
        self.waiting.entry(job.to_owned()).or_default().push(waiting);
    }

    /// What `which` selects goes back to its queue; with `blame`, what had begun is blamed.
    fn lose(&mut self, which: impl Fn(&Owned) -> bool, blame: bool) {
        let tags: Vec<_> = self.owned.iter().filter(|(_, owned)| which(owned)).map(|(tag, _)| *tag).collect();
        for owned in tags.iter().filter_map(|tag| self.owned.remove(tag)).collect::<Vec<_>>() {
            let Handed { job, attempt, starts, .. } = owned.handed;
            let starts = starts + u32::from(blame && owned.begun);
            if starts >= STARTS_MAX {
                let (kind, attempts) = (Some(FailureKind::Crashed), attempt - 1);
                self.ends.push(End { job, kind, attempts, starts });
            } else {
                self.put_back(&job, attempt, starts, Duration::ZERO);
            }
        }
    }

    fn delivered(&mut self, process: u64, subscription: u64, handed: &Handed) {
        let now = self.now;
        let waits = self.waiting.entry(handed.job.clone()).or_default();
        let is_it = |waiting: &Waiting| (waiting.attempt, waiting.starts) == (handed.attempt, handed.starts);
        match waits.iter().position(|waiting| is_it(waiting) && waiting.not_before <= now) {
            Some(at) => drop(waits.remove(at)),
            None => {
                let waits = format!("{waits:?}");
                self.problems.push(format!("{} was delivered, but waits as {waits}", handed.job));
            }
        }
        let of_subscription = |owned: &&Owned| owned.subscription == subscription;
        let owned = self.owned.values().filter(of_subscription).count();
        let suspects = self.owned.values().filter(of_subscription).filter(|owned| owned.handed.starts > 0).count();
        let prefetch = self.processes.get(&process).map_or(0, |process| process.prefetch);
        self.demand(owned < prefetch, || format!("more than {prefetch} are owned"));
        self.demand(suspects == 0 || handed.starts == 0, || "two suspects are owned".into());
        let fresh =
            self.owned.insert(handed.tag, Owned { handed: handed.clone(), process, subscription, begun: false });
        self.demand(fresh.is_none(), || format!("delivery {} was handed out twice", handed.tag));
    }

    fn began(&mut self, process: u64, handed: &Handed) {
        let owned = self.owned.get_mut(&handed.tag).filter(|owned| owned.process == process && !owned.begun);
        let may = owned.map(|owned| owned.begun = true).is_some();
        self.demand(may, || format!("{} began without being owned, or twice", handed.job));
        *self.begun.entry(handed.job.clone()).or_default() += 1;
        self.processes.entry(process).or_default().began += 1;
        let beside: Vec<_> = self.active.iter().filter(|active| active.process == process).collect();
        let suspects = beside.iter().filter(|active| active.handed.starts > 0).count();
        let (beside, last_chance) = (beside.len(), beside.iter().any(|active| active.handed.starts + 1 >= STARTS_MAX));
        self.demand(handed.starts == 0 || suspects == 0, || "two suspects run at once".into());
        self.demand(handed.starts + 1 < STARTS_MAX || beside == 0, || format!("{beside} run beside a last chance"));
        self.demand(!last_chance, || "a job began beside another's last chance".into());
        self.active.push(Active { handed: handed.clone(), process });
    }

    fn run(&mut self, process: u64, job: &str) {
        let ran = self.ran.entry(job.to_owned()).or_default();
        *ran += 1;
        let (ran, begun) = (*ran, self.begun.get(job).copied().unwrap_or(0));
        self.demand(ran <= begun, || format!("{job} ran {ran} times and began {begun} times"));
        let beside: Vec<_> = self.active.iter().filter(|active| active.process == process).collect();
        let singles = beside.iter().filter(|active| self.plan.job(&active.handed.job).of_type == Type::Single).count();
        let (beside, slots) = (beside.len(), self.processes.get(&process).map_or(0, |process| process.slots));
        self.demand(beside <= slots, || format!("{beside} run in {slots} slots"));
        self.demand(singles <= 1, || format!("{singles} run of a type that may run once"));
    }

    fn settled(&mut self, process: u64, handed: &Handed, settlement: &Settlement) {
        let Handed { tag, job, attempt, starts } = handed;
        let Some(owned) = self.owned.remove(tag).filter(|owned| owned.process == process && owned.handed == *handed)
        else {
            return self.problems.push(format!("{job} was settled by one who did not own it"));
        };
        let runs = self.active.iter().any(|active| active.handed.tag == *tag && active.process == process);
        let never_ran = |kind| matches!(kind, FailureKind::Expired | FailureKind::UnknownJob);
        let counters = self.processes.entry(process).or_default();
        match settlement {
            Settlement::Release { .. } => counters.released += 1,
            _ => counters.settled += 1,
        }
        match settlement {
            Settlement::Release { .. } => self.active.retain(|active| active.handed.tag != *tag),
            Settlement::DeadLetter { failure } if never_ran(failure.kind) => {
                self.demand(!owned.begun, || format!("{job} is {} although it began", failure.kind));
            }
            _ => self.demand(owned.begun && !runs, || format!("{job} was settled before it had run")),
        }
        match settlement {
            Settlement::Ack { .. } => {
                self.ends.push(End { job: job.clone(), kind: None, attempts: attempt - 1, starts: *starts });
            }
            Settlement::DeadLetter { failure } => {
                let attempts = attempts_failed(failure.kind, *attempt);
                self.ends.push(End { job: job.clone(), kind: Some(failure.kind), attempts, starts: *starts });
            }
            Settlement::Release { after, .. } => self.put_back(job, *attempt, *starts, *after),
            Settlement::Retry { after, .. } => {
                let most = self.plan.job(job).of_type.options().retry.max_retries();
                self.demand(*attempt <= most, || format!("{job} is retried after attempt {attempt} of {}", most + 1));
                self.put_back(job, attempt + 1, 0, *after);
            }
            _ => self.problems.push(format!("{job} was settled in an unknown way")),
        }
    }

    fn ended(&mut self, process: u64, report: &DrainReport) {
        let counted = self.processes.get(&process).copied().unwrap_or_default();
        self.demand(report.settled <= counted.settled, || format!("{report:?} counts more than {counted:?}"));
        if !counted.trouble && report.unsettled == 0 {
            let released = report.released + report.interrupted + report.abandoned;
            let told = (report.settled, released, report.lost);
            let true_ones = (counted.settled, counted.released, 0);
            self.demand(told == true_ones, || format!("{report:?} is not {counted:?}"));
        }
        let owned = self.owned.values().filter(|owned| owned.process == process).count() as u64;
        self.demand(owned <= report.unsettled, || format!("{owned} are owned by a worker that has ended"));
    }

    fn finish(&mut self, dead: &[DeadJob]) {
        let waiting: Vec<_> = self.waiting.iter().filter(|(_, waits)| !waits.is_empty()).collect();
        let problem = format!("never came to an end: {waiting:?}");
        self.demand(self.waiting.values().all(Vec::is_empty), || problem);
        let problem = format!("owned to the end: {:?}", self.owned);
        self.demand(self.owned.is_empty(), || problem);

        let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
        self.ends.iter().for_each(|end| *ended.entry(&end.job).or_default() += 1);
        let stored: BTreeMap<&str, usize> = self.stored.iter().map(|(job, count)| (job.as_str(), *count)).collect();
        let problem = format!("stored: {stored:?}, ended: {ended:?}");
        let conserved = ended == stored;
        let planned = self.plan.jobs.iter().all(|job| self.acknowledged.get(&job.id) == Some(&1));
        self.demand(conserved, || problem);
        self.demand(planned, || "a job was never acknowledged to its producer, or twice".into());

        let mut of_model: Vec<_> = self.ends.iter().filter(|end| end.kind.is_some()).cloned().collect();
        let of_broker = dead.iter().map(|dead| End {
            job: dead.id.to_string(),
            kind: Some(dead.failure.kind),
            attempts: dead.attempts,
            starts: dead.starts,
        });
        let mut of_broker: Vec<_> = of_broker.collect();
        of_model.sort_unstable();
        of_broker.sort_unstable();
        self.demand(of_model == of_broker, || {
            format!("dead by the record: {of_model:?}, in the broker: {of_broker:?}")
        });
        for end in std::mem::take(&mut self.ends) {
            self.ended_as_planned(&end);
        }
    }

    /// Nothing but three deaths of its worker, its expiry date, or a clock by which nobody knew it for long may change how
    /// a job ends.
    fn ended_as_planned(&mut self, end: &End) {
        let job = self.plan.job(&end.job);
        let (expected, failed) = job.expected();
        let may = match end.kind {
            Some(FailureKind::Crashed) => end.starts == STARTS_MAX && end.attempts <= failed,
            Some(FailureKind::Expired) => job.expires_in.is_some() && end.attempts <= failed,
            Some(FailureKind::UnknownJob) => self.moved >= UNKNOWN_JOB_PATIENCE_DEFAULT,
            kind => (kind, end.attempts) == (expected.err(), failed),
        };
        self.demand(may, || format!("{end:?}, but the plan is {expected:?} after {failed} failures"));
    }
}
