//! What becomes of jobs that were said to be enqueued, when their producer ends right after the last `Ok`.

use serde::Serialize;

use crate::{
    peer::{OURS, Peer, Store},
    program::Programs,
    site::Site,
};

/// More would show nothing else.
const JOBS_MAX: u64 = 30_000;

/// How many were lost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Loss {
    pub(crate) name: &'static str,
    pub(crate) store: &'static str,
    /// In each run.
    pub(crate) jobs: u64,
    /// Of each run.
    pub(crate) lost: Vec<u64>,
}

/// For a peer and for ours, where it was measured beside it; on RabbitMQ, where `Ok` may mean that nobody has answered.
pub(crate) async fn run(peer: &Peer, programs: &Programs, site: &mut Site, runs: usize) -> Result<Vec<Loss>, String> {
    if !matches!(peer.store, Store::RabbitMq(_)) || runs == 0 {
        return Ok(Vec::new());
    }
    let ours = peer.beside.iter().map(|beside| (OURS, beside.store)).next();
    let mut losses = Vec::new();
    for (peer, store) in [(*peer, peer.store)].into_iter().chain(ours) {
        let jobs = site.jobs(&peer).min(JOBS_MAX);
        let mut lost = Vec::new();
        for run in 0..runs {
            let place = site.place(store).await?;
            programs.run(&peer, "enqueue", &place, jobs).await?;
            let there = place.settle(site.node(), programs, &peer, jobs).await?;
            eprintln!("{} loss {}/{runs}: {there} of {jobs} jobs are there", peer.name, run + 1);
            lost.push(jobs.saturating_sub(there));
        }
        losses.push(Loss { name: peer.name, store: store.name(), jobs, lost });
    }
    Ok(losses)
}
