//! A server of RabbitMQ's semantics in memory, which stands below the seam in `lapin`'s place: for simulations.
//!
//! Its time is `tokio`'s, so it is virtual where that is paused; what it draws comes from a seed. It has what
//! the framework uses: durable and exclusive queues, quorum and classic, with the rules of 3.10 or of 4.3 for what
//! comes back; exchanges and bindings; confirms, returns and refusals; times to live and dead-lettering, at least
//! once or not, with the detection of circles; direct replies; alarms; impatience with who holds a message for long;
//! queues that stand still. It has no nodes, no streams, no policies and no users. The conformance suite runs on it,
//! and must agree with RabbitMQ on every case.

mod client;
mod death;
mod pipes;
mod queue;
mod refusal;
mod state;

use std::{
    any::Any,
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

use self::{
    client::SimulatedDialer,
    pipes::{Answer, Arrival, Connected, Deed, Frame, Pipes, Timeline},
    state::{Outgoing, State},
};
use crate::{
    brokers::rabbitmq::{
        RabbitBroker,
        link::{LinkError, LinkErrorKind},
        options::RabbitOptions,
        version::Server,
    },
    time::{Clock, monotonic_now},
};

/// A simulated server. Cheap to clone: all clones are the same server.
#[derive(Clone)]
pub struct SimulatedServer {
    inner: Arc<Inner>,
    version: &'static str,
}

/// One process that uses the server.
#[derive(Clone)]
pub struct SimulatedProcess {
    server: Arc<Inner>,
    process: Arc<Process>,
}

struct Process {
    number: u64,
    dead: AtomicBool,
    /// Requests of it that the server has read.
    steps: AtomicU64,
    /// At which of them it is killed; and whether the server acts by that one still.
    dies_at: Mutex<Option<(u64, bool)>>,
}

impl Process {
    fn new(number: u64) -> Self {
        Self { number, dead: AtomicBool::new(false), steps: AtomicU64::new(0), dies_at: Mutex::default() }
    }

    /// The server reads one request more: whether the process is killed by now, and whether the server still acts.
    fn step(&self) -> Option<bool> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let dies_at = *self.dies_at.lock().unwrap_or_else(PoisonError::into_inner);
        dies_at.filter(|(at, _)| *at == step).map(|(_, acts)| acts)
    }
}

struct Inner {
    world: Mutex<World>,
    /// Something is to happen before what it waits for.
    sooner: Notify,
    tasks: TaskTracker,
}

/// What is dropped without the lock: who waits for it wakes, and may ask.
type Lost = Vec<Box<dyn Any + Send>>;

struct World {
    state: State,
    timeline: Timeline,
    /// Until when it waits for something to happen.
    waits_until: Option<Instant>,
    up: bool,
    /// Why it takes no messages, if it does not.
    alarm: Option<String>,
    rng: Rng,
    /// How long anything takes in one direction, in milliseconds.
    latency: RangeInclusive<u64>,
    /// How much longer a confirm may take.
    confirming: RangeInclusive<u64>,
    /// A connection that publishes now gets no confirm any more.
    silent: bool,
    connections: BTreeMap<u64, Connected>,
    last_connection: u64,
    last_process: u64,
    /// How often whoever sent a message did not learn in time what became of it, by its id.
    unknown: BTreeMap<String, usize>,
}

impl SimulatedServer {
    /// A server that calls itself RabbitMQ of this version, and draws what it draws from `seed`. Nothing on it takes
    /// time until [`slow`](Self::slow) says so.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    #[must_use]
    pub fn new(version: &'static str, seed: u64) -> Self {
        let modern = Server::new("RabbitMQ", version).nack_is_free();
        let world = World {
            state: State::new(modern),
            timeline: Timeline::default(),
            waits_until: None,
            up: true,
            alarm: None,
            rng: Rng::with_seed(seed),
            latency: 0..=0,
            confirming: 0..=0,
            silent: false,
            connections: BTreeMap::new(),
            last_connection: 0,
            last_process: 0,
            unknown: BTreeMap::new(),
        };
        let inner = Arc::new(Inner { world: Mutex::new(world), sooner: Notify::new(), tasks: TaskTracker::new() });
        drop(inner.tasks.spawn_on(run(Running(Arc::clone(&inner))), &Handle::current()));
        Self { inner, version }
    }

