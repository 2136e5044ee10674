//! Which handlers a worker has, by name.
//!
//! Handlers are found through `inventory`, which collects them when the program
//! is linked, or registered one by one, for tests that must not see each other's.
//! What is wrong with them is found before the first job is taken, all of it at once.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use crate::{
    broker::{Capabilities, Needs, Topology, once},
    envelope::Priority,
    exchange::{Binding, Exchange, ExchangeKind, key_problem},
    handler::{Handler, Registration, States},
    job::{JobOptions, On},
    name::{DEAD_LETTER_SUFFIX, InvalidName, JobName, QueueName},
    queue::{QueueOptions, is_run_from},
    shard,
};

inventory::collect!(Registration);

/// The handlers of a worker.
///
/// # Examples
///
/// ```
/// use worker_core::{Registry, prelude::*};
///
/// #[job(queue = "emails")]
/// async fn send_welcome(user_id: u64) {}
///
/// # fn main() {
/// let registry = Registry::new().with::<send_welcome>();
/// assert_eq!(registry.queues()[0], "emails");
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    entries: Vec<Arc<Entry>>,
    problems: Vec<String>,
    by_name: HashMap<JobName, usize>,
}

/// One handler with its names checked.
pub(crate) struct Entry {
    /// Its place among the registry's.
    pub(crate) number: usize,
    pub(crate) name: JobName,
    pub(crate) queue: QueueName,
    pub(crate) registration: Registration,
    /// What it asks of its queue.
    pub(crate) asked: QueueOptions,
    /// What its queue gets copies of.
    pub(crate) on: Option<Listening>,
}

/// An exchange that a job runs for, with its names checked.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) exchange: Exchange,
    pub(crate) keys: Vec<String>,
}

/// Whether jobs of `queue` or their dead letters are in the queue `name`. Each shard has dead letters of its own,
/// called like it, and a queue may get more shards later.
fn lies_in(name: &QueueName, queue: &QueueName, asked: &QueueOptions) -> bool {
    let usual = || name.as_str().strip_suffix(DEAD_LETTER_SUFFIX)?.parse::<QueueName>().ok();
    let is_dead = asked
        .dead_letter_queue
        .as_ref()
        .map_or_else(|| usual().is_some_and(|of| shard::is_of(&of, queue)), |dead| shard::is_of(name, dead));
    is_dead || is_run_from(name, queue)
}

impl Registry {
    /// Without handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With every handler that was linked into this program.
    ///
    /// A library crate whose jobs nobody mentions is left out by the linker:
    /// one `use my_jobs as _;` brings them in.
    #[must_use]
    pub fn discovered() -> Self {
        let mut found: Vec<_> = inventory::iter::<Registration>.into_iter().copied().collect();
        // `inventory` promises no order.
        found.sort_by_key(|registration| (registration.name, registration.file, registration.line));
        found.into_iter().fold(Self::new(), Self::with_registration)
    }

    /// With the handler of `J` too.
    #[must_use]
    #[track_caller]
    pub fn with<J: Handler>(self) -> Self {
        let caller = std::panic::Location::caller();
        self.with_registration(Registration::new::<J>(caller.file(), caller.line()))
    }

