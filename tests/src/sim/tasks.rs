//! The jobs of a simulated world: each does what the plan says for its attempt.

use std::{panic::resume_unwind, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use worker_core::{Context, Enqueue, Handler, Job, JobError, JobOptions, JobResult, Prepared, Registry, Requirement};

use crate::sim::{
    plan::{Act, JobPlan, Type},
    record::What,
    stage::Incarnation,
};

macro_rules! task {
    ($type:ident, $name:literal, $of:expr) => {
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) struct $type {}

        impl Job for $type {
            const NAME: &'static str = $name;
            const QUEUE: &'static str = $of.queue();
            const OPTIONS: JobOptions = $of.options();
            type Return = ();
        }

        impl Handler for $type {
            fn requirements() -> Vec<Requirement> {
                vec![Requirement::state::<Incarnation>()]
            }

            async fn run(self, cx: Context) -> JobResult {
                run(cx).await
            }
        }
    };
}

task!(Steady, "steady", Type::Steady);
task!(Fragile, "fragile", Type::Fragile);
task!(Single, "single", Type::Single);

/// The handlers of these types.
pub(super) fn registry(types: &[Type]) -> Registry {
    types.iter().fold(Registry::new(), |registry, of_type| match of_type {
        Type::Steady => registry.with::<Steady>(),
        Type::Fragile => registry.with::<Fragile>(),
        Type::Single => registry.with::<Single>(),
    })
}

/// The job of this plan, ready to be enqueued.
pub(super) fn prepared(plan: &JobPlan) -> Prepared {
    fn with<J: Job>(job: J, plan: &JobPlan) -> Prepared {
        let job = Enqueue::new(job).id(plan.id.parse().unwrap()).delay(plan.delay);
        let job = if plan.bundle > 1 { job.bundle(plan.bundle) } else { job.priority(plan.priority) };
        let job = if let Some(time) = plan.expires_in { job.expires_in(time) } else { job };
        job.erase().unwrap()
    }
    match plan.of_type {
        Type::Steady => with(Steady {}, plan),
        Type::Fragile => with(Fragile {}, plan),
        Type::Single => with(Single {}, plan),
    }
}

/// Writes down that a run ended, also when it is dropped.
struct Ending {
    incarnation: Arc<Incarnation>,
    job: String,
    attempt: u32,
    itself: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (job, attempt, itself) = (self.job.clone(), self.attempt, self.itself);
        self.incarnation.write(What::Returned { job, attempt, itself });
    }
}

async fn run(cx: Context) -> JobResult {
    let incarnation = cx.state::<Incarnation>()?;
    let (job, attempt) = (cx.id().to_string(), cx.attempt());
    incarnation.write(What::Ran { job: job.clone(), attempt });
    let plan = incarnation.stage.plan.job(&job).clone();
    let stage = Arc::clone(&incarnation.stage);
    let mut ending = Ending { incarnation, job, attempt, itself: false };
    if !plan.work.is_zero() {
        sleep(plan.work).await;
    }
    if stage.snoozes(&plan) {
        ending.itself = true;
        return Err(JobError::snooze(plan.work / 2));
    }
    let act = plan.act(attempt);
    if act == Act::Hang {
        std::future::pending::<()>().await;
    }
    ending.itself = true;
    match act {
        Act::Succeed | Act::Hang => Ok(()),
        Act::Fail => Err("the plan says so".into()),
        // Without the panic hook's lines.
        Act::Panic => resume_unwind(Box::new("the plan says so")),
        Act::Discard => Err(JobError::discard("the plan says so")),
        Act::RetryIn(pause) => Err(JobError::retry_in(pause, "the plan says so")),
    }
}
