//! A server of RabbitMQ's semantics in memory, which stands below the seam in `lapin`'s place: for simulations.
//!
//! Its time is `tokio`'s, so it is virtual where that is paused; what it draws comes from a seed. It has what
//! the framework uses: durable and exclusive queues, quorum and classic, with the rules of 3.10 or of 4.3 for what
//! comes back; exchanges and bindings; confirms, returns and refusals; times to live and dead-lettering, at least
//! once or not, with the detection of circles; direct replies; alarms. It has no nodes, no streams, no policies, no
//! users and no `consumer_timeout`. The conformance suite runs on it, and must agree with RabbitMQ on every case.

mod client;
mod death;
mod pipes;
mod queue;
mod refusal;
mod state;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{runtime::Handle, sync::Notify, time::sleep_until};
use tokio_util::task::TaskTracker;

use self::{
    client::SimulatedDialer,
    pipes::{Act, Answer, Pipes},
    state::{Given, Outgoing, State},
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
    /// Its queues have changed.
    changed: Notify,
    /// It takes messages, or does not any more. Wakes those who wait in their order, as a `watch` would not.
    alarmed: Notify,
    tasks: TaskTracker,
}

struct World {
    state: State,
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
    connections: BTreeMap<u64, (Arc<Pipes>, u64)>,
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
        let inner = Inner {
            world: Mutex::new(world),
            changed: Notify::new(),
            alarmed: Notify::new(),
            tasks: TaskTracker::new(),
        };
        let inner = Arc::new(inner);
        drop(inner.tasks.spawn_on(expire(Arc::clone(&inner)), &Handle::current()));
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
        self.inner.lock().alarm = reason.map(str::to_owned);
        self.inner.alarmed.notify_waiters();
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
        let open: Vec<_> = world.connections.values().map(|(pipes, _)| Arc::clone(pipes)).collect();
        drop(world);
        open.iter().for_each(|pipes| pipes.end("the server died"));
    }

    /// It is there again.
    pub fn start(&self) {
        self.inner.lock().up = true;
    }

    /// Ends all connections, as an operator can.
    pub fn close_all_connections(&self) {
        let open: Vec<_> = self.inner.lock().connections.values().map(|(pipes, _)| Arc::clone(pipes)).collect();
        open.iter().for_each(|pipes| pipes.end("CONNECTION_FORCED - closed by an operator"));
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
        self.inner.change(|state| state.delete(name));
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
        self.server.cut(&self.process);
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

    fn cut(&self, process: &Process) {
        let world = self.lock();
        let own = world.connections.values().filter(|(_, number)| *number == process.number);
        let own: Vec<_> = own.map(|(pipes, _)| Arc::clone(pipes)).collect();
        drop(world);
        own.iter().for_each(|pipes| pipes.end("the connection was cut"));
    }

    /// How long the next thing takes.
    fn delay(&self) -> Duration {
        let World { rng, latency, .. } = &mut *self.lock();
        Duration::from_millis(rng.u64(latency.clone()))
    }

    /// The server reads a publish of this connection: whether it may confirm it, and does by it what it asks for.
    fn confirms(&self, pipes: &Pipes) -> (bool, bool) {
        let world = &mut *self.lock();
        if world.silent {
            pipes.silence();
        }
        let confirms = !pipes.is_silent();
        (confirms, confirms || world.rng.bool())
    }

    fn toss(&self) -> bool {
        self.lock().rng.bool()
    }

    fn connect(self: &Arc<Self>, process: &Arc<Process>) -> Result<Arc<Pipes>, LinkError> {
        let mut world = self.lock();
        if !world.up || process.dead.load(Ordering::SeqCst) {
            return Err(LinkError::new(LinkErrorKind::Gone, "connection refused"));
        }
        world.last_connection += 1;
        let (pipes, frames) = Pipes::new(world.last_connection);
        world.connections.insert(pipes.id, (Arc::clone(&pipes), process.number));
        drop(world);
        let handle = Handle::current();
        drop(self.tasks.spawn_on(Arc::clone(&pipes).carry(Arc::clone(self), Arc::clone(process), frames), &handle));
        drop(self.tasks.spawn_on(Arc::clone(&pipes).carry_back(), &handle));
        Ok(pipes)
    }

    /// The connection is over.
    fn forget(&self, pipes: &Pipes) {
        self.lock().connections.remove(&pipes.id);
        self.change(|state| state.disconnect(pipes.id, monotonic_now()));
        // The other side learns of it, if it has not ended it itself.
        pipes.end("the connection ended");
    }

    /// Waits, with a publish of this connection in hand, until messages are taken.
    async fn let_in(&self, pipes: &Pipes) {
        loop {
            let mut changed = pin!(self.alarmed.notified());
            changed.as_mut().enable();
            let alarm = self.lock().alarm.clone();
            let is_over = alarm.is_none();
            pipes.block(alarm);
            if is_over {
                return;
            }
            changed.await;
        }
    }

    /// The server reads a request of this connection.
    fn act(&self, pipes: &Pipes, publishes: bool, act: Act) {
        let (confirms, acts) = if publishes { self.confirms(pipes) } else { (true, true) };
        if !acts {
            return pipes.keep_silent(act);
        }
        let mut answers = Vec::new();
        self.change(|state| answers = act(state, monotonic_now()));
        for answer in answers {
            match answer {
                Answer::InOrder(deed) => pipes.answer(self.delay(), deed),
                Answer::Confirm(deed) | Answer::ConfirmInOrder(deed) if !confirms => pipes.keep_silent(deed),
                Answer::Confirm(deed) => pipes.confirm(self.delay_of_confirm(), deed),
                Answer::ConfirmInOrder(deed) => pipes.answer(self.delay(), deed),
            }
        }
    }

    /// Changes what the server knows, and sends what follows from it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let world = &mut *self.lock();
        change(&mut world.state);
        world.state.expire(monotonic_now());
        world.state.deliver();
        for Outgoing { connection, way, given } in std::mem::take(&mut world.state.outgoing) {
            let delay = Duration::from_millis(world.rng.u64(world.latency.clone()));
            if let Some((pipes, _)) = world.connections.get(&connection) {
                pipes.answer(delay, Box::new(move || give(&way, given)));
            }
        }
        self.changed.notify_one();
    }

    /// How long the next confirm takes.
    fn delay_of_confirm(&self) -> Duration {
        let World { rng, latency, confirming, .. } = &mut *self.lock();
        Duration::from_millis(rng.u64(latency.clone()) + rng.u64(confirming.clone()))
    }
}

fn give(way: &state::Way, given: Given) {
    drop(way.send(given));
}

/// Lets what has waited too long go on, as long as the runtime lives.
async fn expire(inner: Arc<Inner>) {
    loop {
        let next = inner.lock().state.next_expiry();
        let waited = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = waited => inner.change(|_| {}),
            () = inner.changed.notified() => {}
        }
    }
}
