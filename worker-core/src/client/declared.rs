//! Which queues a client has declared, with what was asked of them; and which a batch still needs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    broker::{Broker, Topology},
    envelope::Route,
    error::{BrokerError, BrokerErrorKind},
    job::Prepared,
    name::QueueName,
    queue::QueueOptions,
};

/// The queues that were declared.
#[derive(Default)]
pub(super) struct DeclaredQueues {
    known: Mutex<HashMap<QueueName, QueueOptions>>,
    /// Held while declaring: of thousands of enqueues that come at once, one declares what all need. Each
    /// declaration takes a channel of a server, which has some thousands.
    turn: tokio::sync::Mutex<()>,
}

/// The queues that a batch needs and that were not declared.
#[derive(Default)]
pub(super) struct Missing {
    queues: Vec<(QueueName, QueueOptions)>,
    /// For each job, which of them it needs.
    needed: Vec<Option<usize>>,
}

impl Missing {
    /// Where `queue` is among those that are missing.
    fn place(&mut self, queue: &QueueName, asked: &QueueOptions) -> usize {
        let is_it = |(name, options): &(_, _)| name == queue && options == asked;
        self.queues.iter().position(is_it).unwrap_or_else(|| {
            self.queues.push((queue.clone(), asked.clone()));
            self.queues.len() - 1
        })
    }
}

/// Why some of the queues that were missing cannot be had, by their places.
type Refused = HashMap<usize, BrokerError>;

impl DeclaredQueues {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, QueueOptions>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One was deleted since: whoever tries again has them declared again.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// Takes down what the next job of the batch needs.
    pub(super) fn note(&self, job: &Prepared, missing: &mut Missing) {
        let needed = match job.route() {
            Route::Queue(queue) if self.lock().get(queue) != Some(job.queue_options()) => {
                // All shards at once: while jobs waited for one that is declared later, the next batch would pass
                // those among them that are for another.
                for (shard, asked) in job.shards() {
                    missing.place(&shard, &asked);
                }
                Some(missing.place(queue, job.queue_options()))
            }
            _ => None,
        };
        missing.needed.push(needed);
    }

    /// Declares what is missing; the jobs that need what cannot be had are told why, each in its place.
    ///
    /// # Errors
    ///
    /// The broker could not be asked: that concerns all jobs.
    pub(super) async fn declare(
        &self,
        broker: &dyn Broker,
        missing: &Missing,
    ) -> Result<Vec<Option<BrokerError>>, BrokerError> {
        if missing.queues.is_empty() {
            return Ok(missing.needed.iter().map(|_| None).collect());
        }
        let _turn = self.turn.lock().await;
        let refused = self.declare_queues(broker, &self.still(missing)).await?;
        let why = |needed: &Option<usize>| Some(refused.get(needed.as_ref()?)?.copy());
        Ok(missing.needed.iter().map(why).collect())
    }

    /// What is still missing, with its places: another may have declared it meanwhile.
    fn still(&self, missing: &Missing) -> Vec<(usize, (QueueName, QueueOptions))> {
        let known = self.lock();
        let is_missing = |(_, (name, options)): &(usize, (QueueName, QueueOptions))| known.get(name) != Some(options);
        missing.queues.iter().cloned().enumerate().filter(is_missing).collect()
    }

    async fn declare_queues(
        &self,
        broker: &dyn Broker,
        queues: &[(usize, (QueueName, QueueOptions))],
    ) -> Result<Refused, BrokerError> {
        if queues.is_empty() {
            return Ok(Refused::new());
        }
        let names: BTreeSet<_> = queues.iter().map(|(_, (name, _))| name).collect();
        // Two wishes about one queue are two questions.
        if names.len() == queues.len() {
            match broker.declare(&topology(queues.iter().map(|(_, queue)| queue))).await {
                Ok(_) => {
                    self.lock().extend(queues.iter().map(|(_, queue)| queue.clone()));
                    return Ok(Refused::new());
                }
                Err(error) if error.kind() == BrokerErrorKind::Transient && queues.len() == 1 => return Err(error),
                Err(error) if queues.len() == 1 => return Ok(Refused::from([(queues[0].0, error)])),
                Err(_) => {}
            }
        }
        // One that cannot be had costs the others nothing.
        let mut refused = Refused::new();
        for (place, queue) in queues {
            match broker.declare(&topology([queue])).await {
                Ok(_) => self.lock().extend([queue.clone()]),
                Err(error) => drop(refused.insert(*place, error)),
            }
        }
        Ok(refused)
    }
}

fn topology<'a>(queues: impl IntoIterator<Item = &'a (QueueName, QueueOptions)>) -> Topology {
    queues.into_iter().cloned().fold(Topology::default(), |topology, (name, options)| topology.queue(name, options))
}
