//! Any broker, failing where a script says.
//!
//! Before each call the script is asked what is to go wrong. What it answers
//! keeps the contract: after each fault the delivery or the job is where a real
//! broker would leave it, so that a test can demand that nothing is lost.

use std::{
    fmt,
    future::pending,
    num::NonZeroU16,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::oneshot, task::JoinSet, time::sleep};
use worker_core::{
    BrokerError, BrokerErrorKind, CallFailure, EnqueueFailure,
    broker::{
        Begin, Broker, Capabilities, Declared, Delivery, Inspector, Needs, Plan, Reach, SettleError, Settler, Source,
        Subscription, Ticket, Topology, Unsettled,
    },
    envelope::Envelope,
    reply::Reply,
    settlement::Settlement,
};

use crate::sample::copy;

/// A call that can go wrong.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Call<'a> {
    /// [`Broker::declare`].
    Declare,
    /// [`Broker::enqueue`], asked for each envelope of the batch.
    Enqueue(&'a Envelope),
    /// [`Broker::consume`].
    Consume,
    /// [`Source::next_batch`].
    NextBatch,
    /// [`Source::stop`].
    Stop,
    /// [`Settler::begin`].
    Begin(&'a Delivery),
    /// [`Settler::submit`].
    Settle(&'a Delivery, &'a Settlement),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    None,
    /// It is not done, and the answer says so: a refused envelope, a settlement that comes back.
    Refused(BrokerErrorKind),
    /// Of an enqueue: it is not done, and the answer is that nobody knows. Of a
    /// start or a settlement: the delivery went to another consumer meanwhile.
    Lost,
    /// It is done, but the answer is that nobody knows, or that the delivery was lost.
    AnswerLost,
    /// Of a start: the job goes to where suspects run.
    Moved,
    /// Of a wait for jobs: the source ends by itself, which the contract excludes.
    Ends,
    /// It is not done, and no answer comes.
    Hangs,
    /// It is done, and no answer comes.
    AnswerHangs,
    /// It is done, later; the answer comes then.
    Late(Duration),
    /// Of a wait for jobs: the subscription has another prefetch first, which is none of its owner's wish.
    Resized(NonZeroU16),
}

type Script = Box<dyn FnMut(Call<'_>) -> Fault + Send>;

/// A broker whose calls go wrong where a script says.
pub struct FaultyBroker {
    inner: Arc<dyn Broker>,
    faults: Arc<Faults>,
}

struct Faults {
    script: Mutex<Script>,
    /// Settlements that are made later.
    later: Mutex<JoinSet<()>>,
    /// Answers that never come: dropping them would be an answer.
    never: Mutex<Vec<oneshot::Sender<Result<(), SettleError>>>>,
}

impl FaultyBroker {
    /// `inner`, asking `script` before each call.
    pub fn new(inner: Arc<dyn Broker>, script: impl FnMut(Call<'_>) -> Fault + Send + 'static) -> Self {
        let faults = Faults { script: Mutex::new(Box::new(script)), later: Mutex::default(), never: Mutex::default() };
        Self { inner, faults: Arc::new(faults) }
    }
}

/// A script in which each of the first calls that `matches` goes wrong in the
/// way that stands at its place in `faults`, and nothing after that.
pub fn first(
    matches: impl Fn(Call<'_>) -> bool + Send + 'static,
    faults: impl IntoIterator<Item = Fault, IntoIter: Send + 'static>,
) -> impl FnMut(Call<'_>) -> Fault + Send + 'static {
    let mut faults = faults.into_iter();
    move |call| if matches(call) { faults.next().unwrap_or(Fault::None) } else { Fault::None }
}

fn error(kind: BrokerErrorKind) -> BrokerError {
    BrokerError::new(kind, format!("the script says {kind:?}"))
}

fn unknown() -> EnqueueFailure {
    EnqueueFailure::Unknown(error(BrokerErrorKind::Transient))
}

impl Faults {
    fn of(&self, call: Call<'_>) -> Fault {
        (self.script.lock().unwrap())(call)
    }

    /// What goes wrong with a call that is all or nothing and can be repeated; `Ok` when it is to be done.
    async fn before(&self, call: Call<'_>) -> Result<Fault, BrokerError> {
        let fault = self.of(call);
        match fault {
            Fault::Refused(kind) => return Err(error(kind)),
            Fault::Lost => return Err(error(BrokerErrorKind::Transient)),
            Fault::Hangs => pending().await,
            Fault::Late(time) => sleep(time).await,
            _ => {}
        }
        Ok(fault)
    }

    async fn after<T>(&self, fault: Fault, done: T) -> Result<T, BrokerError> {
        match fault {
            Fault::AnswerLost => Err(error(BrokerErrorKind::Transient)),
            Fault::AnswerHangs => pending().await,
            _ => Ok(done),
        }
    }
}

#[async_trait]
impl Broker for FaultyBroker {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn reach(&self) -> Reach {
        self.inner.reach()
    }

    fn know(&self, topology: &Topology) {
        self.inner.know(topology);
    }

    fn queues_at_most(&self) -> Option<usize> {
        self.inner.queues_at_most()
    }

    fn resizes_in_order(&self) -> bool {
        self.inner.resizes_in_order()
    }

    fn held_at_most(&self) -> Option<Duration> {
        self.inner.held_at_most()
    }

    fn enqueue_limit(&self) -> Option<Duration> {
        self.inner.enqueue_limit()
    }

    async fn declare(&self, topology: &Topology) -> Result<Declared, BrokerError> {
        let fault = self.faults.before(Call::Declare).await?;
        let declared = self.inner.declare(topology).await?;
        self.faults.after(fault, declared).await
    }

    fn plan(&self, needs: &Needs) -> Plan {
        self.inner.plan(needs)
    }

    async fn apply(&self, plan: &Plan) -> Result<(), BrokerError> {
        self.inner.apply(plan).await
    }

    async fn enqueue(&self, batch: Vec<Envelope>) -> Vec<Result<(), EnqueueFailure>> {
        let faults: Vec<_> = batch.iter().map(|envelope| self.faults.of(Call::Enqueue(envelope))).collect();
        if faults.contains(&Fault::Hangs) {
            pending::<()>().await;
        }
        let delay = faults.iter().filter_map(|fault| if let Fault::Late(time) = fault { Some(*time) } else { None });
        if let Some(delay) = delay.max() {
            sleep(delay).await;
        }
        let stored = |fault: &Fault| !matches!(fault, Fault::Refused(_) | Fault::Lost);
        let passed = batch.into_iter().zip(&faults).filter(|(_, fault)| stored(fault)).map(|(envelope, _)| envelope);
        let mut answers = self.inner.enqueue(passed.collect()).await.into_iter();
        if faults.contains(&Fault::AnswerHangs) {
            pending::<()>().await;
        }
        let answer = |fault| match fault {
            Fault::Refused(kind) => Err(EnqueueFailure::Refused(error(kind))),
            Fault::Lost => Err(unknown()),
            Fault::AnswerLost => answers.next().unwrap().and(Err(unknown())),
            _ => answers.next().unwrap(),
        };
        faults.into_iter().map(answer).collect()
    }

    async fn call(&self, envelope: Envelope) -> Result<Reply, CallFailure> {
        self.inner.call(envelope).await
    }

    async fn consume(&self, subscription: Subscription) -> Result<(Box<dyn Source>, Arc<dyn Settler>), BrokerError> {
        let fault = self.faults.before(Call::Consume).await?;
        let (source, settler) = self.inner.consume(subscription).await?;
        let faults = Arc::clone(&self.faults);
        let source: Box<dyn Source> = Box::new(FaultySource { inner: source, faults: Arc::clone(&faults) });
        self.faults.after(fault, (source, Arc::new(FaultySettler { inner: settler, faults }) as _)).await
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        self.inner.inspector()
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

impl fmt::Debug for FaultyBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyBroker").field("broker", &self.inner.capabilities().broker).finish_non_exhaustive()
    }
}

struct FaultySource {
    inner: Box<dyn Source>,
    faults: Arc<Faults>,
}

#[async_trait]
impl Source for FaultySource {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        match self.faults.before(Call::NextBatch).await? {
            Fault::Ends => Ok(Vec::new()),
            // Deliveries that were taken out would be lost with their answer, which the contract excludes.
            Fault::AnswerLost => Err(error(BrokerErrorKind::Transient)),
            Fault::AnswerHangs => pending().await,
            Fault::Resized(prefetch) => {
                self.inner.resize(prefetch).await?;
                self.inner.next_batch(max).await
            }
            _ => self.inner.next_batch(max).await,
        }
    }

    async fn resize(&mut self, prefetch: NonZeroU16) -> Result<(), BrokerError> {
        self.inner.resize(prefetch).await
    }

    async fn stop(&mut self) -> Result<(), BrokerError> {
        let fault = self.faults.before(Call::Stop).await?;
        self.inner.stop().await?;
        self.faults.after(fault, ()).await
    }
}

struct FaultySettler {
    inner: Arc<dyn Settler>,
    faults: Arc<Faults>,
}

impl FaultySettler {
    /// The delivery goes to another consumer, as after a lease that ran out.
    fn give_away(&self, delivery: &Delivery) {
        drop(self.inner.submit(copy(delivery), Settlement::Release { after: Duration::ZERO, note: None }));
    }

    fn submit_later(&self, time: Duration, delivery: Delivery, settlement: Settlement) -> Ticket {
        let (answer, ticket) = Ticket::pending();
        let inner = Arc::clone(&self.inner);
        let mut later = self.faults.later.lock().unwrap();
        while later.try_join_next().is_some() {}
        later.spawn(async move {
            sleep(time).await;
            // Nobody may wait any more; the settlement was submitted all the same.
            drop(answer.send(inner.submit(delivery, settlement).await));
        });
        ticket
    }
}

impl Settler for FaultySettler {
    fn begin(&self, delivery: &Delivery) -> Begin {
        let answer = match self.faults.of(Call::Begin(delivery)) {
            Fault::Lost | Fault::AnswerLost => Begin::Lost,
            Fault::Moved => Begin::Moved,
            _ => return self.inner.begin(delivery),
        };
        self.give_away(delivery);
        answer
    }

    fn submit(&self, delivery: Delivery, settlement: Settlement) -> Ticket {
        match self.faults.of(Call::Settle(&delivery, &settlement)) {
            Fault::Refused(kind) => {
                let unsettled = Unsettled { delivery, settlement, error: error(kind) };
                Ticket::resolved(Err(SettleError::Unsettled(Box::new(unsettled))))
            }
            Fault::Lost => {
                self.give_away(&delivery);
                Ticket::resolved(Err(SettleError::Lost))
            }
            Fault::AnswerLost => {
                drop(self.inner.submit(delivery, settlement));
                Ticket::resolved(Err(SettleError::Lost))
            }
            fault @ (Fault::Hangs | Fault::AnswerHangs) => {
                if fault == Fault::AnswerHangs {
                    drop(self.inner.submit(delivery, settlement));
                }
                let (answer, ticket) = Ticket::pending();
                self.faults.never.lock().unwrap().push(answer);
                ticket
            }
            Fault::Late(time) => self.submit_later(time, delivery, settlement),
            _ => self.inner.submit(delivery, settlement),
        }
    }
}
