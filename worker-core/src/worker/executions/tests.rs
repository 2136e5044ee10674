//! What a group leaves behind when something happens in the middle of it.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::yield_now};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    envelope::{Body, Headers},
    handler::{Context, ContextParts, Handler, States},
    id::JobId,
    job::Job,
    outcome::JobResult,
    registry::{Entry, Registry},
    time::Timestamp,
};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Probe {
    Ends,
    Waits,
    /// Has the worker abort.
    Aborts,
    /// Has the worker be dropped.
    Drops,
    /// Does 20 of what tokio counts, of which a task may do 128 at once.
    Counts,
}

impl Job for Probe {
    const NAME: &'static str = "probe";
    type Return = ();
}

impl Handler for Probe {
    async fn run(self, cx: Context) -> JobResult<()> {
        let stage = cx.state::<Stage>()?;
        stage.began.lock().unwrap().push(cx.id().to_string().parse().unwrap());
        match self {
            Self::Ends => {}
            Self::Waits => pending().await,
            Self::Aborts => stage.executions.lock().unwrap().as_mut().unwrap().abort(),
            Self::Drops => drop(stage.executions.lock().unwrap().take()),
            Self::Counts => {
                for _ in 0..20 {
                    drop(stage.permits.acquire().await.unwrap());
                }
            }
        }
        Ok(())
    }
}

/// The executions where handlers can reach them, and which of these began.
struct Stage {
    executions: Mutex<Option<Executions>>,
    began: Mutex<Vec<usize>>,
    permits: Semaphore,
    entry: Arc<Entry>,
}

impl Stage {
    /// On which the type is quick already.
    async fn of_a_quick_type() -> Arc<Self> {
        let registry = Registry::new().with::<Probe>();
        let (queue, name) = (Probe::QUEUE.parse().unwrap(), Probe::NAME.parse().unwrap());
        let entry = Arc::clone(registry.find(&queue, Some(&name)).unwrap());
        let executions = Executions::new(Handle::current());
        let stage = Arc::new(Self {
            executions: Mutex::new(Some(executions)),
            began: Mutex::default(),
            permits: Semaphore::new(100),
            entry,
        });
        stage.start(&[Probe::Ends; 16]);
        assert_eq!(stage.ended(16).await, (0..16).map(|key| (key, true)).collect::<Vec<_>>());
        stage.began.lock().unwrap().clear();
        stage
    }

    /// Starts these in one round, the first as 0.
    fn start(self: &Arc<Self>, probes: &[Probe]) {
        let mut executions = self.executions.lock().unwrap();
        let executions = executions.as_mut().unwrap();
        for (key, probe) in probes.iter().enumerate() {
            let mut states = States::default();
            states.insert(Arc::clone(self));
            let cx = Context::new(ContextParts {
                id: key.to_string().parse::<JobId>().unwrap(),
                job: self.entry.name.clone(),
                queue: self.entry.queue.clone(),
                attempt: 1,
                enqueued_at: Timestamp::default(),
                timeout: Duration::from_secs(30),
                headers: Headers::default(),
                is_call: false,
                stopping: CancellationToken::new(),
                states: Arc::new(states),
            });
            let body = Body(serde_json::to_vec(probe).unwrap().into());
            let span = tracing::Span::none();
            executions.start(Execution { key, entry: Arc::clone(&self.entry), body, cx, span }, true);
        }
        executions.end_round();
    }

    /// Those that ended, and whether by themselves, once they are so many.
    async fn ended(&self, count: usize) -> Vec<(usize, bool)> {
        let mut ended = Vec::new();
        for _ in 0..1_000 {
            let now = self.executions.lock().unwrap().as_mut().unwrap().take_ended();
            ended.extend(now.into_iter().map(|ended| (ended.key, ended.outcome.is_some())));
            if ended.len() >= count {
                ended.sort_unstable();
                return ended;
            }
            yield_now().await;
        }
        panic!("only these ended: {ended:?}");
    }

    fn began(&self) -> Vec<usize> {
        self.began.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_in_the_middle_of_a_group_cancels_what_waits_and_begins_nothing_more() {
    let stage = Stage::of_a_quick_type().await;
    stage.start(&[Probe::Ends, Probe::Waits, Probe::Aborts, Probe::Ends]);
    assert_eq!(stage.ended(4).await, [(0, true), (1, false), (2, true), (3, false)]);
    assert_eq!(stage.began(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_dropped_in_the_middle_of_a_group_begins_nothing_more() {
    let stage = Stage::of_a_quick_type().await;
    stage.start(&[Probe::Ends, Probe::Drops, Probe::Ends, Probe::Ends]);
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(stage.began(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_a_task_may_do_at_once_is_not_shared_to_anybodys_harm() {
    let stage = Stage::of_a_quick_type().await;
    stage.start(&[Probe::Counts; 16]);
    assert_eq!(stage.ended(16).await, (0..16).map(|key| (key, true)).collect::<Vec<_>>());
    assert!(stage.executions.lock().unwrap().as_ref().unwrap().quickness.is_quick(stage.entry.number));
}
