//! What the worker supplies: state, the context, and an extractor of one's own.

use std::fmt::Debug;

use worker_core::{Argument, Arguments, Context, Handler, JobContext, JobResult, Requirement, State, Supplied, job};

use serde_json::json;

struct Mailer;

trait Clock: Send + Sync {
    fn hour(&self) -> u8;
}

impl Clock for u8 {
    fn hour(&self) -> u8 {
        *self
    }
}

#[derive(Debug)]
pub(crate) struct Tenant(String);

impl Supplied for Tenant {
    fn requirements() -> Vec<Requirement> {
        vec![Requirement::state::<String>()]
    }

    fn supply(cx: &Context) -> JobResult<Self> {
        cx.state::<String>().map(|state| Self((*state).clone()))
    }
}

type Db = State<Vec<u8>>;

#[job]
#[expect(unused_qualifications, clippy::too_many_arguments, reason = "a path, and all there is, is what is tested")]
async fn ui_supplied(
    /// Documented, though it is nothing that anybody passes.
    cx: Context,
    hour: u8,
    mailer: State<Mailer>,
    clock: worker_core::State<dyn Clock>,
    again: JobContext,
    #[supplied] Tenant(tenant): Tenant,
    /* Behind an alias. */ #[supplied] db: Db,
    call: State<dyn for<'a> Fn(&'a str) -> &'a str + Send + Sync>,
) -> bool {
    let Mailer = *mailer;
    assert_eq!(cx.id(), again.id());
    clock.hour() == hour && tenant.is_empty() && db.is_empty() && call("a") == "a"
}

/// The payload is public where the state is private.
#[job]
#[expect(private_interfaces, reason = "the compiler says so of the function, once")]
pub(crate) async fn ui_private_state(n: u8, _mailer: State<Mailer>) -> bool {
    n == 1
}

#[test]
fn supplied_arguments_are_not_payload() {
    assert_eq!(serde_json::to_value(ui_supplied::new(12).into_job()).unwrap(), json!({"hour": 12}));
    const HOUR: &[Argument] = &[Argument { name: "hour", type_text: "u8", required: true }];
    assert_eq!(ui_supplied::ARGUMENTS, Arguments::Named(HOUR));
}

#[test]
fn the_worker_is_told_what_it_must_be_given() {
    let names: Vec<_> = ui_supplied::requirements().iter().map(Requirement::type_name).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for (name, part) in names.iter().zip(["Mailer", "dyn ", "String", "Vec<u8>", "Fn"]) {
        assert!(name.contains(part), "{names:?}");
    }
}

#[tokio::test]
async fn a_test_passes_what_it_likes() {
    assert!(ui_private_state(1, State::new(Mailer)).await);
}
