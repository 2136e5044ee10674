//! P12: many small jobs in one message, against one message per job.

use crate::{
    measure::{Goal, Line},
    stage::Stage,
};

pub(crate) async fn bundles(_: &Stage) -> Vec<Line> {
    vec![
        Line::rate("bundles of 100, end to end", Goal::RatioAtLeast(10.0), Vec::new())
            .beside("bare lapin, a message per job", Vec::new()),
    ]
}
