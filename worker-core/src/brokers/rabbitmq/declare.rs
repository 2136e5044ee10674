//! Makes sure that queues exist: found and used as they are, or created.
//!
//! Passive first. A queue that others declared is theirs: nothing is assumed of
//! its arguments, and nothing here needs them, since retries and dead letters
//! are published by us. Only what is missing is declared, with the arguments
//! of [`topology`](super::topology).

mod known;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use lapin::types::FieldTable;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    broker::{Plan, PlannedQueue, Role},
    brokers::rabbitmq::{
        adopt,
        connection::Connection,
        course::Place,
        exchanges,
        link::{ANSWER_WAIT_MAX, Channel, Declare, Depth, LinkError, LinkErrorKind},
        looks::Looks,
        options::RabbitOptions,
        plan::table,
        ranks::Nature,
        topology::{self, Ladder, Level, Rung},
    },
    error::{BrokerError, BrokerErrorKind},
    exchange::{Binding, Exchange},
    name::QueueName,
    queue::{QueueOptions, QueueType},
    telemetry::TARGET,
    time::monotonic_now,
};

/// Declares over whichever connection there is.
pub(super) struct Declarer {
    connection: Arc<Connection>,
    /// What type of queue is declared where its jobs ask for none.
    pub(super) default_type: QueueType,
    pub(super) ladder: Ladder,
    /// Whether what is missing is made. If not, it is an error that names it.
    pub(super) declares: bool,
    /// Where nothing is made: the rungs that queues have.
    rungs: Mutex<HashMap<QueueName, BTreeSet<Rung>>>,
    /// Queues that were looked for in vain, and when.
    absent: Mutex<HashMap<String, Instant>>,
    /// Queues that were seen. One that is deleted meanwhile is noticed when a message for it comes back.
    seen: Mutex<HashSet<String>>,
    /// What the jobs of a queue ask of it.
    asked: Mutex<HashMap<QueueName, QueueOptions>>,
    /// What queues have turned out to be; `None` where that cannot be learnt.
    natures: Mutex<HashMap<String, Option<Nature>>>,
    /// The exchanges and bindings that queues were declared with: one that is made again gets them again.
    bound: Mutex<HashMap<QueueName, Bound>>,
    /// Exchanges that refused what was published to them: why, and when.
    refusals: Mutex<HashMap<String, (String, Instant)>>,
    looks: Looks<bool>,
    nature_looks: Looks<Option<Nature>>,
    /// Channels that may be in use at once.
    room: Arc<Semaphore>,
}

/// What a queue gets copies from, and whether it is known to.
#[derive(Default, Clone)]
struct Bound {
    exchanges: Vec<Exchange>,
    bindings: Vec<Binding>,
    /// Not where it was gone since it was bound, whoever has made it again.
    holds: bool,
}

/// A channel that an error may close, and its place among those that may be in use at once.
pub(super) struct Asking {
    channel: Box<dyn Channel>,
    _room: OwnedSemaphorePermit,
}

impl Deref for Asking {
    type Target = dyn Channel;

    fn deref(&self) -> &Self::Target {
        &*self.channel
    }
}

impl Declarer {
    pub(super) fn new(connection: Arc<Connection>, options: &RabbitOptions) -> Self {
        let (default_type, ladder) = (options.queue_type, Ladder::new(options.namespace.clone()));
        let (seen, asked, natures) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (rungs, absent, declares) = (Mutex::default(), Mutex::default(), options.declare);
        let (bound, refusals) = (Mutex::default(), Mutex::default());
        let (looks, nature_looks) = (Looks::default(), Looks::default());
        let room = Arc::new(Semaphore::new(CHANNELS_AT_ONCE));
        Self {
            connection,
            default_type,
            ladder,
            declares,
            rungs,
            absent,
            seen,
            asked,
            natures,
            bound,
            refusals,
            looks,
            nature_looks,
            room,
        }
    }

    /// A channel for one question, once there is room for it.
    pub(super) async fn channel(&self) -> Result<Asking, LinkError> {
        let room = Arc::clone(&self.room).acquire_owned();
        let waited = timeout(ANSWER_WAIT_MAX, room).await;
        let room = waited.ok().and_then(Result::ok).ok_or_else(|| LinkError::no_answer("other questions"))?;
        Ok(Asking { channel: self.channel_apart().await?, _room: room })
    }

