//! A run of real processes on real servers, which a seed torments, and the count at its end: `cargo torture`.
//!
//! [`run`](mod@run) is the whole of it. Its parts, in the order in which data goes through them: the [`plan`], by which
//! the [`stage`] is set and the [`crew`] begins; the [`nemesis`] harms both; each process puts down its [`record`]s; the
//! [`check`](mod@check) holds them against what each job's [`fate`] says; the [`report`] says what came out.
//!
//! Made of the same parts: [`shutdowns`](mod@shutdowns), workers that are asked to end over and over, and
//! [`away`](mod@away), a server that is away for a while. Others stand alone, about a SQLite file: [`torn`](mod@torn),
//! what a loss of power leaves of it; [`full`](mod@full), a disk without room for it; [`rotten`](mod@rotten), a disk
//! that does not keep what was written.

pub mod apart;
pub mod away;
pub mod check;
pub mod crew;
pub mod fate;
pub mod full;
pub mod nemesis;
pub mod plan;
pub mod record;
pub mod report;
pub mod rotten;
pub mod run;
pub mod shutdowns;
pub mod stage;
pub mod torn;