    fn with_registration(mut self, registration: Registration) -> Self {
        let here = format!("{}:{}", registration.file, registration.line);
        let (name, queue) = match (registration.name.parse::<JobName>(), registration.queue.parse::<QueueName>()) {
            (Ok(name), Ok(queue)) => (name, queue),
            (name, queue) => {
                let problems = [name.err(), queue.err()];
                self.problems.extend(problems.into_iter().flatten().map(|problem| format!("{problem} ({here})")));
                return self;
            }
        };
        let index = self.entries.len();
        let mut names = vec![name.clone()];
        for alias in registration.options.aliases {
            match alias.parse() {
                Ok(alias) => names.push(alias),
                Err(problem) => self.problems.push(format!("alias of job `{name}`: {problem} ({here})")),
            }
        }
        for known_as in names {
            if let Some(&other) = self.by_name.get(&known_as) {
                if other != index {
                    let other = &self.entries[other].registration;
                    self.problems.push(format!(
                        "two jobs are called `{known_as}`: {}:{} and {here}; give one of them `name = \"…\"`",
                        other.file, other.line
                    ));
                }
                continue;
            }
            self.by_name.insert(known_as, index);
        }
        let asked = registration.options.queue_options().unwrap_or_else(|problem| {
            self.problems.push(format!("`dead_letter_queue` of job `{name}`: {problem} ({here})"));
            QueueOptions::default()
        });
        self.problems.extend(self.problems_of_queue(&name, &queue, &asked, &registration));
        let whole = shard::whole(&queue);
        if whole != queue {
            self.problems.push(format!(
                "the queue of job `{name}`, `{queue}`, is called like a shard of `{whole}`; give it another name ({here})"
            ));
        }
        // Not among the problems of the options themselves: those of a shard name the dead letters of a shard.
        if let Some(dead) = asked.dead_letter_queue.as_ref().filter(|dead| shard::number(dead) > 0) {
            self.problems.push(format!(
                "`dead_letter_queue` of job `{name}` is `{dead}`, which is called like a shard of `{}`; give it another \
                 name ({here})",
                shard::whole(dead)
            ));
        }
        if let (Some(on), Some(shards)) = (registration.options.on, asked.shards) {
            self.problems.push(format!(
                "job `{name}` runs for exchange `{}` and its queue has `shards = {shards}`, each of which would get a \
                 copy; remove one of the two ({here})",
                on.exchange
            ));
        }
        let on = registration.options.on.and_then(|on| match listening(&on) {
            Ok(on) => Some(on),
            Err(problem) => {
                self.problems.push(format!("job `{name}`: {problem} ({here})"));
                None
            }
        });
        self.entries.push(Arc::new(Entry { number: index, name, queue, registration, asked, on }));
        self
    }

    /// What is wrong with what a job asks of its queue, by itself and beside those that were registered before.
    fn problems_of_queue(
        &self,
        name: &JobName,
        queue: &QueueName,
        asked: &QueueOptions,
        Registration { file, line, options, .. }: &Registration,
    ) -> Vec<String> {
        let this = format!("`{name}` ({file}:{line})");
        let ranked = || asked.refusal(options.priority).filter(|_| options.priority != Priority::DEFAULT);
        let own = asked.problem(queue).or_else(ranked).map(|problem| format!("job {this}: {problem}"));
        let that = |other: &Entry| {
            let Registration { file, line, .. } = &other.registration;
            format!("`{}` ({file}:{line})", other.name)
        };
        // To ask for nothing is to differ, too: a program that only has that job would make another queue.
        let differs = |other: &&Arc<Entry>| other.queue == *queue && other.asked != *asked;
        let beside = self.entries.iter().find(differs).map(|other| {
            format!(
                "jobs {} and {this} ask for different things of queue `{queue}`: {} and {asked}; write the same on \
                 both, or give one of them another queue",
                that(other),
                other.asked
            )
        });
        // Whose a dead letter is would not be known.
        let shared = self.entries.iter().filter(|other| other.queue != *queue).find_map(|other| {
            let named = |asked: &QueueOptions| asked.dead_letter_queue.clone();
            let dead = named(asked).filter(|dead| lies_in(dead, &other.queue, &other.asked));
            let dead = dead.or_else(|| named(&other.asked).filter(|dead| lies_in(dead, queue, asked)))?;
            Some(format!(
                "jobs {} and {this} are of two queues, `{}` and `{queue}`, and both use `{dead}`; give each a \
                 `dead_letter_queue` of its own",
                that(other),
                other.queue
            ))
        });
        own.into_iter().chain(beside).chain(shared).collect()
    }

    /// What the jobs of `queue` ask of it; they agree, or no worker starts.
    fn queue_options(&self, queue: &QueueName) -> QueueOptions {
        let Some(entry) = self.entries.iter().find(|entry| shard::is_of(queue, &entry.queue)) else {
            return QueueOptions::default();
        };
        match shard::number(queue) {
            0 => entry.asked.clone(),
            n => entry.asked.of_shard(n),
        }
    }

    /// The queues that `queue` is in the broker: itself and its other shards. One that is named is one.
    pub(crate) fn shards(&self, queue: &QueueName) -> Vec<QueueName> {
        self.queue_options(queue).queues(queue)
    }

    /// What must exist for the jobs of `queue`: itself with all of its shards, and what its jobs run for.
    pub(crate) fn topology(&self, queue: &QueueName) -> Topology {
        self.topology_with(queue, self.queue_options(queue))
    }

    /// The same for one queue of the broker, be it a shard or not.
    pub(crate) fn topology_of_one(&self, queue: &QueueName) -> Topology {
        let options = self.queue_options(queue);
        self.topology_with(queue, options.of_shard(0))
    }

