//! Jobs in RabbitMQ, on a server's queues as any AMQP client sees them.
//!
//! Connections by what they are for, each made when it is first needed: one
//! publishes (`publisher`), one consumes (`lane`, one per subscription; `porter`,
//! for what waits), one asks and declares (`declare`), and two send replies to
//! calls (`calls`). They are kept alive by supervisors
//! (`connection`) over a small seam (`link`), below which `lapin` carries it.
//! What is decided is decided by pure functions: names and arguments
//! (`topology`), what a message says (`wire`, `headers`, `bundle`), what is done with it
//! (`course`, `acks`), what the server can do (`version`).
//!
//! What must stay true: whatever leaves a queue by another way than success is
//! published elsewhere and confirmed first, and acknowledged then; nothing of
//! one connection is used on the next.

mod acks;
mod adopt;
mod bundle;
mod calls;
mod compare;
mod connection;
mod consume;
mod course;
mod declare;
mod enqueue;
mod exchanges;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod handshake;
mod headers;
mod inspect;
mod lane;
mod lapin_link;
mod link;
mod looks;
mod management;
mod mutant;
mod options;
mod plan;
mod porter;
mod publisher;
mod ranks;
mod redial;
mod shared;
#[cfg(feature = "simulation")]
mod simulated;
pub(crate) mod stack;
mod tls;
mod topology;
mod version;
mod wire;

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Mutex, OnceCell, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::{
    broker::{
        Broker, Callers, Capabilities, Declared, Inspector, Needs, Plan, Reach, Settler, Source, Subscription, Topology,
    },
    brokers::rabbitmq::{
        calls::Answering,
        connection::{Connection, Tasks},
        declare::{DECLARE_WAIT_MAX, Declarer},
        inspect::RabbitInspector,
        lapin_link::LapinDialer,
        link::{Dialer, LinkError, LinkErrorKind, Purpose},
        publisher::Publisher,
        redial::Redial,
        shared::Shared,
        version::Server,
    },
    envelope::Envelope,
    error::{BrokerError, BrokerErrorKind, CallFailure, EnqueueFailure},
    reply::Reply,
    time::{Clock, SystemClock},
};

#[cfg(feature = "simulation")]
pub use mutant::{Mutant, mutate, mutate_process};
pub use options::{
    CHANNELS_DEFAULT, CONFIRM_TIMEOUT_DEFAULT, CONNECT_TIMEOUT_DEFAULT, CONSUMER_TIMEOUT_DEFAULT, Credentials,
    HEARTBEAT_DEFAULT, Management, NAMESPACE_DEFAULT, REPLY_QUEUES_DEFAULT, RabbitOptions, Tls,
};
#[cfg(feature = "simulation")]
pub use simulated::{SimulatedProcess, SimulatedServer};
pub(crate) use tls::{check_certificates, check_key};

/// Queues that one process consumes: each takes two channels of 2,047, and a third while more of it is held, which is what a server allows on a
/// connection unless it is told otherwise (`channel_max`); the rest are for delays, and for queues that are consumed anew.
const QUEUES_MAX: usize = 1_000;

/// The first and the longest pause between two tries to reach a server at the start.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Jobs in RabbitMQ, 3.10 or later.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use worker_core::{Client, brokers::rabbitmq::{Credentials, RabbitBroker, RabbitOptions}};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = RabbitOptions::default();
/// options.hosts = vec![("rabbit-1".into(), 5672), ("rabbit-2".into(), 5672)];
/// options.credentials = Credentials::new("orders", "secret");
/// let client = Client::new(Arc::new(RabbitBroker::connect(options).await?));
/// # Ok(()) }
/// ```
pub struct RabbitBroker {
    shared: Arc<Shared>,
    turn: Arc<Mutex<()>>,
}