    /// Another process that uses it, with a broker of its own whose dates are those of `clock`.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    #[must_use]
    pub fn process(&self, options: &RabbitOptions, clock: Arc<dyn Clock>) -> (RabbitBroker, SimulatedProcess) {
        let mut world = self.inner.lock();
        world.last_process += 1;
        let process = Arc::new(Process::new(world.last_process));
        drop(world);
        let dialer = SimulatedDialer { server: Arc::clone(&self.inner), process: Arc::clone(&process) };
        let server = Server::new("RabbitMQ", self.version);
        let broker = RabbitBroker::over(server, Arc::new(dialer), options, clock, Handle::current(), None);
        (broker, SimulatedProcess { server: Arc::clone(&self.inner), process })
    }

    /// From now on everything takes so many milliseconds each way, and a confirm so many more.
    pub fn slow(&self, latency: RangeInclusive<u64>, confirming: RangeInclusive<u64>) {
        let mut world = self.inner.lock();
        (world.latency, world.confirming) = (latency, confirming);
    }

    /// It takes no messages for this reason, or takes them again.
    pub fn alarm(&self, reason: Option<&str>) {
        let mut world = self.inner.lock();
        world.alarm = reason.map(str::to_owned);
        let World { connections, timeline, .. } = &mut *world;
        for (id, _) in connections.iter().filter(|(_, connected)| !connected.held.is_empty()) {
            timeline.put(monotonic_now(), *id, Arrival::Resume);
        }
        self.inner.hurry(&mut world);
    }

    /// Who publishes on a connection from now on gets no confirm on it any more, to its end, though everything else is
    /// answered, and may have published or not. With `false` new connections are well again. So a node of 3.10 was
    /// that had lost the others of its cluster.
    pub fn silence(&self, silent: bool) {
        self.inner.lock().silent = silent;
    }

    /// It dies: all connections are gone, and nobody gets one until it [starts](Self::start) again. What it has
    /// confirmed it has kept.
    pub fn kill(&self) {
        let mut world = self.inner.lock();
        world.up = false;
        world.state.die();
        self.inner.end_all(&mut world, "the server died", |_| true);
    }

    /// It is there again.
    pub fn start(&self) {
        self.inner.lock().up = true;
    }

    /// Ends all connections, as an operator can.
    pub fn close_all_connections(&self) {
        self.inner.end_all(&mut self.inner.lock(), "CONNECTION_FORCED - closed by an operator", |_| true);
    }

    /// It takes away what somebody has held for so long or longer, as its `consumer_timeout` has it do: before 4.3 the
    /// whole channel ends, and since then the consumer.
    ///
    /// Gives how many messages it took away.
    pub fn lose_patience(&self, held: Duration) -> usize {
        let mut world = self.inner.lock();
        let taken = world.state.lose_patience(held, monotonic_now());
        world.follow();
        self.inner.hurry(&mut world);
        taken
    }

    /// One queue stands still, as one does whose leader cannot reach the others: what is put into it is kept and never
    /// confirmed, nothing of it is delivered, and nothing in it expires. With `None` all move again.
    pub fn stall(&self, queue: Option<&str>) {
        let mut world = self.inner.lock();
        world.state.stall(queue);
        world.follow();
        self.inner.hurry(&mut world);
    }

    /// How many messages each queue has, delivered or not.
    #[must_use]
    pub fn depths(&self) -> BTreeMap<String, usize> {
        self.inner.lock().state.depths()
    }

    /// It refuses what is published, as a full queue does, or takes it again.
    pub fn fill(&self, full: bool) {
        self.inner.lock().state.full = full;
    }

    /// Whether somebody has consumed without a limit.
    #[must_use]
    pub fn was_consumed_without_limit(&self) -> bool {
        self.inner.lock().state.unlimited
    }

    /// Whether somebody has published a message that says through which queues it went.
    #[must_use]
    pub fn was_told_of_deaths(&self) -> bool {
        self.inner.lock().state.told_of_deaths
    }

    /// Whether somebody has settled a delivery that it did not have, or had no more.
    #[must_use]
    pub fn was_told_of_unknown_deliveries(&self) -> bool {
        self.inner.lock().state.unknown_tags
    }

    /// How many messages were delivered to consumers so far.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.inner.lock().state.deliveries
    }

    /// How many publishes of the message with this id were not confirmed in time, or never: each may have been taken, and
    /// sent once more.
    #[must_use]
    pub fn unknown_publishes(&self, id: &str) -> usize {
        self.inner.lock().unknown.get(id).copied().unwrap_or(0)
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.inner.lock().last_connection
    }

    /// Deletes a queue with all that is in it, as an operator can.
    pub fn delete_queue(&self, name: &str) {
        let mut world = self.inner.lock();
        world.state.delete(name);
        world.follow();
        self.inner.hurry(&mut world);
    }
}

impl std::fmt::Debug for SimulatedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedServer").field("version", &self.version).finish_non_exhaustive()
    }
}

