//! What Celery's programs become here: `docs/guides/from-celery.md`, compared with these files and run.

mod errors;
mod neighbour;
mod tasks;
mod workflows;

use crate::excerpts::assert_shown;

#[test]
fn every_program_of_the_page_in_rust_is_run() {
    assert_shown("docs/guides/from-celery.md", "rust", "tests/it/from_celery", "rs");
}
