//! Functions that `#[job]` accepts, by what is particular about them.
//!
//! They are modules of the integration binary, not programs of their own: each
//! program would be linked, and beside one that is, `trybuild` compiles the
//! wrong functions one by one instead of all at once.

mod arguments;
mod attributes;
mod borrows_across_awaits;
mod events;
mod fields_without_clone_or_debug;
mod lints_of_types;
mod named_like_the_job;
mod no_arguments;
mod options;
mod payload;
mod places;
mod renamed_crate;
mod returns;
pub mod strict;
mod supplied;
mod underscores;
