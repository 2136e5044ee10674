//! The event loop of a worker: the one owner of every delivery.
//!
//! Each round waits for one event and acts on it. Executions and fetching run
//! beside the loop and cannot reach its state. Nothing is decided here that
//! could be decided without it: which delivery starts next is `lanes`, which
//! task runs it is `executions`, what an outcome means is [`decide_for`].
//!
//! What must stay true: a delivery that is ours leaves this task only by
//! `submit`, in the round in which it is concluded; every spawned task is in a
//! `JoinSet`, of fetching or of the executions; after `draining` no job starts.

use std::{future::Future, num::NonZeroU16, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use slab::Slab;
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Begin, Delivery, SettleError, Settler, Ticket},
    error::{BrokerError, RunError},
    handler::{Context, ContextParts},
    name::JobName,
    outcome::Outcome,
    registry::Entry,
    retry::RetryPolicy,
    settlement::{Settlement, decide_for},
    telemetry::{SPAN_JOB, TARGET},
    time::monotonic_now,
    worker::{
        Plan,
        admit::{Admission, admit},
        alone::{ALONE_IDLE_MAX, ALONE_WAIT_MAX, AloneWait, at},
        executions::{Ended, Executions},
        fetch::{Fetched, Fetching},
        group::Execution,
        lanes::{Lanes, Next, Owned, Place},
        meter::{Meter, Series},
        pacing::Pacing,
        report::{DrainReport, Ending, JobReport},
        settle::{Cause, Settled, Settling},
        status::Ping,
    },
};

/// How long a suspect is put off that cannot start now, where the broker takes a delivery for a start.
const PUT_OFF: Duration = Duration::from_secs(1);

/// The shortest time a job is put off: a handler that never gets further is called ten times a second.
const SNOOZE_MIN: Duration = Duration::from_millis(100);

/// How long, after the grace period, the broker may take to confirm what it was told; closing it
/// may take a second more.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(4);

/// Batches that fetching may be ahead of the loop, per queue.
const FETCHED_AHEAD: usize = 1;

pub(super) struct Dispatcher {
    /// First, so that they end before what they run is given back, where all of this is dropped.
    executions: Executions,
    plan: Plan,
    lanes: Lanes,
    phase: Phase,
    running: Slab<Running>,
    /// What the broker is told at the end of this round.
    concluded: Vec<Concluded>,
    settling: FuturesUnordered<Settling<Arc<Series>>>,
    draining: CancellationToken,
    alone: AloneWait,
    /// The broker takes a suspect's delivery for its start: it must not be kept waiting here, where
    /// another job may kill the process.
    delivered_is_started: bool,
    report: DrainReport,
    meter: Meter,
    pacing: Pacing,
    /// Not started, and to be given back when nothing more is fetched.
    unstarted: Vec<Owned>,
    failure: Option<BrokerError>,
}

/// How far the worker's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Takes no more; what runs may finish.
    Draining {
        until: Instant,
    },
    /// What ran is cancelled; the broker may still confirm.
    Aborting {
        until: Instant,
    },
}

/// A started job.
struct Running {
    owned: Owned,
    place: Place,
    entry: Arc<Entry>,
    started: Instant,
    span: tracing::Span,
}

/// A delivery of which is decided what must become of it.
struct Concluded {
    delivery: Delivery,
    settlement: Settlement,
    settler: Arc<dyn Settler>,
    lane: usize,
    /// What is reported once the broker has confirmed it.
    settled: Settled<Arc<Series>>,
}

impl Concluded {
    fn parts(self) -> ((Delivery, Settlement), Settled<Arc<Series>>) {
        ((self.delivery, self.settlement), self.settled)
    }
}

/// What the loop waits for.
enum Event {
    Shutdown,
    Abort,
    /// Somebody wants to know whether this loop turns.
    Asked(Ping),
    DeadlineOver,
    AloneWaitOver,
    /// Slow jobs may be held that another worker could run.
    PaceDue,
    Ended,
    Settled(Settled<Arc<Series>>),
    Fetched(Fetched),
    FetchingStopped,
}