impl RabbitBroker {
    /// Learns what the server is, trying the hosts in turn until
    /// [`connect_timeout`](RabbitOptions::connect_timeout) is over, and sees that it lets us in.
    ///
    /// From then on connections are made again by themselves, for ever.
    ///
    /// # Errors
    ///
    /// * `Permanent` — the server refuses the user, the vhost or the protocol, or
    ///   its certificate is not trusted.
    /// * `Transient` — no host could be reached in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is left behind.
    pub async fn connect(options: RabbitOptions) -> Result<Self, BrokerError> {
        let runtime = runtime().map_err(|error| {
            BrokerError::new(BrokerErrorKind::Transient, "no thread could be started for RabbitMQ").because(error)
        })?;
        let dialer = Arc::new(LapinDialer::new(options.clone(), runtime.handle().clone()));
        let guard = Guard(Some(runtime));
        let deadline = crate::time::monotonic_now() + options.connect_timeout;
        let (server, mut last, mut pause) = (introduced(&dialer, deadline).await?, None, PAUSE.0);
        let handle = guard.handle();
        let broker = Self::over(server, dialer, &options, Arc::new(SystemClock), handle, guard.into());
        // The first connection is made now: what is wrong with the credentials is said at the start.
        loop {
            match timeout(pause, broker.shared.publish.up()).await {
                Ok(Some(_)) => return Ok(broker),
                Ok(None) => break,
                Err(_) => {}
            }
            last = broker.shared.publish.error().or(last);
            let hopeless = last.as_ref().is_some_and(|error| error.kind != LinkErrorKind::Gone);
            if hopeless || crate::time::monotonic_now() >= deadline {
                break;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
        broker.shared.close().await;
        Err(unreachable(&last.unwrap_or_else(|| LinkError::no_answer("connecting"))))
    }

    /// Over this dialer, on this runtime.
    fn over(
        server: Server,
        dialer: Arc<dyn Dialer>,
        options: &RabbitOptions,
        clock: Arc<dyn Clock>,
        handle: Handle,
        runtime: Option<Runtime>,
    ) -> Self {
        let management = management::Api::new(options, handle.clone());
        let (lanes, plumbing) = (Tasks::new(handle.clone()), Tasks::new(handle));
        let redial = Arc::new(Redial::new());
        let publish = Connection::new(Purpose::Publish, Arc::clone(&dialer), &redial, plumbing.clone());
        let answering = Answering::start(&dialer, &redial, &plumbing, options);
        let asking = Connection::new(Purpose::Ask, Arc::clone(&dialer), &redial, plumbing.clone());
        let calls = Connection::new(Purpose::Call, Arc::clone(&dialer), &redial, plumbing.clone());
        let consume = Connection::new(Purpose::Consume, dialer, &redial, plumbing.clone());
        let publisher = Publisher::start(&publish, &plumbing, options.confirm_timeout, options.channels);
        let callers = Arc::<Callers>::default();
        let calling = Publisher::calling(&calls, &plumbing, options.confirm_timeout, Arc::clone(&callers));
        let declarer = Declarer::new(asking, options);
        let app_id = options.app_id.clone();
        let shared = Shared {
            held_at_most: (!server.lets_consumers_hold()).then_some(options.consumer_timeout),
            server,
            publish,
            calls,
            consume,
            answering,
            publisher,
            calling,
            callers,
            declarer,
            management,
            app_id,
            clock,
            lanes,
            plumbing,
            suspects: Arc::new(Semaphore::new(1)),
            extras: Arc::default(),
            porter: AtomicBool::new(false),
            ladder_at_start: OnceCell::new(),
            closed: AtomicBool::new(false),
            last_death: AtomicU64::new(0),
            warn_of_stack: Once::new(),
            runtime,
        };
        Self { shared: Arc::new(shared), turn: Arc::default() }
    }
}

/// The one thread on which everything about RabbitMQ runs, whatever handlers do to the application's.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name("rabbitmq").enable_all().build()
}

/// A runtime that may be dropped anywhere.
struct Guard(Option<Runtime>);

impl Guard {
    fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl From<Guard> for Option<Runtime> {
    fn from(mut guard: Guard) -> Self {
        guard.0.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the server is, by the first host that says so.
async fn introduced(dialer: &LapinDialer, deadline: Instant) -> Result<Server, BrokerError> {
    let mut pause = PAUSE.0;
    loop {
        let error = match dialer.introduce().await {
            Ok(server) => return Ok(server),
            Err(error) => error,
        };
        let left = deadline.saturating_duration_since(crate::time::monotonic_now());
        if error.kind == LinkErrorKind::Hopeless || left.is_zero() {
            return Err(unreachable(&error));
        }
        // The last try is at the deadline, not a pause before it.
        pause = pause.min(left);
        tracing::warn!(target: crate::telemetry::TARGET, %error, ?pause, "RabbitMQ cannot be reached; trying again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn unreachable(error: &LinkError) -> BrokerError {
    let (kind, what) = match error.kind {
        LinkErrorKind::Gone | LinkErrorKind::Locked => (BrokerErrorKind::Transient, "RabbitMQ cannot be reached"),
        LinkErrorKind::Refused => {
            (BrokerErrorKind::Permanent, "RabbitMQ does not let us in: check user, password and rights")
        }
        // Its words say what: the virtual host, the protocol, the certificate.
        _ => (BrokerErrorKind::Permanent, "RabbitMQ cannot be used as it was asked for"),
    };
    BrokerError::new(kind, format!("{what}: {error}"))
}

#[async_trait]
impl Broker for RabbitBroker {
    fn capabilities(&self) -> Capabilities {
        self.shared.server.capabilities(self.shared.declarer.default_type)
    }

    fn reach(&self) -> Reach {
        let Shared { publish, consume, .. } = &*self.shared;
        let down = [publish, consume].into_iter().filter(|connection| connection.is_started()).find_map(|c| c.error());
        match (down, publish.blocked()) {
            (Some(error), _) => Reach::Down { error: error.text },
            (None, Some(reason)) => Reach::Blocked { reason },
            (None, None) => Reach::Up,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        self.shared.check()?;
        if let Some(problem) = topology.problem() {
            return Err(BrokerError::new(BrokerErrorKind::Permanent, problem));
        }
        let declaring = async {
            let mut created = Vec::new();
            for queue in &topology.queues {
                let declarer = &self.shared.declarer;
                let is_new = match topology.options.get(queue) {
                    Some(asked) => declarer.queue_asking(queue, asked).await?,
                    None => declarer.queue(queue).await?,
                };
                if is_new {
                    created.push(queue.clone());
                }
            }
            for exchange in &topology.exchanges {
                exchanges::declare(&self.shared.declarer, exchange).await?;
            }
            for binding in &topology.bindings {
                exchanges::bind(&self.shared.declarer, binding).await?;
            }
            self.shared.declarer.keep_bindings(topology);
            Ok(Declared::created(created))
        };
        timeout(DECLARE_WAIT_MAX, declaring).await.unwrap_or_else(|_| {
            let within = humantime::format_duration(DECLARE_WAIT_MAX);
            Err(BrokerError::new(
                BrokerErrorKind::Transient,
                format!("what is needed could not be declared within {within}"),
            ))
        })
    }

    fn plan(&self, needs: &Needs) -> Plan {
        let declarer = &self.shared.declarer;
        plan::plan(declarer.default_type, &declarer.ladder, needs)
    }

    async fn apply(&self, plan: &Plan) -> Result<(), BrokerError> {
        self.shared.check()?;
        if let Some(problem) = plan.topology().problem() {
            return Err(BrokerError::new(BrokerErrorKind::Permanent, problem));
        }
        self.shared.declarer.apply(plan).await
    }

    fn know(&self, topology: &Topology) {
        topology.options.iter().for_each(|(queue, asked)| self.shared.declarer.ask(queue, asked));
    }

    fn queues_at_most(&self) -> Option<usize> {
        Some(QUEUES_MAX)
    }

    fn resizes_in_order(&self) -> bool {
        // Two consumers are served in turn.
        false
    }

    fn held_at_most(&self) -> Option<Duration> {
        self.shared.held_at_most
    }

    fn enqueue_limit(&self) -> Option<Duration> {
        Some(self.shared.publisher.timeout)
    }

    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
        enqueue::enqueue(&self.shared, batch).await
    }

    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        calls::call(&self.shared, envelope).await
    }

    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        consume::consume(&self.shared, subscription).await
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        Some(Arc::new(RabbitInspector::new(Arc::clone(&self.shared), Arc::clone(&self.turn))))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.shared.close().await;
        Ok(())
    }
}

impl Drop for RabbitBroker {
    /// What is owned goes back to its queue as the connections end.
    fn drop(&mut self) {
        self.shared.lanes.closing.cancel();
        self.shared.plumbing.closing.cancel();
        self.shared.consume.hang_up();
        self.shared.publish.hang_up();
        self.shared.calls.hang_up();
        self.shared.answering.hang_up();
        self.shared.declarer.hang_up();
    }
}

impl std::fmt::Debug for RabbitBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitBroker").field("server", &self.shared.server).finish_non_exhaustive()
    }
}