    /// A channel that is held while others ask.
    pub(super) async fn channel_apart(&self) -> Result<Box<dyn Channel>, LinkError> {
        let deadline = monotonic_now() + ANSWER_WAIT_MAX;
        loop {
            let up = self.connection.up_until(deadline).await?;
            // The server reads nothing more from a blocked connection, nor would `lapin` write. This one publishes
            // nothing, but a copy of a dead letter may be on its way.
            if let Some(reason) = up.link.blocked() {
                return Err(LinkError::blocked(&reason));
            }
            match up.link.channel().await {
                // It has used up its channels, and is made anew.
                Err(error) if error.kind == LinkErrorKind::Gone => {
                    timeout_at(deadline, up.lost.cancelled()).await.map_err(|_| error)?;
                }
                opened => return opened,
            }
        }
    }

    /// Lets go of the connection.
    pub(super) fn hang_up(&self) {
        self.connection.hang_up();
    }

    /// What is in a queue, or `None` where it does not exist.
    pub(super) async fn depth(&self, queue: &str) -> Result<Option<Depth>, LinkError> {
        let channel = self.channel().await?;
        match channel.declare(queue, Declare::Passive).await {
            Ok(depth) => {
                channel.close().await;
                Ok(Some(depth))
            }
            // The server has closed the channel.
            Err(error) if error.kind == LinkErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the dead-letter queue of `queue` has where it is ours.
    pub(super) fn dead_letter_arguments(&self, queue: &QueueName) -> FieldTable {
        topology::dead_letter_arguments(self.default_type, &self.asked(queue))
    }

    /// The dead-letter queue of `queue`.
    pub(super) fn dead_letters(&self, queue: &QueueName) -> String {
        topology::dead_letters_as(queue, &self.asked(queue))
    }

    /// The name of the queue that `place` is, for jobs of `queue`.
    pub(super) fn name(&self, place: Place, queue: &QueueName) -> String {
        match place {
            Place::DeadLetters => self.dead_letters(queue),
            place => place.name(queue, &self.ladder),
        }
    }

    /// What `queue` is, or `None` where that cannot be learnt: it does not exist, say, or may not be asked about.
    pub(super) async fn nature(&self, queue: &QueueName) -> Result<Option<Nature>, LinkError> {
        let guess = topology::queue_arguments(queue, self.default_type, &self.asked(queue));
        self.nature_of(queue.as_str(), guess).await
    }

    /// What the suspects' queue of `queue` is.
    pub(super) async fn nature_of_suspects(&self, queue: &QueueName) -> Result<Option<Nature>, LinkError> {
        let guess = topology::work_arguments(queue, self.default_type, &self.asked(queue));
        self.nature_of(&topology::suspects(queue), guess).await
    }

    async fn nature_of(&self, name: &str, guess: FieldTable) -> Result<Option<Nature>, LinkError> {
        if let Some(known) = lock(&self.natures).get(name) {
            return Ok(*known);
        }
        let look = async {
            let learnt = adopt::nature(self, name, guess).await?;
            if let Some(learnt) = learnt {
                self.know(name, learnt);
            }
            Ok::<_, LinkError>(learnt.flatten())
        };
        self.nature_looks.shared(name, look).await
    }

    /// What `queue` is now, whatever it was when it was looked at before.
    pub(super) async fn nature_now(&self, queue: &QueueName) -> Result<Option<Nature>, LinkError> {
        lock(&self.natures).remove(queue.as_str());
        self.nature(queue).await
    }

    /// Declares `queue` and its dead-letter queue, as it was asked for before; whether `queue` was created. One that was
    /// gone is bound again to what it was bound to, whoever has made it again.
    pub(super) async fn queue(&self, queue: &QueueName) -> Result<bool, BrokerError> {
        let asked = self.asked(queue);
        self.dead_letters_as(queue, &asked).await?;
        let is_new = self.queue_as(queue, &asked).await?;
        if is_new || !self.is_bound(queue) {
            self.bind_again(queue).await?;
        }
        Ok(is_new)
    }

    /// Declares and binds what `queue` was declared with, again. If that fails it is not bound, and bound the next time.
    async fn bind_again(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let Some(Bound { exchanges, bindings, .. }) = lock(&self.bound).get(queue).cloned() else { return Ok(()) };
        self.unbound(queue.as_str());
        for exchange in &exchanges {
            exchanges::declare(self, exchange).await?;
        }
        for binding in &bindings {
            exchanges::bind(self, binding).await?;
        }
        if let Some(bound) = lock(&self.bound).get_mut(queue) {
            bound.holds = true;
        }
        tracing::info!(target: TARGET, %queue, bindings = bindings.len(), "a queue that was gone is bound again");
        Ok(())
    }

    /// The same, of which `asked` is asked now: one that is found must be that.
    pub(super) async fn queue_asking(&self, queue: &QueueName, asked: &QueueOptions) -> Result<bool, BrokerError> {
        let is_new = self.dead_letters_as(queue, asked).await?;
        if let Some(ttl) = asked.dead_letter_ttl
            && !is_new
        {
            self.check_ttl(queue, asked, ttl).await?;
        }
        let is_new = self.queue_as(queue, asked).await?;
        if !is_new {
            self.check(queue, asked).await?;
        }
        // It may have to be made again at any time.
        self.ask(queue, asked);
        Ok(is_new)
    }

    /// Declared before its queue: what leaves that must have where to go.
    async fn dead_letters_as(&self, queue: &QueueName, asked: &QueueOptions) -> Result<bool, BrokerError> {
        let arguments = topology::dead_letter_arguments(self.default_type, asked);
        self.ensure(&topology::dead_letters_as(queue, asked), arguments).await
    }

    async fn queue_as(&self, queue: &QueueName, asked: &QueueOptions) -> Result<bool, BrokerError> {
        self.ensure(queue.as_str(), topology::queue_arguments(queue, self.default_type, asked)).await
    }

    /// Sees that a dead-letter queue which was found deletes what it has after `ttl`, neither sooner nor never.
    async fn check_ttl(&self, queue: &QueueName, asked: &QueueOptions, ttl: Duration) -> Result<(), BrokerError> {
        let dead = &*topology::dead_letters_as(queue, asked);
        let guess = topology::dead_letter_arguments(self.default_type, asked);
        lock(&self.natures).remove(dead);
        let failed = |error: LinkError| broker_error(&format!("queue `{dead}` could not be looked at"), &error);
        let wanted = ttl.as_millis().to_string();
        match self.nature_of(dead, guess).await.map_err(failed)? {
            Some(nature) => {
                let found = nature.message_ttl.map_or_else(|| "none".to_owned(), |ttl| ttl.to_string());
                let told = || differs(dead, topology::MESSAGE_TTL, &found, &wanted);
                if found == wanted { Ok(()) } else { Err(BrokerError::new(BrokerErrorKind::Permanent, told())) }
            }
            None => {
                tracing::warn!(target: TARGET, queue = dead, dead_letter_ttl_ms = wanted, "the dead-letter queue was declared by others, and how long it keeps what it has cannot be learnt");
                Ok(())
            }
        }
    }

    /// Sees that a queue which was found can be what its jobs ask for.
    async fn check(&self, queue: &QueueName, asked: &QueueOptions) -> Result<(), BrokerError> {
        let failed = |error: LinkError| broker_error(&format!("queue `{queue}` could not be looked at"), &error);
        match self.nature_now(queue).await.map_err(failed)? {
            Some(nature) => match nature.lacks(asked) {
                None => Ok(()),
                Some((argument, found, wanted)) => {
                    let told = differs(queue.as_str(), argument, &found, &wanted);
                    Err(BrokerError::new(BrokerErrorKind::Permanent, told))
                }
            },
            None => {
                tracing::warn!(target: TARGET, %queue, %asked, "the queue was declared by others, and whether it is what its jobs ask for cannot be learnt");
                Ok(())
            }
        }
    }

    /// Declares where copies of jobs of `queue` go, unless it was seen.
    pub(super) async fn place(&self, place: Place, queue: &QueueName) -> Result<(), BrokerError> {
        let name = self.name(place, queue);
        if self.is_seen(&name) && (place != Place::Queue || self.is_bound(queue)) {
            return Ok(());
        }
        match place {
            Place::Queue => self.queue(queue).await.map(drop),
            Place::Suspects => {
                self.queue(queue).await?;
                let arguments = topology::work_arguments(queue, self.default_type, &self.asked(queue));
                self.ensure(&name, arguments).await.map(drop)
            }
            Place::DeadLetters => self.ensure(&name, self.dead_letter_arguments(queue)).await.map(drop),
            Place::Retry(rung) => {
                // Its target first, or what leaves it would wait in vain.
                self.queue(queue).await?;
                let made = self.ensure(&name, topology::retry_arguments(queue, rung, self.default_type)).await;
                if made.is_err()
                    && let Some(rungs) = self.known_rungs().get_mut(queue)
                {
                    // It is gone: whoever settles again takes another, or the ladder.
                    rungs.remove(&rung);
                }
                made.map(drop)
            }
            Place::Ladder(level) => {
                self.due().await?;
                self.level(level).await
            }
        }
    }

    /// Declares what releases and short pauses go through, before anything has gone wrong: of what is declared while a
    /// node of 3.10 goes down a confirmed message may be lost.
    pub(super) async fn ladder_at_start(&self) -> Result<(), BrokerError> {
        if !self.declares {
            return Ok(());
        }
        self.due().await?;
        // Each that can be made is, whatever becomes of another.
        join_all(Ladder::levels_at_start().map(|level| self.level(level))).await.into_iter().collect()
    }

    async fn level(&self, level: Level) -> Result<(), BrokerError> {
        let name = self.ladder.name(level);
        if self.is_seen(&name) {
            return Ok(());
        }
        self.ensure(&name, self.ladder.arguments(level, self.default_type)).await.map(drop)
    }

    /// Declares the queue of what has left a level.
    pub(super) async fn due(&self) -> Result<(), BrokerError> {
        let name = self.ladder.due();
        if self.is_seen(&name) {
            return Ok(());
        }
        self.ensure(&name, topology::keeping_arguments(self.default_type)).await.map(drop)
    }

    /// Makes sure that all of `plan` exists: first what others forward to.
    pub(super) async fn apply(&self, plan: &Plan) -> Result<(), BrokerError> {
        let order = |queue: &&PlannedQueue| match queue.role {
            Role::DeadLetters | Role::Due => 0,
            role if role.forwards() => 2,
            _ => 1,
        };
        let mut queues: Vec<_> = plan.queues.iter().collect();
        queues.sort_by_key(order);
        for queue in queues {
            if let (Role::Jobs, Ok(name)) = (queue.role, queue.name.parse()) {
                self.ask(&name, &queue.asked);
            }
            self.ensure(&queue.name, table(&queue.arguments)).await?;
        }
        for exchange in &plan.exchanges {
            exchanges::declare(self, exchange).await?;
        }
        for binding in &plan.bindings {
            exchanges::bind(self, binding).await?;
        }
        Ok(())
    }

    /// Learns which rungs `queue` has, where none is made.
    pub(super) async fn learn_rungs(&self, queue: &QueueName) -> Result<(), BrokerError> {
        if self.declares {
            return Ok(());
        }
        let mut found = BTreeSet::new();
        for rung in topology::all_rungs() {
            let name = topology::retry(queue, rung);
            match self.depth(&name).await {
                Ok(Some(_)) => drop(found.insert(rung)),
                Ok(None) => {}
                // What may not be looked at is not there for us.
                Err(error) if error.kind == LinkErrorKind::Refused => {}
                Err(error) => return Err(broker_error(&format!("queue `{name}` could not be looked at"), &error)),
            }
        }
        self.known_rungs().insert(queue.clone(), found);
        Ok(())
    }

    /// Whether a queue exists, which is remembered if it does.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, LinkError> {
        let look = async { Ok::<_, LinkError>(self.depth(name).await?.is_some()) };
        let exists = self.looks.shared(name, look).await?;
        if exists {
            self.saw(name);
        }
        Ok(exists)
    }

    /// What is looked at by many at once.
    pub(super) const fn looks(&self) -> &Looks<bool> {
        &self.looks
    }

    /// Finds or creates one queue; whether this created it. Of many that want it at once one looks.
    async fn ensure(&self, name: &str, arguments: FieldTable) -> Result<bool, BrokerError> {
        let mut created = false;
        let look = async {
            created = self.find_or_create(name, arguments).await?;
            Ok(true)
        };
        self.looks.shared(&format!("making of {name}"), look).await?;
        Ok(created)
    }

    async fn find_or_create(&self, name: &str, arguments: FieldTable) -> Result<bool, BrokerError> {
        let created = match self.depth(name).await {
            Ok(Some(_)) => false,
            Ok(None) if !self.declares => return Err(nothing_declared(&format!("queue `{name}`"))),
            Ok(None) => {
                let nature = Nature::read(&arguments);
                let created = self.create(name, arguments).await?;
                if created {
                    self.know(name, Some(nature));
                }
                created
            }
            // Not even looking is allowed: whether it can be used will be seen when it is.
            Err(error) if error.kind == LinkErrorKind::Refused => {
                tracing::debug!(target: TARGET, queue = name, %error, "a queue may not be looked at");
                false
            }
            Err(error) => return Err(broker_error(&format!("queue `{name}` could not be declared"), &error)),
        };
        self.saw(name);
        Ok(created)
    }

    async fn create(&self, name: &str, arguments: FieldTable) -> Result<bool, BrokerError> {
        let failed = |error: &LinkError| broker_error(&format!("queue `{name}` could not be declared"), error);
        let channel = self.channel().await.map_err(|error| failed(&error))?;
        let declared = channel.declare(name, Declare::Durable(arguments)).await;
        if declared.is_ok() {
            channel.close().await;
        }
        // Its place is for the next question, which may be ours.
        drop(channel);
        match declared {
            Ok(_) => Ok(true),
            // Somebody else was faster, with other arguments: then it is theirs.
            Err(error) if error.kind == LinkErrorKind::Mismatch => match self.depth(name).await {
                Ok(Some(_)) => Ok(false),
                _ => Err(BrokerError::new(BrokerErrorKind::Permanent, mismatch(name, &error.text))),
            },
            Err(error) => Err(failed(&error)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That a queue is not what was asked for, with the ways out.
fn differs(queue: &str, argument: &str, found: &str, asked: &str) -> String {
    let limit = match argument {
        topology::QUEUE_TYPE | topology::MAX_PRIORITY => " (no policy can change that)",
        _ => " (a policy can change limits without that)",
    };
    format!(
        "queue `{queue}` exists with `{argument}` = {found}, and {asked} was asked for; use it as it is, choose \
         another name, or delete it when it is empty{limit}"
    )
}

/// Something is missing, and is not ours to make. It may be made any time.
pub(super) fn nothing_declared(what: &str) -> BrokerError {
    let message = format!(
        "{what} does not exist, and this program declares nothing (`topology` is `check`): \
         `topology export` shows what an administrator has to make, `topology apply` makes it"
    );
    BrokerError::new(BrokerErrorKind::Transient, message)
}

/// What a refused declaration means, with the ways out.
///
/// The server names the first argument that differs:
/// `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value '1' of type 'signedint'`
pub(super) fn mismatch(queue: &str, told: &str) -> String {
    let quoted = |after: &str| told.split_once(after)?.1.split('\'').next().map(str::to_owned);
    let value = |after: &str| {
        let rest = told.split_once(after)?.1;
        Some(if rest.starts_with("none") { "none".to_owned() } else { rest.split('\'').nth(1)?.to_owned() })
    };
    match (quoted("inequivalent arg '"), value("received "), value("current is ")) {
        (Some(argument), Some(ours), Some(theirs)) => differs(queue, &argument, &theirs, &ours),
        _ => format!("queue `{queue}` cannot be declared: {told}"),
    }
}

/// What the caller can do about `error`.
pub(super) fn broker_error(what: &str, error: &LinkError) -> BrokerError {
    let kind = match error.kind {
        LinkErrorKind::Mismatch | LinkErrorKind::NotFound => BrokerErrorKind::Permanent,
        // A worker goes on when a person has restored the rights; a pause grows meanwhile.
        LinkErrorKind::Refused | LinkErrorKind::Hopeless | LinkErrorKind::Locked | LinkErrorKind::Gone => {
            BrokerErrorKind::Transient
        }
    };
    BrokerError::new(kind, format!("{what}: {error}"))
}

/// Questions to the server that are under way at once. A connection has 2,047 channels, and each costs one.
const CHANNELS_AT_ONCE: usize = 64;

/// How long a declaration may take in all.
pub(super) const DECLARE_WAIT_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_queue_argument_both_values_and_the_ways_out() {
        let told = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'orders' in vhost '/': received \
                    none but current is the value '86400000' of type 'signedint'";
        let text = mismatch("orders", told);
        for part in ["`orders`", "`x-message-ttl` = 86400000", "none was asked for", "another name", "delete it"] {
            assert!(text.contains(part), "{text}");
        }
        let told = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the \
                    value 'quorum' of type 'longstr' but current is the value 'classic' of type 'longstr'";
        assert!(mismatch("q", told).contains("`x-queue-type` = classic, and quorum was asked for"));
        assert!(mismatch("q", "invalid arg").contains("invalid arg"));
    }
}