    fn topology_with(&self, queue: &QueueName, options: QueueOptions) -> Topology {
        let mut topology = Topology::default().queue(queue.clone(), options);
        for entry in self.entries.iter().filter(|entry| entry.queue == *queue) {
            let Some(Listening { exchange, keys }) = &entry.on else { continue };
            topology = topology.exchange(exchange.name.clone(), exchange.kind);
            for key in keys {
                topology = topology.bind(Binding::by_key(exchange.name.clone(), queue.clone(), key));
            }
        }
        topology
    }

    /// What the jobs of `queues` need: the queues, what they run for, and how they are retried.
    ///
    /// # Examples
    ///
    /// ```
    /// use worker_core::{Client, Registry, prelude::*};
    ///
    /// #[job(queue = "emails")]
    /// async fn greet(name: String) {}
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = Registry::new().with::<greet>();
    /// let plan = client.broker().plan(&registry.needs(&registry.queues()));
    /// client.broker().apply(&plan).await?; // Everything that its jobs will ever need.
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn needs(&self, queues: &[QueueName]) -> Needs {
        let mut topology = Topology::default();
        for queue in queues {
            let Topology { queues, exchanges, bindings, options } = self.topology(queue);
            topology.queues.extend(queues);
            topology.exchanges.extend(exchanges);
            topology.bindings.extend(bindings);
            topology.options.extend(options);
        }
        let Topology { queues, exchanges, bindings, options } = topology;
        let needs = Needs::new(Topology {
            queues: once(&queues),
            exchanges: once(&exchanges),
            bindings: once(&bindings),
            options,
        });
        let queues = needs.topology.queues.clone();
        self.entries.iter().fold(needs, |needs, entry| {
            let of_entry = queues.iter().filter(|queue| shard::is_of(queue, &entry.queue));
            of_entry.fold(needs, |needs, queue| needs.retried(queue.clone(), entry.registration.options.retry))
        })
    }

    /// The job of `queue` that runs for what is published to `exchange`.
    ///
    /// Whatever name a publisher gave its message: that is the event's, not a job's.
    pub(crate) fn listener(&self, queue: &QueueName, exchange: &str) -> Option<&Arc<Entry>> {
        let on = |entry: &&Arc<Entry>| entry.on.as_ref().is_some_and(|on| on.exchange.name == *exchange);
        self.of_queue(queue).find(on)
    }

