//! Reading many dead jobs, a page at a time.

use std::{collections::BTreeMap, ops::ControlFlow};

use crate::{
    broker::{DeadJob, Inspector, Page, Selection},
    error::BrokerError,
    time::Timestamp,
};

/// Jobs in one page: with payloads at their usual limit of 1 MiB, at most 200 MiB in memory.
const PAGE: usize = 200;

/// Shows every selected dead job to `visit`, oldest first, until it breaks off.
pub(super) async fn each(
    inspector: &dyn Inspector,
    selection: &Selection,
    mut visit: impl FnMut(DeadJob) -> ControlFlow<()>,
) -> Result<(), BrokerError> {
    let mut page = Page::first(PAGE);
    loop {
        let found = inspector.dead(selection, page).await?;
        for job in found.jobs {
            if visit(job).is_break() {
                return Ok(());
            }
        }
        match found.next {
            Some(cursor) => page = Page::after(cursor, PAGE),
            None => return Ok(()),
        }
    }
}

/// Dead jobs that have something in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) dead: u64,
    pub(super) first_died_at: Timestamp,
    pub(super) last_died_at: Timestamp,
}

/// The selected dead jobs in groups, the largest first.
pub(super) async fn groups<K: Ord>(
    inspector: &dyn Inspector,
    selection: &Selection,
    key: impl Fn(&DeadJob) -> K,
) -> Result<Vec<(K, Group)>, BrokerError> {
    let mut groups = BTreeMap::<K, Group>::new();
    each(inspector, selection, |job| {
        let died = job.died_at;
        let group = groups.entry(key(&job)).or_insert(Group { dead: 0, first_died_at: died, last_died_at: died });
        group.dead += 1;
        group.first_died_at = group.first_died_at.min(died);
        group.last_died_at = group.last_died_at.max(died);
        ControlFlow::Continue(())
    })
    .await?;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.dead));
    Ok(groups)
}

/// The name of a dead job's type, as it is listed.
pub(super) fn job_text(job: &DeadJob) -> String {
    job.job.as_ref().map_or_else(|| "(none)".into(), ToString::to_string)
}