impl Dispatcher {
    pub(super) fn new(plan: Plan) -> Self {
        let delivered_is_started = !plan.broker.capabilities().exact_blame;
        let lanes = Lanes::new(plan.concurrency, plan.lanes.iter().map(|lane| lane.slots));
        let meter = Meter::new(
            plan.broker.capabilities().broker,
            plan.concurrency,
            plan.lanes.iter().map(|lane| (&lane.subscription.queue, lane.slots)),
        );
        let firsts = plan.lanes.iter().map(|lane| (lane.subscription.prefetch, lane.is_adaptive.then_some(lane.slots)));
        let pacing = Pacing::new(firsts, plan.broker.capabilities().bundles, monotonic_now());
        let executions = Executions::new(plan.jobs_on.clone().unwrap_or_else(Handle::current));
        Self {
            plan,
            lanes,
            phase: Phase::Serving,
            running: Slab::new(),
            executions,
            concluded: Vec::new(),
            settling: FuturesUnordered::new(),
            draining: CancellationToken::new(),
            alone: AloneWait::None,
            delivered_is_started,
            report: DrainReport::default(),
            meter,
            pacing,
            unstarted: Vec::new(),
            failure: None,
        }
    }

    /// Runs until drained.
    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
        abort: impl Future<Output = ()> + Send,
    ) -> Result<DrainReport, RunError> {
        let (sender, mut fetched) = mpsc::channel(FETCHED_AHEAD * self.plan.lanes.len().max(1));
        let mut fetching = JoinSet::new();
        for (lane, plan) in self.plan.lanes.iter().enumerate() {
            let (broker, subscription) = (Arc::clone(&self.plan.broker), plan.subscription.clone());
            let (fetched, draining, board) = (sender.clone(), self.draining.clone(), self.plan.board.lane(lane));
            let topology = self.plan.registry.topology_of_one(&subscription.queue);
            let prefetch = self.pacing.prefetch(lane);
            fetching.spawn(Fetching { lane, broker, subscription, topology, prefetch, fetched, draining, board }.run());
        }
        drop(sender);
        let (mut shutdown, mut abort) = (pin!(shutdown), pin!(abort));
        let mut fetching_stopped = false;
        let mut asked = self.plan.board.begin();
        while !(fetching_stopped && self.running.is_empty() && self.settling.is_empty()) {
            let event = tokio::select! {
                // In this order: an end is acted on before new work, shutdown before both. Whoever
                // asks comes before all work, so that a loop under load still answers.
                biased;
                () = &mut shutdown, if self.phase == Phase::Serving => Event::Shutdown,
                () = &mut abort, if !matches!(self.phase, Phase::Aborting { .. }) => Event::Abort,
                Some(ping) = asked.recv() => Event::Asked(ping),
                () = self.deadline() => Event::DeadlineOver,
                () = self.executions.wait() => Event::Ended,
                Some(settled) = self.settling.next() => Event::Settled(settled),
                received = fetched.recv(), if !fetching_stopped => received.map_or(Event::FetchingStopped, Event::Fetched),
                () = self.alone.over() => Event::AloneWaitOver,
                () = self.pacing.tick(), if !self.running.is_empty() || self.lanes.has_waiting() => Event::PaceDue,
            };
            match event {
                Event::Shutdown => self.drain(),
                Event::Abort => self.abort(),
                // Who asked may have given up.
                Event::Asked(ping) => ping.send(()).unwrap_or(()),
                Event::DeadlineOver if matches!(self.phase, Phase::Aborting { .. }) => break,
                Event::DeadlineOver => self.abort(),
                Event::AloneWaitOver if matches!(self.alone, AloneWait::Idle(_)) => self.alone = AloneWait::None,
                Event::AloneWaitOver => self.alone = AloneWait::Over,
                Event::Ended => {
                    self.executions.take_ended().into_iter().for_each(|ended| self.ended(ended));
                    self.pace();
                }
                Event::PaceDue => self.pace(),
                Event::Settled(settled) => {
                    self.count(&settled);
                    // One acknowledgement stands for many.
                    while let Some(Some(settled)) = self.settling.next().now_or_never() {
                        self.count(&settled);
                    }
                }
                Event::Fetched(Fetched::Batch { lane, settler, deliveries }) => self.arrive(lane, &settler, deliveries),
                Event::Fetched(Fetched::Narrowed { lane, prefetch }) => self.narrow(lane, prefetch),
                Event::Fetched(Fetched::Failed(error)) => {
                    tracing::error!(target: TARGET, error = error.detail(), "the broker failed for good; stopping");
                    self.failure.get_or_insert(error);
                    self.drain();
                }
                Event::FetchingStopped => {
                    fetching_stopped = true;
                    self.give_back_unstarted();
                }
            }
            self.start_what_can();
            self.executions.end_round();
            self.submit();
            for (lane, running) in self.lanes.take_changed() {
                self.plan.board.running(lane, running);
                self.meter.running(lane, running);
            }
            self.plan.board.settled(self.report.settled);
        }
        self.report.unsettled = (self.running.len() + self.settling.len()) as u64;
        self.failure.map_or(Ok(self.report), |error| Err(error.into()))
    }

    /// Resolves when the present phase has taken as long as it may.
    fn deadline(&self) -> impl Future<Output = ()> + use<> {
        at(match self.phase {
            Phase::Serving => None,
            Phase::Draining { until } | Phase::Aborting { until } => Some(until),
        })
    }

    fn drain(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining { until: monotonic_now() + self.plan.grace };
        self.plan.board.draining();
        self.draining.cancel();
        self.unstarted = self.lanes.take_waiting();
        tracing::info!(
            target: TARGET, running = self.running.len(), given_back = self.unstarted.len(), grace = ?self.plan.grace,
            "draining: takes no more jobs, lets the running ones finish"
        );
    }

    /// Gives back what was not started, once nothing more is fetched: before, it would make room
    /// for deliveries that nobody wants.
    fn give_back_unstarted(&mut self) {
        std::mem::take(&mut self.unstarted).into_iter().for_each(|owned| self.give_back(owned));
    }

    fn abort(&mut self) {
        self.drain();
        self.give_back_unstarted();
        self.phase = Phase::Aborting { until: monotonic_now() + SETTLE_WAIT_MAX };
        if !self.running.is_empty() {
            tracing::warn!(target: TARGET, running = self.running.len(), "cancelling what still runs; it is given back");
        }
        self.executions.abort();
    }

    fn arrive(&mut self, lane: usize, settler: &Arc<dyn Settler>, deliveries: Vec<Delivery>) {
        for mut delivery in deliveries {
            self.address(&mut delivery);
            let entry = self.plan.registry.find(&delivery.queue, delivery.envelope.name.as_ref()).cloned();
            let owned = Owned { delivery, settler: Arc::clone(settler), lane, entry };
            match self.phase {
                Phase::Serving => self.lanes.arrive(owned),
                Phase::Draining { .. } => self.unstarted.push(owned),
                Phase::Aborting { .. } => self.give_back(owned),
            }
        }
        self.pacing.in_hand(lane, self.lanes.in_hand(lane));
    }

    /// A copy that an exchange sent is for the job that runs for it, whatever name it came with.
    fn address(&self, delivery: &mut Delivery) {
        let listener =
            delivery.envelope.origin().and_then(|(exchange, _)| self.plan.registry.listener(&delivery.queue, exchange));
        if let Some(listener) = listener {
            delivery.envelope.name = Some(listener.name.clone());
        }
    }

    fn start_what_can(&mut self) {
        while self.phase == Phase::Serving {
            if self.is_kept_free() {
                return;
            }
            let limit = |owned: &Owned| {
                let entry = owned.entry.as_ref()?;
                entry.registration.options.concurrency.map(|most| (entry.name.clone(), most.get()))
            };
            match self.lanes.next(limit, self.alone != AloneWait::Over) {
                Next::Start(owned, place) => {
                    if owned.delivery.is_suspect() {
                        self.alone = AloneWait::None;
                    }
                    self.start(owned, place);
                }
                Next::WaitToBeAlone => {
                    if self.alone == AloneWait::None {
                        self.alone = AloneWait::Until(monotonic_now() + ALONE_WAIT_MAX);
                    }
                    return self.put_off_suspects();
                }
                Next::Nothing => return self.put_off_suspects(),
            }
        }
    }

    /// Whether nothing may start, because a suspect that must be alone was put off and is on its way back.
    fn is_kept_free(&mut self) -> bool {
        let waits = matches!(self.alone, AloneWait::Until(_) | AloneWait::Idle(_));
        if !waits || !self.delivered_is_started || self.lanes.has_suspect() {
            return false;
        }
        if self.running.is_empty() && matches!(self.alone, AloneWait::Until(_)) {
            self.alone = AloneWait::Idle(monotonic_now() + ALONE_IDLE_MAX);
        }
        true
    }

    fn put_off_suspects(&mut self) {
        if !self.delivered_is_started {
            return;
        }
        for owned in self.lanes.take_suspects() {
            let span = tracing::Span::none();
            self.conclude(owned, Conclusion::PutOff, &RetryPolicy::DEFAULT, Duration::ZERO, span);
        }
    }

    fn start(&mut self, owned: Owned, place: Place) {
        let (delivery, now) = (&owned.delivery, self.plan.clock.now());
        let (patience, bytes_max) = (self.plan.unknown_job_patience, self.plan.payload_bytes_max);
        let admission = admit(delivery, owned.entry.as_ref(), &self.plan.registry, now, patience, bytes_max);
        let entry = match admission {
            Admission::Run(entry) => Arc::clone(entry),
            Admission::Refuse(outcome, retry) => {
                let span = span(delivery, delivery.envelope.name.as_ref());
                // Once: from then on the job carries since when nobody has known it.
                if let Outcome::Unknown { failure, patience, .. } = &outcome
                    && delivery.envelope.unknown_since.is_none()
                {
                    span.in_scope(|| tracing::warn!(target: TARGET, reason = failure.message, ?patience, "a job is not known here; it is offered again until a worker knows it or the patience is over"));
                }
                self.lanes.leave(&place);
                return self.conclude(owned, Conclusion::Ended(outcome), &retry, Duration::ZERO, span);
            }
        };
        let span = span(delivery, Some(&entry.name));
        match owned.settler.begin(delivery) {
            Begin::Go => {}
            Begin::Moved => return self.lanes.leave(&place),
            Begin::Lost => {
                self.report.lost += 1;
                span.in_scope(|| tracing::warn!(target: TARGET, "job lost before it started: another worker has it"));
                return self.lanes.leave(&place);
            }
        }
        self.meter.series(owned.lane, Some(&entry)).started(delivery, now);
        let cx = self.context(delivery, &entry);
        let body = delivery.envelope.body.clone();
        // A suspect may kill the process, so it never shares a task.
        let may_share = !delivery.is_suspect();
        let (job, said) = (Arc::clone(&entry), span.clone());
        let key = self.running.insert(Running { owned, place, entry, started: monotonic_now(), span });
        self.executions.start(Execution { key, entry: job, body, cx, span: said }, may_share);
    }

    fn context(&self, delivery: &Delivery, entry: &Entry) -> Context {
        Context::new(ContextParts {
            id: delivery.envelope.id.clone(),
            job: entry.name.clone(),
            queue: delivery.queue.clone(),
            attempt: delivery.attempt,
            enqueued_at: delivery.envelope.enqueued_at,
            timeout: entry.registration.options.timeout,
            headers: delivery.envelope.headers.clone(),
            is_call: delivery.envelope.caller.is_some(),
            stopping: self.draining.clone(),
            states: Arc::clone(&self.plan.states),
        })
    }

    fn ended(&mut self, Ended { key, outcome, elapsed }: Ended) {
        let Some(Running { owned, place, entry, started, span }) = self.running.try_remove(key) else {
            return;
        };
        self.lanes.leave(&place);
        // How long it had its slot, and how long it ran there.
        let occupied = started.elapsed();
        let elapsed = elapsed.unwrap_or(occupied);
        self.meter.series(owned.lane, Some(&entry)).ended(elapsed);
        self.pacing.ended(owned.lane, occupied, &owned.delivery);
        let conclusion = match outcome {
            // While this worker stops it is given back at once, for another to take.
            Some(Outcome::Snoozed(delay)) if self.phase == Phase::Serving => {
                Conclusion::Ended(Outcome::Snoozed(delay.max(SNOOZE_MIN)))
            }
            Some(outcome) => Conclusion::Ended(outcome),
            None if entry.registration.blocking => Conclusion::Abandoned,
            None => Conclusion::Interrupted,
        };
        self.conclude(owned, conclusion, &entry.registration.options.retry, elapsed, span);
    }

    /// Holds as many of each queue as its jobs' time asks for.
    fn pace(&mut self) {
        let now = monotonic_now();
        if !self.pacing.is_due(now) {
            return;
        }
        let running = self.running.iter();
        let running = running.map(|(_, running)| (running.owned.lane, now.saturating_duration_since(running.started)));
        for (lane, prefetch) in self.pacing.turn(now, running, |lane| self.lanes.in_hand(lane)) {
            let queue = &self.plan.lanes[lane].subscription.queue;
            tracing::debug!(target: TARGET, %queue, prefetch, "how many jobs are held follows how long they take");
        }
    }

    /// Gives back what another worker could start earlier, now that fewer are held.
    fn narrow(&mut self, lane: usize, prefetch: NonZeroU16) {
        if self.phase != Phase::Serving {
            return;
        }
        let bundles = self.plan.broker.capabilities().bundles;
        self.lanes
            .take_beyond(lane, prefetch.get().into(), bundles)
            .into_iter()
            .for_each(|owned| self.give_back(owned));
    }

    fn give_back(&mut self, owned: Owned) {
        let span = tracing::Span::none();
        self.conclude(owned, Conclusion::Unstarted, &RetryPolicy::DEFAULT, Duration::ZERO, span);
    }

    /// Decides what the broker must make true, and tells it.
    fn conclude(&mut self, owned: Owned, how: Conclusion, retry: &RetryPolicy, elapsed: Duration, span: tracing::Span) {
        let Owned { delivery, settler, lane, entry } = owned;
        let (cause, outcome) = match how {
            Conclusion::Ended(outcome) => (Cause::Ended, outcome),
            Conclusion::Unstarted => (Cause::Unstarted, Outcome::Interrupted),
            Conclusion::PutOff => (Cause::PutOff, Outcome::Snoozed(PUT_OFF)),
            Conclusion::Interrupted => (Cause::Interrupted, Outcome::Interrupted),
            Conclusion::Abandoned => (Cause::Abandoned, Outcome::Interrupted),
        };
        let caller = delivery.envelope.caller.as_ref();
        let settlement = decide_for(caller, outcome, delivery.attempt, retry, fastrand::f64());
        let report = JobReport {
            id: delivery.envelope.id.clone(),
            job: delivery.envelope.name.clone(),
            queue: delivery.queue.clone(),
            attempt: delivery.attempt,
            elapsed,
            ending: settlement.clone().into(),
        };
        let series = Arc::clone(self.meter.series(lane, entry.as_deref()));
        let settled = Settled { report, cause, series, span };
        self.concluded.push(Concluded { delivery, settlement, settler, lane, settled });
    }

    /// Tells the broker what this round has come to: what goes to one settler, in one call.
    fn submit(&mut self) {
        let mut concluded = std::mem::take(&mut self.concluded);
        // Lanes take turns; in a lane the order stays.
        concluded.sort_by_key(|concluded| concluded.lane);
        let mut concluded = concluded.into_iter().peekable();
        while let Some(first) = concluded.next() {
            let settler = Arc::clone(&first.settler);
            let mut of_settler = vec![first];
            while let Some(next) = concluded.next_if(|next| Arc::ptr_eq(&next.settler, &settler)) {
                of_settler.push(next);
            }
            let (settlements, settled): (Vec<_>, Vec<_>) = of_settler.into_iter().map(Concluded::parts).unzip();
            let tickets = settler.submit_all(settlements);
            debug_assert_eq!(tickets.len(), settled.len(), "a settler answers for each settlement");
            let tickets =
                tickets.into_iter().chain(std::iter::repeat_with(|| Ticket::resolved(Err(SettleError::Lost))));
            self.settling.extend(
                settled
                    .into_iter()
                    .zip(tickets)
                    .map(|(settled, ticket)| Settling::new(ticket, Arc::clone(&settler), settled)),
            );
        }
    }

    fn count(&mut self, settled: &Settled<Arc<Series>>) {
        let Settled { report, cause, span, .. } = settled;
        if *cause == Cause::PutOff {
            return; // It was not ours to run yet, and will be again.
        }
        let counter = match (cause, &report.ending) {
            (_, Ending::Lost) => &mut self.report.lost,
            (Cause::Interrupted, _) => &mut self.report.interrupted,
            (Cause::Abandoned, _) => &mut self.report.abandoned,
            (Cause::Unstarted | Cause::PutOff, _) | (Cause::Ended, Ending::Released { .. }) => {
                &mut self.report.released
            }
            (Cause::Ended, _) => &mut self.report.settled,
        };
        *counter += 1;
        self.meter.settled(settled);
        if *cause != Cause::Unstarted {
            span.in_scope(|| report.log());
            self.plan.observers.iter().for_each(|observer| observer(report));
        }
    }
}

/// How an owned delivery came to its end here.
enum Conclusion {
    Ended(Outcome),
    Unstarted,
    PutOff,
    Interrupted,
    Abandoned,
}

fn span(delivery: &Delivery, name: Option<&JobName>) -> tracing::Span {
    // Of the highest level: a filter that lets a warning pass must let its span pass too,
    // or the warning would not say which job it is about.
    tracing::error_span!(
        target: TARGET,
        SPAN_JOB,
        job = name.map(JobName::as_str),
        job_id = %delivery.envelope.id,
        queue = delivery.queue.as_str(),
        attempt = delivery.attempt
    )
}