impl SimulatedProcess {
    /// The process is killed: its connections end, and it makes no others.
    pub fn die(&self) {
        self.process.dead.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Its connections are cut; it may make others.
    pub fn cut(&self) {
        let is_own = |pipes: &Pipes| pipes.process.number == self.process.number;
        self.server.end_all(&mut self.server.lock(), "the connection was cut", is_own);
    }

    /// How many requests of it the server has read so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.process.steps.load(Ordering::SeqCst)
    }

    /// It will be killed when the server reads its request of this number, the first being 1; `acts` says whether the
    /// server still acts by it, to whose answer nobody listens any more.
    pub fn die_at(&self, step: u64, acts: bool) {
        *self.process.dies_at.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, acts));
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.process.dead.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for SimulatedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedProcess").field("number", &self.process.number).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next thing takes.
    fn delay(&self) -> Duration {
        self.lock().delay()
    }

    /// Something may have been put on the timeline.
    fn hurry(&self, world: &mut World) {
        let next = world.next();
        if next.is_some_and(|next| world.waits_until.is_none_or(|until| next < until)) {
            self.sooner.notify_one();
        }
    }

    fn connect(&self, process: &Arc<Process>) -> Result<Arc<Pipes>, LinkError> {
        let mut world = self.lock();
        if !world.up || process.dead.load(Ordering::SeqCst) {
            return Err(LinkError::new(LinkErrorKind::Gone, "connection refused"));
        }
        world.last_connection += 1;
        let pipes = Pipes::new(world.last_connection, Arc::clone(process));
        world.connections.insert(pipes.id, Connected::new(Arc::clone(&pipes)));
        Ok(pipes)
    }

    /// Sends a request; lost where there is no connection any more.
    fn send(&self, pipes: &Pipes, frame: Frame) {
        let world = &mut *self.lock();
        if pipes.gone.is_cancelled() {
            return;
        }
        let delay = world.delay();
        if let Some(connected) = world.connections.get_mut(&pipes.id) {
            world.timeline.put(connected.request_arrives(delay), pipes.id, Arrival::Request(frame));
        }
        self.hurry(world);
    }

    /// Ends a connection; the server learns of it, after what it may still read.
    fn end(&self, pipes: &Pipes, why: &str) {
        self.end_all(&mut self.lock(), why, |other| other.id == pipes.id);
    }

    fn end_all(&self, world: &mut World, why: &str, which: impl Fn(&Pipes) -> bool) {
        world.end_all(why, which);
        self.hurry(world);
    }
}