    /// The handlers of the jobs in `queue`, which may be a shard of theirs.
    pub(crate) fn of_queue(&self, queue: &QueueName) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().filter(move |entry| shard::is_of(queue, &entry.queue))
    }

    /// The queues of all handlers, by name, each once; of a queue with shards, its own name alone.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueName> {
        let mut queues: Vec<_> = self.entries.iter().map(|entry| entry.queue.clone()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// All handlers, by name.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|entry| &**entry)
    }

    /// All names and aliases.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.by_name.keys().map(JobName::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The handler for a job of this name that came from `queue`.
    ///
    /// A job whose type moved to another queue is still known under its name. A
    /// message without a name belongs to the queue's only job.
    pub(crate) fn find(&self, queue: &QueueName, name: Option<&JobName>) -> Option<&Arc<Entry>> {
        match name {
            Some(name) => self.by_name.get(name).map(|&index| &self.entries[index]),
            None => {
                let mut of_queue = self.of_queue(queue);
                of_queue.next().filter(|_| of_queue.next().is_none())
            }
        }
    }

    /// The handler of this name, alone.
    #[cfg(feature = "cli")]
    pub(crate) fn find_by_name(&self, name: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(name).map(|&index| &self.entries[index])
    }

    /// What is wrong with the handlers themselves: their names, and names that two of them have.
    #[cfg(any(test, feature = "cli"))]
    pub(crate) fn own_problems(&self) -> &[String] {
        &self.problems
    }

    /// The jobs of `queues` that may run longer than a delivery may be held: they would run again meanwhile.
    pub(crate) fn too_long(&self, queues: &[QueueName], limit: Duration) -> Vec<String> {
        let is_served = |entry: &&Arc<Entry>| queues.iter().any(|queue| shard::is_of(queue, &entry.queue));
        let served = self.entries.iter().filter(is_served);
        let too_long = served.filter(|entry| entry.registration.options.timeout >= limit);
        let problem = |entry: &Arc<Entry>| {
            let Entry { name, registration: Registration { file, line, options, .. }, .. } = &**entry;
            let [may, limit] = [options.timeout, limit].map(humantime::format_duration);
            format!(
                "job `{name}` ({file}:{line}) may run for {may}, and the server takes a job away after {limit} and has \
                 it run again: give it a shorter `timeout`; or raise `consumer_timeout` of the server and say so \
                 (WORKER_RABBITMQ_CONSUMER_TIMEOUT); or use RabbitMQ 4.3, where the worker says how long it takes"
            )
        };
        too_long.map(problem).collect()
    }

    /// Everything that would go wrong in a worker that serves `queues` with `states` on such a broker.
    pub(crate) fn problems(&self, queues: &[QueueName], states: &States, broker: &Capabilities) -> Vec<String> {
        let mut problems = self.problems.clone();
        let is_served = |entry: &&Arc<Entry>| queues.iter().any(|queue| shard::is_of(queue, &entry.queue));
        for entry in self.entries.iter().filter(is_served) {
            let Entry { name, registration: Registration { file, line, requirements, options, .. }, .. } = &**entry;
            for missing in requirements().into_iter().filter(|requirement| !states.satisfies(requirement)) {
                problems.push(format!(
                    "job `{name}` ({file}:{line}) needs `State<{}>`, which was not given: add `.state(…)`; given: {}",
                    missing.type_name(),
                    match &*states.type_names() {
                        [] => "none".into(),
                        names => names.join(", "),
                    }
                ));
            }
            if options.priority != Priority::DEFAULT && !has_priorities(options, broker) {
                let ways_out = if broker.queue_priorities {
                    "remove it, or write `queue_type = \"classic\", max_priority = 10` on all jobs of a queue with a new name"
                } else {
                    "remove the priority or choose another broker"
                };
                problems.push(format!(
                    "job `{name}` ({file}:{line}) asks for priority {}, which {} cannot honour; {ways_out}",
                    options.priority,
                    broker.server.clone().unwrap_or_else(|| format!("the {} broker", broker.broker))
                ));
            }
            let Some(Listening { exchange, .. }) = &entry.on else { continue };
            if !broker.exchanges {
                problems.push(format!(
                    "job `{name}` ({file}:{line}) runs for exchange `{}`, and the {} broker has no exchanges; choose another broker",
                    exchange.name, broker.broker
                ));
            }
            let others = self.entries.iter().filter(|other| other.name < entry.name);
            for (other, theirs) in others.filter_map(|other| Some((other, &other.on.as_ref()?.exchange))) {
                let Registration { file: file_2, line: line_2, .. } = &other.registration;
                let both = format!("jobs `{}` ({file_2}:{line_2}) and `{name}` ({file}:{line})", other.name);
                if theirs.name == exchange.name && theirs.kind != exchange.kind {
                    problems.push(format!(
                        "{both} run for exchange `{}`, one as {} and one as {}; it has one kind",
                        exchange.name, theirs.kind, exchange.kind
                    ));
                } else if theirs.name == exchange.name && other.queue == entry.queue {
                    problems.push(format!(
                        "{both} run for exchange `{}` from one queue, `{}`, where only one copy arrives; give each a queue of its own",
                        exchange.name, entry.queue
                    ));
                }
            }
        }
        problems
    }
}

/// Whether priorities count in the queue of a job with these options.
const fn has_priorities(options: &JobOptions, broker: &Capabilities) -> bool {
    match options.max_priority {
        Some(_) => broker.queue_priorities,
        None => broker.priorities || broker.two_priorities,
    }
}

/// What a job runs for, with its names checked.
fn listening(on: &On) -> Result<Listening, String> {
    let On { exchange, kind, keys } = *on;
    let name = exchange.parse().map_err(|error: InvalidName| error.to_string())?;
    if let Some(problem) = keys.iter().find_map(|key| key_problem(key)) {
        return Err(problem);
    }
    let keys = match (kind, keys) {
        (ExchangeKind::Topic, []) => vec!["#".to_owned()],
        (ExchangeKind::Fanout, _) => vec![String::new()],
        (ExchangeKind::Direct, []) => {
            return Err(format!("a direct exchange sends by key: say which keys of `{exchange}` it runs for"));
        }
        (ExchangeKind::Headers, _) => {
            return Err(format!("`{exchange}` sends by headers: bind the queue with `Client::declare`"));
        }
        (_, keys) => keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    Ok(Listening { exchange: Exchange::new(name, kind), keys })
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| entry.registration)).finish()
    }
}

#[cfg(test)]
mod tests;
