//! A job wherever a function can stand.

use worker_core::{Argument, Arguments, Handler, Job, job};

use serde_json::json;

/// A job in a private module, brought in by one `use` for both its function and its payload.
mod private {
    use worker_core::job;

    #[job]
    pub(super) async fn ui_in_a_module(n: u8) -> bool {
        n == 1
    }

    pub(super) mod inner {
        #[worker_core::job]
        pub(in super::super) fn ui_in_an_inner_module(n: u8) -> bool {
            n == 1
        }
    }
}

use private::{inner::ui_in_an_inner_module, ui_in_a_module};

macro_rules! job_by_macro {
    ($name:ident, $queue:literal, $argument:ident: $type:ty, $body:block) => {
        #[job(queue = $queue, aliases = [$queue])]
        async fn $name($argument: $type) -> bool $body
    };
}

job_by_macro!(ui_by_macro, "by_macro", n: Option<u8>, { n.is_none() });

#[tokio::test]
async fn one_import_brings_the_function_and_the_payload() {
    assert!(ui_in_a_module(1).await && ui_in_an_inner_module(1));
    assert_eq!(ui_in_a_module::new(1).into_job().n, 1);
    assert_eq!(ui_in_an_inner_module::new(1).into_job().n, 1);
}

#[tokio::test]
async fn a_job_can_be_written_by_a_macro() {
    assert_eq!((ui_by_macro::QUEUE, ui_by_macro::OPTIONS.aliases), ("by_macro", &["by_macro"][..]));
    assert!(ui_by_macro(None).await);
    // An `Option` is seen through the invisible group that the macro puts around it.
    const N: &[Argument] = &[Argument { name: "n", type_text: "Option<u8>", required: false }];
    assert_eq!(ui_by_macro::ARGUMENTS, Arguments::Named(N));
}

#[test]
fn a_job_can_stand_in_a_function() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Local(u8);

    #[job]
    fn ui_in_a_function(local: Local) -> bool {
        local == Local(1)
    }

    assert!(ui_in_a_function(Local(1)));
    assert_eq!(serde_json::to_value(ui_in_a_function::new(Local(1)).into_job()).unwrap(), json!({"local": 1}));
}