impl World {
    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(self.latency.clone()))
    }

    /// When something happens next.
    fn next(&mut self) -> Option<Instant> {
        self.timeline.next().into_iter().chain(self.state.next_expiry()).min()
    }

    fn end_all(&mut self, why: &str, which: impl Fn(&Pipes) -> bool) {
        let Self { connections, timeline, .. } = self;
        let living = connections.values().map(|connected| &connected.pipes).filter(|pipes| !pipes.gone.is_cancelled());
        for pipes in living.filter(|pipes| which(pipes)) {
            pipes.end(why);
            timeline.put(monotonic_now(), pipes.id, Arrival::End { may_arrive: true });
        }
    }

    /// Something arrives; what the client does then, and what nobody waits for any more, both without the lock.
    fn arrive(&mut self, id: u64, arrival: Arrival) -> (Option<Deed>, Lost) {
        let lives = |connected: &&mut Connected| !connected.pipes.gone.is_cancelled();
        match arrival {
            Arrival::End { may_arrive } => return (None, self.disconnect(id, may_arrive)),
            Arrival::Answer(deed) => match self.connections.get_mut(&id).filter(lives) {
                Some(_) => return (Some(deed), Lost::new()),
                None => return (None, vec![Box::new(deed)]),
            },
            Arrival::Request(frame) => match self.connections.get_mut(&id) {
                Some(connected) => connected.held.push_back(frame),
                None => return (None, vec![Box::new(frame.act)]),
            },
            Arrival::Resume => {}
        }
        self.read(id);
        (None, Lost::new())
    }

    /// Reads what has arrived on a connection, up to a publish that is not taken now.
    fn read(&mut self, id: u64) {
        while let Some(connected) = self.connections.get_mut(&id).filter(|it| !it.pipes.gone.is_cancelled()) {
            let Some(Frame { publishes, .. }) = connected.held.front() else { return };
            if *publishes {
                connected.pipes.block(self.alarm.as_deref());
                if self.alarm.is_some() {
                    return;
                }
            }
            let Some(frame) = connected.held.pop_front() else { return };
            let process = Arc::clone(&connected.pipes.process);
            let dies = process.step();
            if dies.is_none_or(|acts| acts) {
                self.act(id, frame);
            }
            if dies.is_some() {
                process.dead.store(true, Ordering::SeqCst);
                // On the connection on which it died nothing more is read.
                self.timeline.put(monotonic_now(), id, Arrival::End { may_arrive: false });
                self.end_all("the connection was cut", |pipes| pipes.process.number == process.number);
            }
        }
    }

    /// The server acts by a request.
    fn act(&mut self, id: u64, Frame { publishes, act }: Frame) {
        let Some(connected) = self.connections.get_mut(&id) else { return };
        if publishes && self.silent {
            connected.silence();
        }
        let confirms = !(publishes && connected.is_silent());
        if !confirms && self.rng.bool() {
            return connected.leave_unsaid(act);
        }
        let answers = act(&mut self.state, monotonic_now());
        self.follow();
        for answer in answers {
            let delay = self.delay();
            let (due, deed) = match answer {
                Answer::Unsaid(deed) => {
                    if let Some(connected) = self.connections.get_mut(&id) {
                        connected.leave_unsaid(deed);
                    }
                    continue;
                }
                Answer::Confirm(deed) | Answer::ConfirmInOrder(deed) if !confirms => {
                    if let Some(connected) = self.connections.get_mut(&id) {
                        connected.leave_unsaid(deed);
                    }
                    continue;
                }
                Answer::Confirm(deed) => {
                    let more = Duration::from_millis(self.rng.u64(self.confirming.clone()));
                    (monotonic_now() + delay + more, deed)
                }
                Answer::InOrder(deed) | Answer::ConfirmInOrder(deed) => {
                    let Some(connected) = self.connections.get_mut(&id) else { return };
                    (connected.answer_arrives(delay), deed)
                }
            };
            self.timeline.put(due, id, Arrival::Answer(deed));
        }
    }

    /// Sends what follows from what has changed.
    fn follow(&mut self) {
        self.state.expire(monotonic_now());
        self.state.deliver(monotonic_now());
        for Outgoing { connection, deed } in std::mem::take(&mut self.state.outgoing) {
            let delay = self.delay();
            if let Some(connected) = self.connections.get_mut(&connection) {
                let due = connected.answer_arrives(delay);
                self.timeline.put(due, connection, Arrival::Answer(deed));
            }
        }
    }

    /// A connection is over; what was on its way and is lost.
    fn disconnect(&mut self, id: u64, may_arrive: bool) -> Lost {
        let Some(connected) = self.connections.get_mut(&id) else { return Lost::new() };
        let mut held = std::mem::take(&mut connected.held);
        let mut lost = Lost::new();
        for arrival in self.timeline.take_all(id) {
            match arrival {
                Arrival::Request(frame) => held.push_back(frame),
                Arrival::Answer(deed) => lost.push(Box::new(deed)),
                Arrival::Resume | Arrival::End { .. } => {}
            }
        }
        // The next may have arrived all the same.
        if may_arrive && !held.is_empty() && self.rng.bool() {
            held.pop_front().into_iter().for_each(|frame| self.act(id, frame));
        }
        lost.extend(held.into_iter().map(|frame| -> Box<dyn Any + Send> { Box::new(frame.act) }));
        // Who still waits for an answer learns that there is none.
        lost.extend(self.timeline.take_all(id).into_iter().filter_map(|arrival| match arrival {
            Arrival::Answer(deed) => Some(Box::new(deed) as Box<dyn Any + Send>),
            _ => None,
        }));
        lost.extend(self.connections.remove(&id).into_iter().flat_map(Connected::unsaid));
        self.state.disconnect(id, monotonic_now());
        self.follow();
        lost
    }
}

/// The task of a server that runs. With it goes what is on its way, which would keep the server alive.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut world = self.0.lock();
        let left = (std::mem::take(&mut world.timeline), std::mem::take(&mut world.connections));
        drop(world);
        drop(left);
    }
}

/// Lets everything happen when it is time, as long as the runtime lives.
async fn run(running: Running) {
    let inner = &*running.0;
    loop {
        loop {
            let mut world = inner.lock();
            let Some((connection, arrival)) = world.timeline.take(monotonic_now()) else { break };
            let (deed, lost) = world.arrive(connection, arrival);
            drop(world);
            drop(lost);
            deed.into_iter().for_each(|deed| deed());
        }
        let next = {
            let mut world = inner.lock();
            world.follow();
            world.waits_until = world.next();
            world.waits_until
        };
        let waited = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = waited => {}
            () = inner.sooner.notified() => {}
        }
    }
}
